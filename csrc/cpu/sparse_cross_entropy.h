// Cross-entropy with sparse soft targets on the CPU.
#pragma once

#include <stdint.h>

#include "../common/portable.h"

namespace fastssl {

// Logits [n, classes, places], of which either the classes or the places lie side by side, and for each place `count`
// targets, classes and weights. Strides in elements. A class that is out of range is none.
struct SparseTargets {
  const void* logits;
  ElementType type;
  bool along_rows;             // the classes of a place lie side by side
  int64_t sample, row, place;  // strides of the logits; row is that of the classes
  const void* index;
  bool wide;  // the index is int64, else int32
  int64_t index_sample, index_row, index_place;
  const float* weight;
  int64_t weight_sample, weight_row, weight_place;
  int64_t n, classes, places, count;
  double* lse;  // [n, places]
  int threads;
};

struct SparseForward {
  SparseTargets targets;
  float* losses;  // [n, places]
  float share;    // of the sum of the losses, that the gradient is of
  void* grad;     // in the logits' type and order, without gaps; or null
};

struct SparseBackward {
  SparseTargets targets;
  const float* upstream;
  int64_t upstream_sample, upstream_place;  // strides
  void* grad;                               // as above, or null
  float* grad_weight;                       // [n, count, places], or null
};

// The kernels of one instruction set.
struct SparseKernels {
  void (*forward)(const SparseForward&);
  void (*backward)(const SparseBackward&);
};

// `capability` is what at::get_cpu_capability() says: "AVX512", "AVX2" or anything else for the baseline.
const SparseKernels& sparse_kernels(const char* capability);

}  // namespace fastssl
