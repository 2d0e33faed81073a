// Log-sum-exp over the rows and columns of all scores, and its gradient. The maths is in pairwise_logsumexp_tiles.h.
#pragma once

#include "pairwise.h"

namespace fastssl {

struct LogsumexpForward {
  Pairs pairs;      // those of equal ids do not count
  bool columns;     // not where y is null
  void* workspace;  // [forward_workspace] bytes, aligned to 64
  double* row_lse;  // [m]
  double* col_lse;  // [n] if columns
  float* mean;      // [m, d] sum_j p_ij y_j, or null; not with columns
};

struct LogsumexpBackward {
  Pairs pairs;
  const float *grad_row, *grad_col;  // [m], [n]; or null
  const double *row_lse, *col_lse;   // of the gradients that are there
  void* workspace;                   // [backward_workspace] bytes, aligned to 64
  float *grad_x, *grad_y;            // [m, d], [n, d]; or null where not needed
  double* grad_scale;                // [1]
};

// The kernels of one instruction set.
struct LogsumexpKernels {
  void (*forward)(const LogsumexpForward&);
  void (*backward)(const LogsumexpBackward&);
  int64_t (*forward_workspace)(const LogsumexpForward&);
  int64_t (*backward_workspace)(const LogsumexpBackward&);
};

// `capability` is what at::get_cpu_capability() says: "AVX512", "AVX2" or anything else for the baseline.
const LogsumexpKernels& logsumexp_kernels(const char* capability);

}  // namespace fastssl
