// Compiles ntxent_tiles.h once per instruction set, into one library that runs on any processor of the architecture.
// No function of these variants may be shared: their namespaces are unnamed, and they use no inline function of the
// standard library, whose one surviving copy could be the AVX-512 one. Nor are there templates in them: GCC does not
// give a template's instances the target of the place where it stands.
#include "ntxent.h"

#include <math.h>
#include <string.h>

#define FASTSSL_INLINE inline __attribute__((always_inline))

namespace fastssl {
constexpr double NTXENT_EPS = 1e-12;  // of torch.nn.functional.normalize
constexpr double LN2 = 0.693147180559945309417;
}  // namespace fastssl

#if defined(__x86_64__) && defined(__GNUC__)
#define FASTSSL_X86 1
#endif

namespace fastssl {
namespace baseline {
namespace {
#define FASTSSL_LANES 4
#define FASTSSL_STRIP 4
#include "simd.h"
// clang-format off
#include "ntxent_tiles.h"
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
#include "ntxent_tiles.h"
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
#include "ntxent_tiles.h"
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

const NTXentKernels& ntxent_kernels(const char* capability) {
#ifdef FASTSSL_X86
  if (strcmp(capability, "AVX512") == 0) return avx512::kernels;
  if (strcmp(capability, "AVX2") == 0) return avx2::kernels;
#else
  (void)capability;
#endif
  return baseline::kernels;
}

}  // namespace fastssl
