// The sum of the softplus of all signed logits, with its gradients. The maths is in pairwise_softplus_tiles.h.
#pragma once

#include "pairwise.h"

namespace fastssl {

struct Softplus {
  Pairs pairs;        // with a y; those of equal ids are the same. `bounded` is of no use here
  const float* bias;  // [m]
  bool only_same;
  void* workspace;         // [workspace] bytes, aligned to 64
  double* total;           // [1]
  float *grad_x, *grad_y;  // [m, d], [n, d]; or null where not needed
  double* grad_scale;      // [1]
  float* grad_bias;        // [m]
};

// The kernels of one instruction set.
struct SoftplusKernels {
  void (*forward)(const Softplus&);
  int64_t (*workspace)(const Softplus&);
};

// `capability` is what at::get_cpu_capability() says: "AVX512", "AVX2" or anything else for the baseline.
const SoftplusKernels& softplus_kernels(const char* capability);

}  // namespace fastssl
