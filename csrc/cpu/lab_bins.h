// Colours as CIE Lab and as bins of (a, b) on the CPU.
#pragma once

#include <stdint.h>

#include <memory>

#include "tokens.h"

namespace fastssl {

// The plane of a and b, where sRGB has colours, is cut into square cells. Each has the bins that may be among the
// nearest ones of a point in it.
constexpr float CELL = 2;  // its side
constexpr float FIRST_A = -88, FIRST_B = -110;
constexpr int CELLS_A = 94, CELLS_B = 103;
constexpr int SLOTS = 16;  // of a cell: its bins in the order of their numbers, and points that are too far away

struct alignas(64) Cell {
  float a[SLOTS], b[SLOTS];
  int32_t index[SLOTS];  // the first is -1 where there are more bins than slots
};

struct LabBins {
  const void* images;  // [n, 3, height, width]
  ElementType type;
  int64_t sample, channel, row, column;  // strides in elements
  int64_t n, height, width, stride;
  float scale[3], shift[3];  // with which floats are in [0, 1]
  const float* bins;         // [count, 2]
  int64_t count, neighbors;
  float falloff;      // 1 / (2 sigma^2)
  const Cell* cells;  // [CELLS_A, CELLS_B], or null
  int threads;
  float* lab;      // [n, 3, height, width]
  int32_t* index;  // [n, neighbors, ceil(height / stride), ceil(width / stride)]
  float* weight;   // as the index
};

// The kernel of one instruction set.
struct LabKernels {
  void (*encode)(const LabBins&);
};

// `capability` is what at::get_cpu_capability() says: "AVX512", "AVX2" or anything else for the baseline.
const LabKernels& lab_kernels(const char* capability);

// The cells for the nearest ones of bins [count, 2]; null where there are more of them than slots. They are kept for
// the next calls with equal bins.
std::shared_ptr<const Cell[]> cells_of(const float* bins, int64_t count, int64_t neighbors, int threads);

}  // namespace fastssl
