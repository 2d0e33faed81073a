// The loss on masked patches on the CPU.
#pragma once

#include "patches.h"

namespace fastssl {

enum PatchLoss { LOSS_MSE, LOSS_L1, LOSS_SMOOTH_L1 };

struct MaskedMSE {
  Patches patches;
  TokenRows pred;        // [n, rows, size]
  TokenIds ids;          // of the rows of pred; or data null, and then:
  const float* weights;  // [n, rows], strides below
  int64_t weight_sample, weight_token;
  int64_t n, rows;
  PatchLoss loss;
  float beta;
  bool norm_pix;
  int threads;
  float* partial;  // workspace [n, rows]
  float* value;    // [1]
  void* grad;      // [n, rows, size], or null
  ElementType grad_type;
};

// The kernel of one instruction set.
struct MaskedMSEKernels {
  void (*forward)(const MaskedMSE&);
};

// `capability` is what at::get_cpu_capability() says: "AVX512", "AVX2" or anything else for the baseline.
const MaskedMSEKernels& masked_mse_kernels(const char* capability);

}  // namespace fastssl
