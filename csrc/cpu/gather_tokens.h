// Gathering tokens on the CPU, and its transpose.
#pragma once

#include "tokens.h"

namespace fastssl {

struct GatherTokens {
  const char* x;  // rows of `bytes` bytes, of any type
  int64_t sample, row, bytes;
  TokenIds ids;
  int64_t n, length, prefix;  // rows of a sample, of which the ids name those after the prefix
  int threads;
  char* out;  // [n, prefix + count] rows
};

// out[n, j] is the sum of the rows i of x with ids[n, i] = j; rows of the prefix are copied.
struct CollectTokens {
  TokenRows x;  // [n, prefix + count, width]
  TokenIds ids;
  int64_t n, length, prefix, width;  // `length` rows of a sample of the result, prefix included
  int threads;
  int32_t* first;  // workspace [n, length - prefix]
  int32_t* next;   // workspace [n, count]
  void* out;       // [n, length, width] of the type of x
};

// The kernels of one instruction set.
struct GatherKernels {
  void (*gather)(const GatherTokens&);
  void (*collect)(const CollectTokens&);
};

// `capability` is what at::get_cpu_capability() says: "AVX512", "AVX2" or anything else for the baseline.
const GatherKernels& gather_kernels(const char* capability);

}  // namespace fastssl
