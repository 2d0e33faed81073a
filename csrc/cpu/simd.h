// Portable vectors: the compiler's own vector extension at the width of the instruction set that includes this.
// Included once per instruction set, inside its namespace, with FASTSSL_LANES floats a vector. No include guard.

constexpr int LANES = FASTSSL_LANES;
typedef float vfloat __attribute__((vector_size(LANES * 4)));
typedef int vint __attribute__((vector_size(LANES * 4)));
typedef vint vmask;
typedef uint8_t vbyte __attribute__((vector_size(LANES)));
typedef uint16_t vhalf __attribute__((vector_size(LANES * 2)));
typedef float vfloat_unaligned __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef int vint_unaligned __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef uint8_t vbyte_unaligned __attribute__((vector_size(LANES), aligned(1), may_alias));
typedef uint16_t vhalf_unaligned __attribute__((vector_size(LANES * 2), aligned(2), may_alias));

FASTSSL_INLINE vfloat load(const float* p) { return *reinterpret_cast<const vfloat_unaligned*>(p); }
FASTSSL_INLINE void store(float* p, vfloat x) { *reinterpret_cast<vfloat_unaligned*>(p) = x; }
FASTSSL_INLINE vfloat splat(float x) { return x - vfloat{}; }
FASTSSL_INLINE vfloat maximum(vfloat a, vfloat b) {
  const vint less = a < b;
  return (vfloat)((less & (vint)b) | (~less & (vint)a));
}

FASTSSL_INLINE vint load(const int* p) { return *reinterpret_cast<const vint_unaligned*>(p); }
FASTSSL_INLINE void store(int* p, vint x) { *reinterpret_cast<vint_unaligned*>(p) = x; }
FASTSSL_INLINE vint load(const uint8_t* p) {
  return __builtin_convertvector((vbyte)*reinterpret_cast<const vbyte_unaligned*>(p), vint);
}
FASTSSL_INLINE void store(uint16_t* p, vint x) {
  *reinterpret_cast<vhalf_unaligned*>(p) = __builtin_convertvector(x, vhalf);
}
FASTSSL_INLINE vfloat to_float(vint x) { return __builtin_convertvector(x, vfloat); }
FASTSSL_INLINE vint to_int(vfloat x) { return __builtin_convertvector(x, vint); }  // towards 0
FASTSSL_INLINE vfloat select(vmask mask, vfloat a, vfloat b) { return mask ? a : b; }
FASTSSL_INLINE vfloat minimum(vfloat a, vfloat b) { return select(a < b, a, b); }
FASTSSL_INLINE vfloat truncate(vfloat x) { return to_float(to_int(x)); }

// A product that is rounded before it is added to: the compiler must not see through it.
FASTSSL_INLINE vfloat product(vfloat a, vfloat b) {
  vfloat p = a * b;
#ifdef FASTSSL_X86
  asm("" : "+v"(p));
#else
  asm("" : "+w"(p));
#endif
  return p;
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
