// Sinkhorn-Knopp on the CPU.
#pragma once

#include <stdint.h>

#include "../common/portable.h"

namespace fastssl {

struct Sinkhorn {
  const void* logits;  // [samples, prototypes], the elements of a row side by side
  ElementType type;
  int64_t row;  // stride, in elements
  int64_t samples, prototypes;
  double temp;
  int threads;
  void* workspace;
};

// One iteration, of the samples of one process among others.
struct SinkhornPass {
  Sinkhorn problem;
  const float* center;  // [prototypes]; or null, and then the log-sum-exps of the rows count as 0
  double* row_lse;      // [samples]
  double* column_lse;   // [prototypes], or null
};

// Some iterations, at least one.
struct SinkhornFit {
  Sinkhorn problem;
  int64_t iterations;
  float* center;  // [prototypes]
};

// The kernels of one instruction set.
struct SinkhornKernels {
  int64_t (*pass_workspace)(const SinkhornPass&);  // bytes
  void (*pass)(const SinkhornPass&);
  int64_t (*fit_workspace)(const SinkhornFit&);  // bytes
  void (*fit)(const SinkhornFit&);
};

// `capability` is what at::get_cpu_capability() says: "AVX512", "AVX2" or anything else for the baseline.
const SinkhornKernels& sinkhorn_kernels(const char* capability);

}  // namespace fastssl
