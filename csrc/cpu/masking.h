// Masks on the CPU: torch-free, a sample a thread. Compiled for the baseline: nothing that draws may be fused, see
// ../common/portable.h.
#pragma once

#include <cstdint>

#ifdef __clang__
#pragma STDC FP_CONTRACT OFF
#else
#pragma GCC optimize("fp-contract=off")
#endif

#include "../common/masking.h"

namespace fastssl {

// The samples of a call.
struct Samples {
  uint64_t seed;
  const int64_t* ids;  // [n], or null for 0 .. n - 1
  int64_t n;
  uint32_t view;
  int threads;

  Draw draw(int64_t i) const { return {seed, ids ? ids[i] : i, view}; }
};

struct RandomMasking {
  Samples samples;
  const void* noise;  // [n, length - prefix] float32 or float64; or null for that of the seed
  bool float64;
  const int64_t* keep;  // [n], or null for num_keep of each
  int64_t length, prefix, num_keep, num_masked;
  int64_t* ids_shuffle;  // [n, num_keep + num_masked]
  int64_t* ids_restore;  // [n, length]
  float* mask;           // [n, length]
};

void random_masking(const RandomMasking&);

// mask [n, blocks, frames, height, width]; `table` as in ../common/masking.h.
void multiblock_masking(const Samples&, const double* table, bool shared_size, int blocks, int frames, int height,
                        int width, bool* mask);

// mask [n, height, width]; the targets are `target_stride` elements apart.
void blockwise_masking(const Samples&, const int64_t* target, int64_t target_stride, int min_patches, int max_patches,
                       const double* log_aspect, int height, int width, bool* mask);

struct TextMasking {
  Samples samples;
  const int64_t* tokens;  // [n, length]
  const bool* special;    // [n, length], or null
  int64_t length, mask_token_id, vocab_size;
  int64_t choose, replace, random;  // thresholds of 32-bit words
  int64_t ignore_index;
  int64_t* inputs;  // [n, length]
  int64_t* labels;  // [n, length]
};

void text_masking(const TextMasking&);

}  // namespace fastssl
