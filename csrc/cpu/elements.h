// Elements of any type, and channels that are interleaved, for one instruction set. Included after simd.h.

typedef unsigned vuint __attribute__((vector_size(LANES * 4)));

FASTSSL_INLINE vint load(const uint16_t* p) {
#if FASTSSL_LANES == 16
  return (vint)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p));
#elif FASTSSL_LANES == 8
  return (vint)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p));
#else
  return vint{p[0], p[1], p[2], p[3]};
#endif
}

// The float16 of these bits: scaled by a power of two, which leaves only infinity and NaN to be put right.
FASTSSL_INLINE vfloat from_half(vint bits) {
  const vfloat magnitude = (vfloat)((bits & 0x7fff) << 13) * 0x1p112f;
  const vint special = (bits & 0x7c00) == 0x7c00;
  return (vfloat)((vint)magnitude | (special & 0x7f800000) | ((bits & 0x8000) << 16));
}

// Bits of the nearest float16, ties to even; infinity from 65520 on, NaN for NaN.
FASTSSL_INLINE vint half_bits(vfloat x) {
  const vint bits = (vint)x, sign = (bits >> 16) & 0x8000, magnitude = bits & 0x7fffffff;
  const vuint normal = ((vuint)magnitude - (112 << 23) + 0xfff + ((vuint)magnitude >> 13 & 1)) >> 13;
  // Adding 0.5 leaves the multiples of 2^-24 in the low bits, rounded by the addition itself.
  const vint tiny = (vint)((vfloat)magnitude + 0.5f) - 0x3f000000;
  const vint finite = magnitude < (113 << 23) ? tiny : (vint)normal;
  const vint special = magnitude > 0x7f800000 ? vint{} + 0x7e00 : vint{} + 0x7c00;
  return sign | (magnitude < 0x477ff000 ? finite : special);
}

// Bits of the nearest bfloat16, ties to even; NaN for NaN.
FASTSSL_INLINE vint bfloat_bits(vfloat x) {
  const vint bits = (vint)x;
  const vuint rounded = ((vuint)bits + 0x7fff + ((vuint)bits >> 16 & 1)) >> 16;  // of NaN it may overflow
  return (bits & 0x7fffffff) > 0x7f800000 ? vint{} + 0x7fc0 : (vint)rounded;
}

FASTSSL_INLINE int64_t bytes_of(ElementType type) { return type == TYPE_FLOAT32 ? 4 : type == TYPE_UINT8 ? 1 : 2; }

FASTSSL_INLINE char* element(ElementType type, void* out, int64_t i) { return (char*)out + i * bytes_of(type); }
FASTSSL_INLINE const char* element(ElementType type, const void* in, int64_t i) {
  return (const char*)in + i * bytes_of(type);
}

FASTSSL_INLINE vfloat load_as(ElementType type, const void* in) {
  if (type == TYPE_FLOAT32) return load((const float*)in);
  if (type == TYPE_UINT8) return to_float(load((const uint8_t*)in));
  const vint bits = load((const uint16_t*)in);
  return type == TYPE_FLOAT16 ? from_half(bits) : (vfloat)(bits << 16);
}

FASTSSL_INLINE void store_as(ElementType type, void* out, vfloat x) {
  if (type == TYPE_FLOAT32) store((float*)out, x);
  if (type == TYPE_FLOAT16) store((uint16_t*)out, half_bits(x));
  if (type == TYPE_BFLOAT16) store((uint16_t*)out, bfloat_bits(x));
}

// The first `count` of a vector's elements, and zeros.
FASTSSL_INLINE vfloat load_some(ElementType type, const void* in, int64_t count) {
  if (count >= LANES) return load_as(type, in);
  alignas(64) char memory[LANES * 4] = {};
  memcpy(memory, in, (size_t)(count * bytes_of(type)));
  return load_as(type, memory);
}

FASTSSL_INLINE void store_some(ElementType type, void* out, vfloat x, int64_t count) {
  if (count >= LANES) return store_as(type, out, x);
  alignas(64) char memory[LANES * 4];
  store_as(type, memory, x);
  memcpy(out, memory, (size_t)(count * bytes_of(type)));
}

FASTSSL_INLINE float sum_lanes(vfloat x) {
#if FASTSSL_LANES == 16
  return _mm512_reduce_add_ps((__m512)x);  // in the order below
#endif
  for (int half = LANES / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) x[i] += x[i + half];
  return x[0];
}

constexpr int CHANNELS = 3;  // that are interleaved

struct Triple {
  vfloat a, b, c;
};

// Places for `permute`, of three channels that are interleaved: two permutations a vector.
struct Places {
  alignas(64) int first[CHANNELS][LANES], second[CHANNELS][LANES];
};

constexpr Places split_places() {
  Places p{};
  for (int k = 0; k < CHANNELS; ++k)
    for (int i = 0; i < LANES; ++i) {
      const int at = 3 * i + k;
      p.first[k][i] = at < 2 * LANES ? at : 0;
      p.second[k][i] = at < 2 * LANES ? i : at - LANES;
    }
  return p;
}

constexpr Places join_places() {
  Places p{};
  for (int k = 0; k < CHANNELS; ++k)
    for (int i = 0; i < LANES; ++i) {
      const int at = k * LANES + i;
      p.first[k][i] = at % 3 == 1 ? LANES + at / 3 : at / 3;
      p.second[k][i] = at % 3 == 2 ? LANES + at / 3 : i;
    }
  return p;
}

constexpr Places SPLIT = split_places(), JOIN = join_places();

// From r g b r g b ... to three vectors, and back.
FASTSSL_INLINE Triple split_channels(const float* in) {
  const vfloat x = load(in), y = load(in + LANES), z = load(in + 2 * LANES);
  return {permute(permute(x, y, load(SPLIT.first[0])), z, load(SPLIT.second[0])),
          permute(permute(x, y, load(SPLIT.first[1])), z, load(SPLIT.second[1])),
          permute(permute(x, y, load(SPLIT.first[2])), z, load(SPLIT.second[2]))};
}

FASTSSL_INLINE Triple join_channels(Triple p) {
  return {permute(permute(p.a, p.b, load(JOIN.first[0])), p.c, load(JOIN.second[0])),
          permute(permute(p.a, p.b, load(JOIN.first[1])), p.c, load(JOIN.second[1])),
          permute(permute(p.a, p.b, load(JOIN.first[2])), p.c, load(JOIN.second[2]))};
}
