// What lets one header serve the host and the device: plain functions, no torch, no CUDA API, no C++ library.
#pragma once

#include <stdint.h>

#ifdef __CUDACC__
#define FASTSSL_HD __host__ __device__ __forceinline__
#else
#define FASTSSL_HD inline
#endif

namespace fastssl {

// What the elements of a tensor are.
enum ElementType { TYPE_FLOAT32, TYPE_FLOAT16, TYPE_BFLOAT16, TYPE_UINT8 };

namespace {  // a copy in each source file: none may be shared between instruction sets

// Products and sums that are never fused, so that every device rounds them alike. A host compiler fuses only for
// instruction sets that have the instruction; files that rely on this are compiled for the baseline, or forbid it.
#ifdef __CUDA_ARCH__
FASTSSL_HD float exact_mul(float a, float b) { return __fmul_rn(a, b); }
FASTSSL_HD double exact_mul(double a, double b) { return __dmul_rn(a, b); }
FASTSSL_HD double exact_add(double a, double b) { return __dadd_rn(a, b); }
FASTSSL_HD double exact_div(double a, double b) { return __ddiv_rn(a, b); }
FASTSSL_HD double exact_sqrt(double a) { return __dsqrt_rn(a); }
FASTSSL_HD double floor_of(double a) { return floor(a); }
FASTSSL_HD float exact_div(float a, float b) { return __fdiv_rn(a, b); }
FASTSSL_HD float exact_sub(float a, float b) { return __fsub_rn(a, b); }
#else
FASTSSL_HD float exact_mul(float a, float b) { return a * b; }
FASTSSL_HD double exact_mul(double a, double b) { return a * b; }
FASTSSL_HD double exact_add(double a, double b) { return a + b; }
FASTSSL_HD double exact_div(double a, double b) { return a / b; }
FASTSSL_HD double exact_sqrt(double a) { return __builtin_sqrt(a); }
FASTSSL_HD double floor_of(double a) { return __builtin_floor(a); }
FASTSSL_HD float exact_div(float a, float b) { return a / b; }
FASTSSL_HD float exact_sub(float a, float b) { return a - b; }
#endif

FASTSSL_HD float infinity() {
  const union {
    uint32_t bits;
    float value;
  } x = {0x7f800000u};
  return x.value;
}

FASTSSL_HD int min_of(int a, int b) { return a < b ? a : b; }
FASTSSL_HD int max_of(int a, int b) { return a > b ? a : b; }

}  // namespace
}  // namespace fastssl
