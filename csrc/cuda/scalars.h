// The numbers of the augmentation kernel. The second of each pair is for the tests, which run its stages on a host.
#pragma once

#include "../common/portable.h"

#ifdef __CUDACC__
#define FASTSSL_DEVICE __device__ __forceinline__
#else
#define FASTSSL_DEVICE inline
#endif

namespace fastssl {
namespace {

#ifdef __CUDACC__
FASTSSL_DEVICE float fused(float a, float b, float c) { return __fmaf_rn(a, b, c); }
FASTSSL_DEVICE float lesser(float a, float b) { return fminf(a, b); }
FASTSSL_DEVICE float greater(float a, float b) { return fmaxf(a, b); }
FASTSSL_DEVICE float towards_zero(float x) { return truncf(x); }
FASTSSL_DEVICE float nearest(float x) { return rintf(x); }  // ties to even
FASTSSL_DEVICE float exponential(float x) { return expf(x); }
#else
FASTSSL_DEVICE float fused(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
FASTSSL_DEVICE float lesser(float a, float b) { return a < b ? a : b; }
FASTSSL_DEVICE float greater(float a, float b) { return a > b ? a : b; }
FASTSSL_DEVICE float towards_zero(float x) { return __builtin_truncf(x); }
FASTSSL_DEVICE float nearest(float x) { return __builtin_rintf(x); }
FASTSSL_DEVICE float exponential(float x) { return __builtin_expf(x); }
#endif

// What csrc/common/color.h computes with: a product is fused with the sum it goes into, always. Left to a compiler, it
// is so or not as the code around it says, and a truncated value can differ by a level.
struct Product {
  float a, b;
  FASTSSL_DEVICE operator float() const { return a * b; }
};
struct Real {
  float value;
  Real() = default;
  FASTSSL_DEVICE Real(float x) : value(x) {}
  FASTSSL_DEVICE Real(Product p) : value(p) {}
  FASTSSL_DEVICE operator float() const { return value; }
};
FASTSSL_DEVICE Product operator*(Real a, Real b) { return {a.value, b.value}; }
FASTSSL_DEVICE Product operator*(Real a, float b) { return {a.value, b}; }
FASTSSL_DEVICE Product operator*(float a, Real b) { return {a, b.value}; }
FASTSSL_DEVICE Real operator+(Product p, Real x) { return fused(p.a, p.b, x); }
FASTSSL_DEVICE Real operator+(Product p, float x) { return fused(p.a, p.b, x); }
FASTSSL_DEVICE Real operator-(Real x, Product p) { return fused(-p.a, p.b, x); }

typedef Real vfloat;
typedef bool vmask;
FASTSSL_DEVICE Real splat(float x) { return x; }
FASTSSL_DEVICE Real select(bool mask, Real a, Real b) { return mask ? a : b; }
FASTSSL_DEVICE Real minimum(Real a, Real b) { return lesser(a, b); }
FASTSSL_DEVICE Real maximum(Real a, Real b) { return greater(a, b); }
FASTSSL_DEVICE Real truncate(Real x) { return towards_zero(x); }
FASTSSL_DEVICE Real product(Real a, Real b) { return exact_mul((float)a, (float)b); }

#ifdef __CUDACC__
FASTSSL_DEVICE uint16_t half_bits(float x) {
  uint16_t bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return bits;
}
FASTSSL_DEVICE uint16_t bfloat_bits(float x) {
  uint16_t bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return bits;
}
#else
FASTSSL_DEVICE uint16_t half_bits(float x) {
  const _Float16 half = (_Float16)x;
  uint16_t bits;
  __builtin_memcpy(&bits, &half, 2);
  return bits;
}
FASTSSL_DEVICE uint16_t bfloat_bits(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
#endif

}  // namespace
}  // namespace fastssl
