// Portable vectors: the compiler's own vector extension at the width of the instruction set that includes this.
// Included once per instruction set, inside its namespace, with FASTSSL_LANES floats a vector. No include guard.

constexpr int LANES = FASTSSL_LANES;
typedef float vfloat __attribute__((vector_size(LANES * 4)));
typedef int vint __attribute__((vector_size(LANES * 4)));
typedef unsigned vuint __attribute__((vector_size(LANES * 4)));
typedef vint vmask;
typedef float vfloat_unaligned __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef int vint_unaligned __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

constexpr float NOTHING = -3.402823466e38f;  // a running maximum before the first element
constexpr double LOG2_E = 1.44269504088896340736;

FASTSSL_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

FASTSSL_INLINE vfloat load(const float* p) { return *reinterpret_cast<const vfloat_unaligned*>(p); }
FASTSSL_INLINE void store(float* p, vfloat x) { *reinterpret_cast<vfloat_unaligned*>(p) = x; }
FASTSSL_INLINE vfloat splat(float x) { return x - vfloat{}; }
// Of a NaN and a number in this order, or of two numbers: a where it is not less than b.
FASTSSL_INLINE vfloat maximum(vfloat a, vfloat b) {
#if FASTSSL_LANES == 16
  return (vfloat)_mm512_max_ps((__m512)b, (__m512)a);
#elif FASTSSL_LANES == 8
  return (vfloat)_mm256_max_ps((__m256)b, (__m256)a);
#else
  const vint less = a < b;
  return (vfloat)((less & (vint)b) | (~less & (vint)a));
#endif
}

FASTSSL_INLINE float max_lanes(vfloat x) {
#if FASTSSL_LANES == 16
  return _mm512_reduce_max_ps((__m512)x);
#endif
  for (int half = LANES / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) x[i] = x[i] < x[i + half] ? x[i + half] : x[i];
  return x[0];
}

FASTSSL_INLINE vint load(const int* p) { return *reinterpret_cast<const vint_unaligned*>(p); }
FASTSSL_INLINE void store(int* p, vint x) { *reinterpret_cast<vint_unaligned*>(p) = x; }
FASTSSL_INLINE vfloat to_float(vint x) { return __builtin_convertvector(x, vfloat); }
FASTSSL_INLINE vint to_int(vfloat x) { return __builtin_convertvector(x, vint); }  // towards 0
FASTSSL_INLINE vfloat select(vmask mask, vfloat a, vfloat b) { return mask ? a : b; }
FASTSSL_INLINE vfloat minimum(vfloat a, vfloat b) { return select(a < b, a, b); }
FASTSSL_INLINE vfloat truncate(vfloat x) { return to_float(to_int(x)); }

// What compilers make of the generic form of these is one instruction a lane; or, of a sum of products, one fusion here
// and the other there, so that equal work would differ in the last place.
#if FASTSSL_LANES == 16
// The first `count` bytes of a vector that may end beyond the memory, and zeros.
FASTSSL_INLINE vint load_bytes(const uint8_t* p, int64_t count) {
  const __mmask16 mask = count >= LANES ? 0xffff : (1 << count) - 1;
  return (vint)_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(mask, p));
}
FASTSSL_INLINE vint load(const uint8_t* p) { return (vint)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p)); }
FASTSSL_INLINE void store(uint16_t* p, vint x) { _mm256_storeu_si256((__m256i*)p, _mm512_cvtepi32_epi16((__m512i)x)); }
FASTSSL_INLINE vfloat multiply_add(vfloat a, vfloat b, vfloat c) {
  return (vfloat)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
}
// Of two vectors in a row, the values at these places.
FASTSSL_INLINE vfloat permute(vfloat low, vfloat high, vint place) {
  return (vfloat)_mm512_permutex2var_ps((__m512)low, (__m512i)place, (__m512)high);
}
#elif FASTSSL_LANES == 8
FASTSSL_INLINE vint load(const uint8_t* p) { return (vint)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)p)); }
FASTSSL_INLINE void store(uint16_t* p, vint x) {
  const __m128i low = _mm256_castsi256_si128((__m256i)x), high = _mm256_extracti128_si256((__m256i)x, 1);
  _mm_storeu_si128((__m128i*)p, _mm_packus_epi32(low, high));
}
FASTSSL_INLINE vfloat multiply_add(vfloat a, vfloat b, vfloat c) {
  return (vfloat)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
}
FASTSSL_INLINE vfloat permute(vfloat low, vfloat high, vint place) {
  const vfloat a = (vfloat)_mm256_permutevar8x32_ps((__m256)low, (__m256i)place);
  return select(place < 8, a, (vfloat)_mm256_permutevar8x32_ps((__m256)high, (__m256i)place));
}
#else
FASTSSL_INLINE vint load(const uint8_t* p) { return vint{p[0], p[1], p[2], p[3]}; }
FASTSSL_INLINE void store(uint16_t* p, vint x) {
  for (int i = 0; i < LANES; ++i) p[i] = (uint16_t)x[i];
}
FASTSSL_INLINE vfloat multiply_add(vfloat a, vfloat b, vfloat c) { return a * b + c; }
FASTSSL_INLINE vfloat permute(vfloat low, vfloat high, vint place) {
  vfloat out{};
  for (int i = 0; i < LANES; ++i) out[i] = place[i] < LANES ? low[place[i]] : high[place[i] - LANES];
  return out;
}
#endif

#if FASTSSL_LANES != 16
FASTSSL_INLINE vint load_bytes(const uint8_t* p, int64_t count) {
  if (count >= LANES) return load(p);
  uint8_t bytes[LANES] = {};
  for (int64_t i = 0; i < count; ++i) bytes[i] = p[i];
  return load(bytes);
}
#endif

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

constexpr float EXP2_OF_0 = 0x1.000002p+0f;  // what the functions below make of 0

// 2^fraction * 2^n, where `shifted` holds n in its low mantissa bits and |fraction| <= 1/2.
// Relative minimax polynomial of degree 5, error 7.5e-8 before rounding.
FASTSSL_INLINE vfloat exp2_parts(vfloat fraction, vfloat shifted) {
  vfloat p = fraction * 0x1.5c08e4p-10f + 0x1.3d0c52p-7f;
  p = p * fraction + 0x1.c6b6e4p-5f;
  p = p * fraction + 0x1.ebf918p-3f;
  p = p * fraction + 0x1.62e428p-1f;
  p = p * fraction + EXP2_OF_0;
  return (vfloat)((vuint)p + ((vuint)shifted << 23));  // unsigned: out of range, this may overflow
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
