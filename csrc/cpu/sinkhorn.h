// One iteration of Sinkhorn-Knopp on the CPU.
#pragma once

#include <stdint.h>

#include "../common/portable.h"

namespace fastssl {

struct Sinkhorn {
  const void* logits;  // [samples, prototypes], the elements of a row side by side
  ElementType type;
  int64_t row;  // stride, in elements
  int64_t samples, prototypes;
  const float* center;  // [prototypes]; or null, and then the log-sum-exps of the rows count as 0
  double temp;
  int threads;
  void* workspace;
  double* row_lse;     // [samples]
  double* column_lse;  // [prototypes], or null
};

// The kernels of one instruction set.
struct SinkhornKernels {
  int64_t (*workspace)(const Sinkhorn&);  // bytes
  void (*pass)(const Sinkhorn&);
};

// `capability` is what at::get_cpu_capability() says: "AVX512", "AVX2" or anything else for the baseline.
const SinkhornKernels& sinkhorn_kernels(const char* capability);

}  // namespace fastssl
