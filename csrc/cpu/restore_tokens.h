// Restoring the order of tokens on the CPU.
#pragma once

#include "tokens.h"

namespace fastssl {

struct RestoreTokens {
  TokenRows visible;
  TokenIds ids;
  int64_t n, num_visible, prefix, width;
  const float* mask_token;  // [width]
  const float* pos;         // [prefix + count, width], or null
  int threads;
  ElementType type;  // of the result
  void* out;         // [n, prefix + count, width]
};

// Sums of the gradient: of masked rows, and of every row over the samples.
struct RestoreSums {
  TokenRows grad;  // [n, prefix + count, width]
  TokenIds ids;
  int64_t n, num_visible, prefix, width;
  int threads, chunks;
  double* workspace;       // [chunks, width]
  float* grad_mask_token;  // [width]
  float* grad_pos;         // [prefix + count, width], or null
};

// The kernels of one instruction set.
struct RestoreKernels {
  void (*restore)(const RestoreTokens&);
  void (*sums)(const RestoreSums&);
};

// `capability` is what at::get_cpu_capability() says: "AVX512", "AVX2" or anything else for the baseline.
const RestoreKernels& restore_kernels(const char* capability);

}  // namespace fastssl
