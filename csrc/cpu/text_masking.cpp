// BERT's masks over text.
#include "masking.h"

namespace fastssl {

void text_masking(const TextMasking& a) {
  const Samples& samples = a.samples;
#pragma omp parallel for num_threads(samples.threads) if (samples.threads > 1 && samples.n * a.length >= 4096)
  for (int64_t i = 0; i < samples.n; ++i) {
    const Draw d = samples.draw(i);
    for (int64_t t = 0; t < a.length; ++t) {
      const int64_t at = i * a.length + t, token = a.tokens[at];
      const Words w = words_of(d, PURPOSE_TEXT, (uint32_t)t);
      const bool chosen = w.w[0] < a.choose && !(a.special && a.special[at]);
      const int64_t random = (int64_t)(((uint64_t)w.w[2] * (uint64_t)a.vocab_size) >> 32);
      const int64_t hidden = w.w[1] < a.replace ? a.mask_token_id : w.w[1] < a.replace + a.random ? random : token;
      a.inputs[at] = chosen ? hidden : token;
      a.labels[at] = chosen ? token : a.ignore_index;
    }
  }
}

}  // namespace fastssl
