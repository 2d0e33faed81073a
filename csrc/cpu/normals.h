// Gaussian numbers, a block of Philox words a lane: the bits of kernels/torch/draws.py, as nothing is fused but
// products with powers of two. Included after elements.h.

struct WordLanes {
  vuint w[4];
};

// Both halves of the products with a word.
FASTSSL_INLINE void multiply_wide(vuint a, uint32_t b, vuint* high, vuint* low) {
#if FASTSSL_LANES == 16
  const __m512i even = _mm512_mul_epu32((__m512i)a, _mm512_set1_epi32((int)b));
  const __m512i odd = _mm512_mul_epu32(_mm512_srli_epi64((__m512i)a, 32), _mm512_set1_epi32((int)b));
  *high = (vuint)_mm512_mask_blend_epi32(0xaaaa, _mm512_srli_epi64(even, 32), odd);
  *low = (vuint)_mm512_mask_blend_epi32(0xaaaa, even, _mm512_slli_epi64(odd, 32));
#elif FASTSSL_LANES == 8
  const __m256i even = _mm256_mul_epu32((__m256i)a, _mm256_set1_epi32((int)b));
  const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64((__m256i)a, 32), _mm256_set1_epi32((int)b));
  *high = (vuint)_mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa);
  *low = (vuint)_mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa);
#elif defined(FASTSSL_X86)
  const __m128i words = _mm_set1_epi32((int)b), evens = _mm_set1_epi64x(0xffffffff);
  const __m128i even = _mm_mul_epu32((__m128i)a, words), odd = _mm_mul_epu32(_mm_srli_epi64((__m128i)a, 32), words);
  *high = (vuint)_mm_or_si128(_mm_srli_epi64(even, 32), _mm_andnot_si128(evens, odd));
  *low = (vuint)_mm_or_si128(_mm_and_si128(evens, even), _mm_slli_epi64(odd, 32));
#else
  for (int i = 0; i < LANES; ++i) {
    const uint64_t product = (uint64_t)a[i] * b;
    (*high)[i] = (unsigned)(product >> 32), (*low)[i] = (unsigned)product;
  }
#endif
}

// ../common/philox.h for LANES purposes at a time.
FASTSSL_INLINE WordLanes philox_lanes(const Draw& d, vuint c3) {
  uint32_t k0 = (uint32_t)d.seed, k1 = (uint32_t)(d.seed >> 32);
  vuint c0 = vuint{} + (uint32_t)d.id, c1 = vuint{} + (uint32_t)((uint64_t)d.id >> 32), c2 = vuint{} + d.view;
  for (int round = 0; round < 10; ++round) {
    vuint p_high, p_low, q_high, q_low;
    multiply_wide(c0, 0xD2511F53u, &p_high, &p_low);
    multiply_wide(c2, 0xCD9E8D57u, &q_high, &q_low);
    c0 = q_high ^ c1 ^ k0, c1 = q_low;
    c2 = p_high ^ c3 ^ k1, c3 = p_low;
    k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

FASTSSL_INLINE vfloat square_root(vfloat x) {
#if FASTSSL_LANES == 16
  return (vfloat)_mm512_sqrt_ps((__m512)x);
#elif FASTSSL_LANES == 8
  return (vfloat)_mm256_sqrt_ps((__m256)x);
#elif defined(FASTSSL_X86)
  return (vfloat)_mm_sqrt_ps((__m128)x);
#else
  for (int i = 0; i < LANES; ++i) x[i] = __builtin_sqrtf(x[i]);
  return x;
#endif
}

struct NormalPair {
  vfloat x, y;
};

// Of two words each, by Box and Muller.
FASTSSL_INLINE NormalPair normal_pair(vuint first, vuint second) {
  const vfloat u = to_float((vint)(first >> 8) + 1) * 0x1p-24f;  // in (0, 1]
  const vint exponent = ((vint)u - 0x3f3504f3) >> 23;            // log(u) = exponent log(2) + log(1 + t)
  const vfloat t = (vfloat)((vint)u - (exponent << 23)) - 1.f, square = product(t, t);
  vfloat p = product(splat(-0.078596115f), t) + 0.12881647f;
  p = product(p, t) - 0.13128754f;
  p = product(p, t) + 0.14181192f;
  p = product(p, t) - 0.16624554f;
  p = product(p, t) + 0.20002286f;
  p = product(p, t) - 0.2500081f;
  p = product(p, t) + 0.33333316f;
  const vfloat rest = product(product(p, t), square) - square * 0.5f;
  const vfloat radius = square_root(((t + rest) + product(to_float(exponent), splat(0.6931472f))) * -2.f);

  const vfloat f = to_float((vint)(second >> 6 & 0xffffff)) * 0x1p-24f - 0.5f, f2 = product(f, f);
  vfloat sin = product(splat(-0.004602177f), f2) + 0.07968023f;
  sin = product(sin, f2) - 0.6459635f;
  sin = product(f, product(sin, f2) + 1.5707964f);
  vfloat cos = product(splat(0.00090363174f), f2) - 0.020860072f;
  cos = product(cos, f2) + 0.2536692f;
  cos = product(cos, f2) - 1.2337005f;
  cos = product(cos, f2) + 1.f;
  const vint turns = (vint)(second >> 30), odd = -(turns & 1);
  const vint sign_x = ((turns + 1) & 2) << 30, sign_y = (turns & 2) << 30;
  return {radius * (vfloat)((vint)select(odd, sin, cos) ^ sign_x),
          radius * (vfloat)((vint)select(odd, cos, sin) ^ sign_y)};
}

// `count` numbers of the blocks from `first` on, q = ceil(count / 4) of them: number j q + i is number j of block i.
// `out` has SLACK floats to spare.
void normals(const Draw& d, uint32_t first, int64_t count, float* out) {
  const int64_t q = (count + 3) / 4;
  vuint lane;
  for (int i = 0; i < LANES; ++i) lane[i] = (unsigned)i;
  for (int64_t i = 0; i < q; i += LANES) {
    const WordLanes words = philox_lanes(d, (uint32_t)PURPOSE_NOISE + 256u * (lane + (first + (uint32_t)i)));
    const NormalPair a = normal_pair(words.w[0], words.w[1]), b = normal_pair(words.w[2], words.w[3]);
    store_some(TYPE_FLOAT32, out + i, a.x, q - i);
    store_some(TYPE_FLOAT32, out + q + i, a.y, q - i);
    store_some(TYPE_FLOAT32, out + 2 * q + i, b.x, q - i);
    store_some(TYPE_FLOAT32, out + 3 * q + i, b.y, q - i);
  }
}
