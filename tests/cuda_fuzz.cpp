// Random images and views through the emulated kernel, in memory of exactly the right size, for the sanitizers to
// watch; and every element of every view must have been written.
#include "cuda_emulation.cpp"
#include "fuzz.h"

static void one() {
  const int channels = below(2) ? 3 : 1, n = 1 + below(2), group_count = 1 + below(2), largest = below(8) ? 48 : 300;
  const bool ragged = below(2), interleaved = below(2), garbage = below(4) == 0;
  std::vector<int64_t> extents, ids, sizes[2];
  int64_t total = 0;
  for (int i = 0; i < n; ++i) {
    for (auto& side : sizes) side.push_back(i == 0 || ragged ? 1 + below(largest) : side[0]);
    extents.insert(extents.end(), {total, sizes[0][i], sizes[1][i]});
    ids.push_back(below(1000)), total += sizes[0][i] * sizes[1][i] * channels;
  }
  const int height = (int)sizes[0][0], width = (int)sizes[1][0];
  Memory<uint8_t> pixels(total, below(4));
  pixels.randomize();

  const int type = below(3), bytes = type == TYPE_FLOAT32 ? 4 : 2;
  int heights[2], widths[2], counts[2], views = 0;
  void* data[2];
  std::deque<Memory<uint8_t>> outputs;
  for (int g = 0; g < group_count; ++g) {
    heights[g] = 1 + below(below(5) ? 40 : 150), widths[g] = below(3) ? 1 + below(40) : heights[g];
    counts[g] = 1 + below(2), views += counts[g];
    outputs.emplace_back((int64_t)counts[g] * n * channels * heights[g] * widths[g] * bytes);
    std::memset(data[g] = outputs[g].data, 0xff, outputs[g].count);
  }
  std::vector<double> table;
  const double row[28] = {0.01, 1,   -1,  1,   0.37, 2.7, 0.5, 0.5,  0.5, 0.9, 0.8, 0.8, 0.8,
                          0.8,  0.2, 1.8, 0.2, 1.8,  0.2, 1.8, -0.5, 0.5, 0.3, 0.6, 0.1, below(5) ? 2.0 : 40.0,
                          0.4,  0.5};
  for (int v = 0; v < views; ++v) table.insert(table.end(), row, row + 28);
  std::vector<int32_t> params(12 * n * views);
  emulate_sample_params(below(1000), ids.data(), sizes[0].data(), sizes[1].data(), 1, table.data(), n, views,
                        params.data());
  // What a GPU cannot refuse: crops that leave the image, and then anything at all.
  for (int i = 0; i < n * views; ++i) {
    if (below(4) == 0) params[12 * i + below(4)] += (int)below(199) - 99;
    for (int word = 0; garbage && word < 12; ++word)
      if (below(3) == 0) params[12 * i + word] = (int32_t)philox(3, below(1u << 31), 0, 0, 0).w[0];
  }
  const int64_t plane = (int64_t)height * width, image = plane * channels;
  const int64_t planar[4] = {image, plane, width, 1}, mixed[4] = {image, 1, (int64_t)channels * width, channels};
  const float mean[3] = {0.5f, 0.4f, 0.3f}, scale[3] = {4.f, 5.f, 6.f};
  const int block_counts[5] = {0, 1, 2, 4, 8};
  emulate_augment(pixels.data, ragged ? extents.data() : nullptr, interleaved ? mixed : planar, height, width,
                  params.data(), n, views, channels, group_count, data, heights, widths, counts, below(2),
                  below(2) ? 0 : 2 * below(15) + 1, mean, scale, type, below(2), below(2), block_counts[below(5)],
                  below(3) != 0, below(2), below(2));
  for (int g = 0; g < group_count && !garbage; ++g)
    for (int64_t i = 0; i < outputs[g].count; i += bytes) {
      uint32_t bits = ~0u;
      std::memcpy(&bits, outputs[g].data + i, bytes);
      if (bits != ~0u) continue;
      fprintf(stderr, "an element of a view of %d x %d was not written\n", heights[g], widths[g]);
      exit(1);
    }
}

int main(int, char** arguments) { run_rounds(arguments, "", one); }
