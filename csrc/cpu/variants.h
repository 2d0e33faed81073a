// Compiles FASTSSL_VARIANT, the name of a header that defines `kernels`, once per instruction set, into one library
// that runs on any processor of the architecture. No include guard: once a source file.
//
// No function of these variants may be shared: their namespaces are unnamed, and they use no inline function of the
// standard library, whose one surviving copy could be the AVX-512 one. Nor are there templates in them: GCC does not
// give a template's instances the target of the place where it stands.
#include <stdint.h>
#include <string.h>

#define FASTSSL_INLINE inline __attribute__((always_inline))
#if defined(__x86_64__) && defined(__GNUC__)
#define FASTSSL_X86 1
#include <immintrin.h>
#endif

namespace fastssl {
namespace baseline {
namespace {
#define FASTSSL_LANES 4
#define FASTSSL_STRIP 4
#include "simd.h"
// clang-format off
#include FASTSSL_VARIANT
// clang-format on
#undef FASTSSL_LANES
#undef FASTSSL_STRIP
}  // namespace
}  // namespace baseline
}  // namespace fastssl

#ifdef FASTSSL_X86
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
namespace fastssl {
namespace avx2 {
namespace {
#define FASTSSL_LANES 8
#define FASTSSL_STRIP 4
#include "simd.h"
// clang-format off
#include FASTSSL_VARIANT
// clang-format on
#undef FASTSSL_LANES
#undef FASTSSL_STRIP
}  // namespace
}  // namespace avx2
}  // namespace fastssl
#ifdef __clang__
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512vl,avx512bw,avx2,fma"))), \
                             apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512vl,avx512bw,avx2,fma")
#endif
namespace fastssl {
namespace avx512 {
namespace {
#define FASTSSL_LANES 16
#define FASTSSL_STRIP 8
#include "simd.h"
// clang-format off
#include FASTSSL_VARIANT
// clang-format on
#undef FASTSSL_LANES
#undef FASTSSL_STRIP
}  // namespace
}  // namespace avx512
}  // namespace fastssl
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

namespace fastssl {
namespace {

// Whether at::get_cpu_capability() names this instruction set.
inline bool names(const char* capability, const char* set) { return strcmp(capability, set) == 0; }

}  // namespace
}  // namespace fastssl

#ifdef FASTSSL_X86
#define FASTSSL_PICK(capability)                                   \
  (fastssl::names(capability, "AVX512") ? fastssl::avx512::kernels \
   : fastssl::names(capability, "AVX2") ? fastssl::avx2::kernels   \
                                        : fastssl::baseline::kernels)
#else
#define FASTSSL_PICK(capability) fastssl::baseline::kernels
#endif
