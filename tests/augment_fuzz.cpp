// Augments random images into random views in memory of exactly the right size, for the sanitizers to watch.
#include "../csrc/cpu/augment.h"
#include "../csrc/cpu/sample_params.h"
#include "fuzz.h"

using namespace fastssl;

static void one(const char* capability) {
  const int channels = below(2) ? 3 : 1, n = 1 + below(3), views = 1 + below(2), largest = below(8) ? 64 : 300;
  const bool ragged = below(2), interleaved = below(2);
  std::vector<int64_t> extents, heights, widths, ids;
  int64_t total = 0;
  int max_height = 0, max_width = 0;
  for (int i = 0; i < n; ++i) {
    const int h = ragged || i == 0 ? 1 + below(largest) : max_height;
    const int w = ragged || i == 0 ? 1 + below(largest) : max_width;
    extents.insert(extents.end(), {total, h, w});
    heights.push_back(h), widths.push_back(w), ids.push_back(i);
    total += (int64_t)h * w * channels;
    max_height = h > max_height ? h : max_height, max_width = w > max_width ? w : max_width;
  }
  Memory<uint8_t> pixels(total, below(4));
  pixels.randomize();

  std::vector<AugmentOutput> outputs;
  std::deque<Memory<char>> buffers;
  std::vector<double> table;
  const ElementType type = (ElementType)below(3);
  for (int v = 0; v < views; ++v) {
    const int h = 1 + below(below(6) ? 64 : 250), w = below(3) ? 1 + below(64) : h;
    void* out = buffers.emplace_back((int64_t)n * channels * h * w * (type == TYPE_FLOAT32 ? 4 : 2)).data;
    const int64_t plane = (int64_t)h * w;
    if (below(2)) {
      outputs.push_back({out, h, w, channels * plane, plane, w, 1});
    } else {
      outputs.push_back({out, h, w, channels * plane, 1, (int64_t)channels * w, channels});
    }
    const double row[28] = {0.01, 1,   -1,  1,   0.37, 2.7, 0.5, 0.5,  0.5, 0.9, 0.8, 0.8, 0.8,
                            0.8,  0.2, 1.8, 0.2, 1.8,  0.2, 1.8, -0.5, 0.5, 0.3, 0.6, 0.1, below(5) ? 2.0 : 40.0,
                            0.4,  0.5};
    table.insert(table.end(), row, row + 28);
  }
  std::vector<AugmentParams> params(n * views);
  sample_params((int64_t)state, ids.data(), heights.data(), 1, widths.data(), 1, table.data(), n, views, 1,
                params.data());
  for (AugmentParams& p : params)
    if (below(4) == 0) p.top -= below(9), p.left += below(99), p.height += below(99), p.width -= below(99);  // clamped

  Augment a{};
  a.n = n, a.channels = channels, a.views = views, a.pixels = pixels.data;
  a.extents = ragged ? extents.data() : nullptr;
  const int64_t h = max_height, w = max_width;
  a.image_stride = channels * h * w;
  a.channel_stride = interleaved ? 1 : h * w;
  a.row_stride = interleaved ? channels * w : w;
  a.column_stride = interleaved ? channels : 1;
  a.height = max_height, a.width = max_width;
  a.params = params.data(), a.outputs = outputs.data();
  a.bicubic = below(2), a.uint8 = below(2), a.blur_kernel = below(2) ? 0 : 2 * below(15) + 1;
  for (int c = 0; c < 3; ++c) a.mean[c] = 0.5f, a.std[c] = 0.25f;
  a.type = type, a.threads = 1 + below(2);
  const AugmentKernels& kernels = augment_kernels(capability);
  Memory<float> workspace(a.threads * kernels.workspace(a));
  a.workspace = workspace.data;
  kernels.augment(a);
}

int main(int, char** arguments) { run_rounds_per_set(arguments, one); }
