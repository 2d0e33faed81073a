// Rectangles, one over another, until enough patches are masked.
#include <string.h>

#include "masking.h"

namespace fastssl {
namespace {

void mask_sample(const Draw& draw, int64_t target, int min_patches, int max_patches, const double* log_aspect,
                 int height, int width, bool* mask) {
  memset(mask, 0, (size_t)height * width);
  int64_t count = 0;
  int failures = 0;
  for (uint32_t a = 0; a < BLOCKWISE_ATTEMPTS && count < target && failures < BLOCKWISE_FAILURES; ++a) {
    const int room = (int)(target - count < max_patches ? target - count : max_patches);
    const Box b = blockwise(draw, a, min_patches, room, log_aspect[0], log_aspect[1], height, width);
    int fresh = 0;
    for (int y = b.top; y < b.top + b.height; ++y)
      for (int x = b.left; x < b.left + b.width; ++x) fresh += !mask[y * width + x];
    if (fresh == 0 || fresh > room) {
      ++failures;
      continue;
    }
    for (int y = b.top; y < b.top + b.height; ++y) memset(mask + y * width + b.left, 1, (size_t)b.width);
    count += fresh, failures = 0;
  }
}

}  // namespace

void blockwise_masking(const Samples& samples, const int64_t* target, int64_t target_stride, int min_patches,
                       int max_patches, const double* log_aspect, int height, int width, bool* mask) {
  const int64_t patches = (int64_t)height * width;
#pragma omp parallel for num_threads(samples.threads) if (samples.threads > 1 && samples.n >= 64)
  for (int64_t i = 0; i < samples.n; ++i) {
    const int64_t wanted = target[i * target_stride];
    mask_sample(samples.draw(i), wanted < patches ? wanted : patches, min_patches, max_patches, log_aspect, height,
                width, mask + i * patches);
  }
}

}  // namespace fastssl
