// Random masks: a stable radix sort of each sample's noise.
#include <string.h>

#include <vector>

#include "masking.h"

namespace fastssl {
namespace {

struct Item {
  uint64_t key;
  uint32_t index;
};

// Floats as integers of the same order: equal zeros, NaN above everything.
uint64_t ordered(float x) {
  uint32_t bits;
  if (x != x) return 0xffffffff;
  memcpy(&bits, &x, 4);
  if (x == 0) bits = 0;
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}

uint64_t ordered(double x) {
  uint64_t bits;
  if (x != x) return ~0ull;
  memcpy(&bits, &x, 8);
  if (x == 0) bits = 0;
  return bits >> 63 ? ~bits : bits | 1ull << 63;
}

void fill_keys(const RandomMasking& a, int64_t i, int64_t patches, Item* items) {
  for (int64_t j = 0; j < patches; ++j) items[j].index = (uint32_t)j;
  if (!a.noise) {
    const Draw d = a.samples.draw(i);
    for (int64_t block = 0; 4 * block < patches; ++block) {
      const Words w = words_of(d, PURPOSE_RANDOM, (uint32_t)block);
      for (int64_t j = 4 * block; j < 4 * block + 4 && j < patches; ++j) items[j].key = w.w[j - 4 * block];
    }
  } else if (a.float64) {
    for (int64_t j = 0; j < patches; ++j) items[j].key = ordered(static_cast<const double*>(a.noise)[i * patches + j]);
  } else {
    for (int64_t j = 0; j < patches; ++j) items[j].key = ordered(static_cast<const float*>(a.noise)[i * patches + j]);
  }
}

// Sorts by the low bytes of the keys, the least significant first; returns where the result is.
Item* sort(Item* items, Item* spare, int64_t count, int bytes) {
  for (int byte = 0; byte < bytes; ++byte) {
    uint32_t start[256] = {};
    for (int64_t j = 0; j < count; ++j) ++start[items[j].key >> 8 * byte & 255];
    uint32_t sum = 0;
    for (uint32_t& s : start) {
      const uint32_t here = s;
      s = sum, sum += here;
    }
    for (int64_t j = 0; j < count; ++j) spare[start[items[j].key >> 8 * byte & 255]++] = items[j];
    Item* sorted = spare;
    spare = items, items = sorted;
  }
  return items;
}

void mask_sample(const RandomMasking& a, int64_t i, Item* items, Item* spare) {
  const int64_t patches = a.length - a.prefix, keep = a.keep ? a.keep[i] : a.num_keep;
  const int64_t columns = a.num_keep + a.num_masked;
  int64_t* shuffle = a.ids_shuffle + i * columns;
  int64_t* restore = a.ids_restore + i * a.length;
  float* mask = a.mask + i * a.length;
  fill_keys(a, i, patches, items);
  const Item* sorted = sort(items, spare, patches, a.float64 && a.noise ? 8 : 4);
  for (int64_t column = keep; column < a.num_keep; ++column) shuffle[column] = -1;
  for (int64_t column = a.num_keep + a.length - keep; column < columns; ++column) shuffle[column] = -1;
  for (int64_t rank = 0; rank < a.length; ++rank) {
    const int64_t token = rank < a.prefix ? rank : a.prefix + sorted[rank - a.prefix].index;
    const bool masked = rank >= keep;
    const int64_t column = masked ? a.num_keep + rank - keep : rank;
    shuffle[column] = token, restore[token] = column, mask[token] = masked;
  }
}

}  // namespace

void random_masking(const RandomMasking& a) {
  const int64_t patches = a.length - a.prefix;
#pragma omp parallel num_threads(a.samples.threads) if (a.samples.threads > 1 && a.samples.n * patches >= 4096)
  {
    std::vector<Item> memory(2 * patches);
#pragma omp for schedule(static)
    for (int64_t i = 0; i < a.samples.n; ++i) mask_sample(a, i, memory.data(), memory.data() + patches);
  }
}

}  // namespace fastssl
