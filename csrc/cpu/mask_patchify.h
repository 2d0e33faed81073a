// Visible patches of images on the CPU.
#pragma once

#include "patches.h"

namespace fastssl {

struct MaskPatchify {
  Patches patches;
  TokenIds ids;
  int64_t n;
  int threads;
  ElementType type;  // of the result
  void* out;         // [n, count, size]
};

// out[l] = sum over samples and over the rows i of x with ids[n, i] = l.
struct SumTokens {
  TokenRows x;  // [n, count, width]
  TokenIds ids;
  int64_t n, length, width;
  int threads;
  int32_t* first;
  int32_t* next;
  float* out;  // [length, width]
};

// The kernels of one instruction set.
struct PatchKernels {
  void (*patchify)(const MaskPatchify&);
  void (*sum)(const SumTokens&);
};

// `capability` is what at::get_cpu_capability() says: "AVX512", "AVX2" or anything else for the baseline.
const PatchKernels& patch_kernels(const char* capability);

}  // namespace fastssl
