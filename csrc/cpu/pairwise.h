// Sums over all pairs of rows, on the CPU: torch-free kernels over raw pointers.
#pragma once

#include <cstdint>

namespace fastssl {

// m rows x against n rows y; or, where y is null, against themselves: then n = m and col_ids = row_ids.
struct Pairs {
  const float* x;  // [m, d]
  const float* y;  // [n, d], or null
  int64_t m, n, d;
  const int32_t *row_ids, *col_ids;  // [m], [n]; or null
  double scale;
  bool bounded;  // all |<x_i, y_j>| <= 1
  int threads;
};

}  // namespace fastssl
