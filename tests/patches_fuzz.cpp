// Random grids of patches, in memory of exactly the right size, for the sanitizers to watch.
#include "../csrc/cpu/extract_patches.h"
#include "fuzz.h"

using namespace fastssl;

static int64_t bytes_of(ElementType type) { return type == TYPE_UINT8 ? 1 : type == TYPE_FLOAT32 ? 4 : 2; }

static void extract(const char* capability) {
  ExtractPatches e{};
  e.n = 1 + below(3), e.channels = one_of<int64_t>({1, 2, 3, 3, 3, 5});
  PatchGrid& g = e.grid;
  g.rows = 1 + below(3), g.columns = 1 + below(3), g.height = 1 + below(40), g.width = 1 + below(one_in(8) ? 200 : 40);
  g.gap = below(9) - below(g.height < g.width ? g.height : g.width), g.jitter = below(5);
  g.image_height = g.rows * (g.height + g.gap) - g.gap + 2 * g.jitter + below(3);
  g.image_width = g.columns * (g.width + g.gap) - g.gap + 2 * g.jitter + below(3);

  e.type = one_of<ElementType>({TYPE_UINT8, TYPE_FLOAT32, TYPE_FLOAT16, TYPE_BFLOAT16});
  e.out_type = one_of<ElementType>({TYPE_FLOAT32, TYPE_FLOAT16, TYPE_BFLOAT16});
  int64_t strides[4], reach;
  if (one_in(3)) {  // interleaved
    const int64_t rows = e.n * g.image_height;
    strides[3] = e.channels, strides[1] = 1, strides[2] = g.image_width * e.channels + below(3);
    strides[0] = g.image_height * strides[2], reach = (rows - 1) * strides[2] + g.image_width * e.channels;
  } else if (one_in(2)) {  // pixels of a row side by side
    strides[3] = 1, reach = strides_of({e.n, e.channels, g.image_height}, g.image_width, strides);
  } else {
    reach = strides_of({e.n, e.channels, g.image_height, g.image_width}, 1, strides);
  }
  Memory<char> images(reach * bytes_of(e.type), below(2) * (int)bytes_of(e.type));
  e.images = images.randomize().data;
  e.sample = strides[0], e.channel = strides[1], e.row = strides[2], e.column = strides[3];

  Memory<int64_t> ids(one_in(2) ? e.n : 0);
  e.ids = ids.randomize().data;
  const Words seed = words();
  e.seed = (uint64_t)seed.w[0] << 32 | seed.w[1], e.view = seed.w[2];
  e.standardize = one_in(2), e.keep = one_of<int64_t>({0, 1, (int64_t)1 << 31, (int64_t)1 << 32});
  Memory<double> scale(e.channels), shift(e.channels);
  for (int64_t c = 0; c < e.channels; ++c) scale.data[c] = 0.01 + below(100), shift.data[c] = below(9) - 4;
  e.scale = scale.data, e.shift = shift.data;

  const int64_t patches = e.n * g.rows * g.columns;
  const std::vector<int64_t> results = {patches * e.channels * g.height * g.width * bytes_of(e.out_type), patches * 16};
  twice("extract_patches", results, [&](void* const* out, int threads) {
    e.patches = out[0], e.corners = (int64_t*)out[1], e.threads = threads;
    extract_kernels(capability).extract(e);
    for (int64_t i = 0; i < patches; ++i)
      if (e.corners[2 * i] < 0 || e.corners[2 * i] + g.height > g.image_height || e.corners[2 * i + 1] < 0 ||
          e.corners[2 * i + 1] + g.width > g.image_width)
        fail("a patch leaves its image");
  });
}

int main(int, char** arguments) { run_rounds_per_set(arguments, extract); }
