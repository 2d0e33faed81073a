// Portable vectors: the compiler's own vector extension at the width of the instruction set that includes this.
// Included once per instruction set, inside its namespace, with FASTSSL_LANES floats a vector. No include guard.

constexpr int LANES = FASTSSL_LANES;
typedef float vfloat __attribute__((vector_size(LANES * 4)));
typedef int vint __attribute__((vector_size(LANES * 4)));
typedef float vfloat_unaligned __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

FASTSSL_INLINE vfloat load(const float* p) { return *reinterpret_cast<const vfloat_unaligned*>(p); }
FASTSSL_INLINE void store(float* p, vfloat x) { *reinterpret_cast<vfloat_unaligned*>(p) = x; }
FASTSSL_INLINE vfloat splat(float x) { return x - vfloat{}; }
FASTSSL_INLINE vfloat maximum(vfloat a, vfloat b) {
  const vint less = a < b;
  return (vfloat)((less & (vint)b) | (~less & (vint)a));
}

// 2^fraction * 2^n, where `shifted` holds n in its low mantissa bits and |fraction| <= 1/2.
// Relative minimax polynomial of degree 5, error 7.5e-8 before rounding.
FASTSSL_INLINE vfloat exp2_parts(vfloat fraction, vfloat shifted) {
  vfloat p = fraction * 0x1.5c08e4p-10f + 0x1.3d0c52p-7f;
  p = p * fraction + 0x1.c6b6e4p-5f;
  p = p * fraction + 0x1.ebf918p-3f;
  p = p * fraction + 0x1.62e428p-1f;
  p = p * fraction + 0x1.000002p+0f;
  return (vfloat)((vint)p + ((vint)shifted << 23));
}

// 1.5 * 2^23: adding it to |x| < 2^22 rounds x to an integer, left in the low mantissa bits.
constexpr float ROUND = 12582912.f;

// 2^(x * scale) for |x * scale| < 126. The product is never rounded: both its uses are fused multiply-adds.
FASTSSL_INLINE vfloat exp2_product(vfloat x, vfloat scale) {
  const vfloat shifted = x * scale + ROUND;
  return exp2_parts(x * scale - (shifted - ROUND), shifted);
}

// 2^y for y <= 0; 0 below the normal range, NaN for NaN.
FASTSSL_INLINE vfloat exp2_nonpositive(vfloat y) {
  const vfloat shifted = y + ROUND;
  const vint tiny = y < -126.f;
  return (vfloat)(~tiny & (vint)exp2_parts(y - (shifted - ROUND), shifted));
}
