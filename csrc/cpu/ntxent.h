// NT-Xent on the CPU: torch-free kernels over raw pointers. The maths is in ntxent_tiles.h.
#pragma once

#include "pairwise.h"

namespace fastssl {

struct NTXentForward {
  const float* z0;  // [n, d]
  const float* z1;  // [n, d]
  int64_t n, d;
  double tau;
  int threads;
  void* workspace;  // [forward_workspace] bytes, aligned to 64
  float* zn;        // [2n, d] unit rows
  float* inv_norm;  // [2n]
  double* lse;      // [2n]
  float* nll;       // [2n]
  float* loss;      // [1]
};

struct NTXentBackward {
  const float* zn;
  const float* inv_norm;
  const double* lse;
  const float* nll;
  int64_t n, d;
  double tau, grad;
  int threads;
  void* workspace;   // [backward_workspace] bytes, aligned to 64
  float* grad_z0;    // [n, d]
  float* grad_z1;    // [n, d]
  double* grad_tau;  // [1]
};

// The kernels of one instruction set.
struct NTXentKernels {
  void (*forward)(const NTXentForward&);
  void (*backward)(const NTXentBackward&);
  int64_t (*forward_workspace)(int64_t n, int64_t d, int threads);
  int64_t (*backward_workspace)(int64_t n, int64_t d, int threads);
};

// `capability` is what at::get_cpu_capability() says: "AVX512", "AVX2" or anything else for the baseline.
const NTXentKernels& ntxent_kernels(const char* capability);

}  // namespace fastssl
