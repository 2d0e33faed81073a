// Patches of a jittered grid on the CPU.
#pragma once

#include <cstdint>

#include "../common/masking.h"

namespace fastssl {

struct ExtractPatches {
  const void* images;  // [n, channels, grid.image_height, grid.image_width]
  ElementType type;
  int64_t sample, channel, row, column;  // strides in elements
  int64_t n, channels;
  uint64_t seed;
  const int64_t* ids;  // [n], or null for 0 .. n - 1
  uint32_t view;
  PatchGrid grid;
  bool standardize;
  int64_t keep;         // below which a word has a patch keep one channel; 0 for never
  const double* scale;  // [channels], as the shift
  const double* shift;
  int threads;
  ElementType out_type;
  void* patches;     // [n, rows * columns, channels, height, width]
  int64_t* corners;  // [n, rows * columns, 2]
};

// The kernels of one instruction set.
struct ExtractKernels {
  void (*extract)(const ExtractPatches&);
};

// `capability` is what at::get_cpu_capability() says: "AVX512", "AVX2" or anything else for the baseline.
const ExtractKernels& extract_kernels(const char* capability);

}  // namespace fastssl
