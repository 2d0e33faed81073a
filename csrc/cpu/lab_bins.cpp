// Colours as Lab and as bins on the CPU, compiled once per instruction set; and the cells, which are made once.
#include "lab_bins.h"

#include <math.h>
#include <stdlib.h>

#include <algorithm>
#include <deque>
#include <mutex>
#include <vector>

namespace fastssl {
namespace {

// The light of each value of a uint8 image, by the curve of sRGB.
struct Curve {
  Curve() {
    for (int i = 0; i < 256; ++i) {
      const double x = i / 255.0;
      light[i] = (float)(x <= 0.04045 ? x / 12.92 : pow((x + 0.055) / 1.055, 2.4));
    }
  }
  float light[256];
};

const Curve CURVE;

}  // namespace
}  // namespace fastssl

#define FASTSSL_VARIANT "lab_bins_rows.h"
#include "variants.h"

namespace fastssl {
namespace {

constexpr float FAR = 1e18f;        // a point whose squared distance is still finite
constexpr float MARGIN = 1e-2f;     // by which a cell is larger than its side, for points that rounding puts there
constexpr float LEEWAY = 1.00001f;  // of squared distances that are equal but for rounding
constexpr size_t KEPT = 4;          // tables

struct Kept {
  std::vector<float> bins;
  int64_t neighbors;
  std::shared_ptr<const Cell[]> cells;
};

// Squares of the least or largest distance of x from [low, low + CELL].
float nearest(float x, float low) {
  const float away = std::max(0.f, std::max(low - MARGIN - x, x - (low + CELL + MARGIN)));
  return away * away;
}

float farthest(float x, float low) {
  const float away = std::max(fabsf(x - (low - MARGIN)), fabsf(x - (low + CELL + MARGIN)));
  return away * away;
}

// A bin counts if it can be no farther away than all of the `neighbors` ones whose farthest corner is nearest.
void fill(Cell& cell, float a, float b, const float* bins, int64_t count, int64_t neighbors, float* work) {
  for (int64_t i = 0; i < count; ++i) work[i] = farthest(bins[2 * i], a) + farthest(bins[2 * i + 1], b);
  std::nth_element(work, work + neighbors - 1, work + count);
  const float reach = work[neighbors - 1] * LEEWAY;
  std::fill_n(cell.a, SLOTS, FAR), std::fill_n(cell.b, SLOTS, FAR), std::fill_n(cell.index, SLOTS, 0);
  int slots = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (!(nearest(bins[2 * i], a) + nearest(bins[2 * i + 1], b) <= reach)) continue;
    if (slots == SLOTS) {
      cell.index[0] = -1;
      return;
    }
    cell.a[slots] = bins[2 * i], cell.b[slots] = bins[2 * i + 1], cell.index[slots] = (int32_t)i, ++slots;
  }
}

}  // namespace

const LabKernels& lab_kernels(const char* capability) { return FASTSSL_PICK(capability); }

std::shared_ptr<const Cell[]> cells_of(const float* bins, int64_t count, int64_t neighbors, int threads) {
  static std::mutex* mutex = new std::mutex;
  static std::deque<Kept>* kept = new std::deque<Kept>;
  if (neighbors > SLOTS) return nullptr;
  const std::lock_guard<std::mutex> lock(*mutex);
  for (const Kept& k : *kept)
    if (k.neighbors == neighbors && (int64_t)k.bins.size() == 2 * count &&
        std::equal(bins, bins + 2 * count, k.bins.begin()))
      return k.cells;
  std::shared_ptr<Cell[]> cells(new Cell[CELLS_A * CELLS_B]);
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    std::vector<float> work((size_t)count);
#pragma omp for schedule(static)
    for (int i = 0; i < CELLS_A * CELLS_B; ++i)
      fill(cells[i], FIRST_A + CELL * (float)(i / CELLS_B), FIRST_B + CELL * (float)(i % CELLS_B), bins, count,
           neighbors, work.data());
  }
  if (kept->size() == KEPT) kept->pop_front();
  kept->push_back({std::vector<float>(bins, bins + 2 * count), neighbors, cells});
  return cells;
}

}  // namespace fastssl
