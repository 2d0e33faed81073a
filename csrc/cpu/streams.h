// Stores past the caches, for one instruction set. Included after simd.h.

constexpr int64_t STREAM_BYTES = 4 << 20;  // results from this size on leave the caches before they are read

// Whole vectors to memory that is not read soon: past the caches where the address allows it.
FASTSSL_INLINE void store_past(void* p, vfloat x) {
#if FASTSSL_LANES == 16
  if (((uintptr_t)p & 63) == 0) return _mm512_stream_ps((float*)p, (__m512)x);
#elif FASTSSL_LANES == 8
  if (((uintptr_t)p & 31) == 0) return _mm256_stream_ps((float*)p, (__m256)x);
#elif defined(FASTSSL_X86)
  if (((uintptr_t)p & 15) == 0) return _mm_stream_ps((float*)p, (__m128)x);
#endif
  memcpy(p, &x, sizeof x);  // at any address
}

// Streamed stores of this thread become visible to the others.
FASTSSL_INLINE void finish_streams() {
#ifdef FASTSSL_X86
  _mm_sfence();
#endif
}
