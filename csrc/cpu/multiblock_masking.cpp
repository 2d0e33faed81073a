// Blocks of tokens on a grid.
#include <string.h>

#include "masking.h"

namespace fastssl {

void multiblock_masking(const Samples& samples, const double* table, bool shared_size, int blocks, int frames,
                        int height, int width, bool* mask) {
  const int64_t tokens = (int64_t)frames * height * width;
#pragma omp parallel for num_threads(samples.threads) if (samples.threads > 1 && samples.n * blocks >= 256)
  for (int64_t i = 0; i < samples.n; ++i)
    for (int block = 0; block < blocks; ++block) {
      bool* out = mask + (i * blocks + block) * tokens;
      memset(out, 0, (size_t)tokens);
      const Box b = multiblock(samples.draw(i), (uint32_t)block, table, shared_size, frames, height, width);
      for (int t = b.start; t < b.start + b.frames; ++t)
        for (int y = b.top; y < b.top + b.height; ++y)
          memset(out + ((int64_t)t * height + y) * width + b.left, 1, (size_t)b.width);
    }
}

}  // namespace fastssl
