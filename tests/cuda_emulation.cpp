// The CUDA kernel's own stages on the host: a cluster's blocks one after another, and a loop in place of the threads.
// Every part of a block's shared memory is an allocation of its own, of exactly the size that the kernel asks for, and
// full of NaN, so that -fsanitize=address sees an index that leaves its part, and a test a value nobody wrote.
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "../csrc/cuda/augment_view.h"
#include "../csrc/cuda/sample_params.h"

namespace fastssl {
namespace {

struct TakeHeap {
  std::vector<std::unique_ptr<char[]>> parts;
  template <class T>
  T* take(int64_t count) {
    parts.emplace_back(new char[count * sizeof(T)]);
    std::memset(parts.back().get(), 0xff, count * sizeof(T));
    return reinterpret_cast<T*>(parts.back().get());
  }
};

struct HostBlock {
  TakeHeap heap;
  AugmentMemory memory_;
  float* rows;
  HostBlock* cluster;
  bool backwards;  // the order in which "threads" run: no result may depend on it

  AugmentMemory& memory() { return memory_; }
  float* state() { return rows; }
  float* state(int rank) { return cluster[rank].rows; }
  double* partial(int rank) { return cluster[rank].memory_.partial; }

  template <class F>
  void each(int height, int width, F f) {
    for (int64_t i = 0; i < (int64_t)height * width; ++i) {
      const int64_t at = backwards ? (int64_t)height * width - 1 - i : i;
      f((int)(at / width), (int)(at % width));
    }
  }
  template <class F>
  double sum(int height, int width, F f) {
    double sum = 0;
    for (int row = 0; row < height; ++row)
      for (int column = 0; column < width; ++column) sum += f(row, column);
    return sum;
  }
  template <class F>
  double largest(int height, int width, F f) {
    double most = 0;
    each(height, width, [&](int row, int column) { most = f(row, column) > most ? f(row, column) : most; });
    return most;
  }
};

template <bool UINT8>
void run(const AugmentCall& call, bool backwards) {
  const int blocks = call.layout.blocks;
  std::vector<float> workspace(call.layout.on_chip ? 0 : (size_t)blocks * call.layout.state, __builtin_nanf(""));
  for (int64_t cluster = 0; cluster < call.n * call.count; ++cluster) {
    std::vector<HostBlock> block(blocks);
    std::vector<View> view(blocks);
    for (int rank = 0; rank < blocks; ++rank) {
      HostBlock& b = block[rank];
      take_memory(b.memory_, b.heap, call.layout);
      b.rows = call.layout.on_chip ? b.memory_.state : workspace.data() + (size_t)rank * call.layout.state;
      b.cluster = block.data(), b.backwards = backwards;
      view[rank] = view_of(call, cluster, rank);
    }
    for (int rank = 0; rank < blocks; ++rank) resize_stage<UINT8>(block[rank], call, view[rank]);
    for (int rank = 0; rank < blocks; ++rank) colour_stage<UINT8>(block[rank], call, view[rank]);
    for (int rank = 0; rank < blocks && view[0].blurs(); ++rank) down_stage<UINT8>(block[rank], call, view[rank]);
  }
}

}  // namespace
}  // namespace fastssl

using namespace fastssl;

// `blocks` 0 for the layout that the launcher chooses; on_chip is heeded only where blocks is given. `strides` are
// those of [n, C, H, W] pixels.
extern "C" void emulate_augment(const uint8_t* pixels, const int64_t* extents, const int64_t* strides, int height,
                                int width, const int32_t* params, int64_t n, int views, int channels, int group_count,
                                void* const* data, const int* heights, const int* widths, const int* counts,
                                int bicubic, int blur_kernel, const float* mean, const float* scale, int type,
                                int channels_last, int uint8, int blocks, int on_chip, int buffer, int backwards) {
  AugmentCall call = {};
  call.pixels = pixels, call.extents = extents;
  call.image_stride = strides[0], call.channel_stride = strides[1];
  call.row_stride = strides[2], call.column_stride = strides[3];
  call.height = height, call.width = width;
  call.params = reinterpret_cast<const AugmentParams*>(params);
  call.n = n, call.views = views, call.channels = channels, call.count = views, call.group_count = group_count;
  int first = 0;
  for (int g = 0; g < group_count; ++g) {
    const int64_t sample = (int64_t)channels * heights[g] * widths[g];
    call.groups[g] = {data[g], heights[g], widths[g], first, counts[g], n * sample, sample};
    first += counts[g];
  }
  call.bicubic = bicubic, call.uint8 = uint8, call.channels_last = channels_last, call.blur_kernel = blur_kernel;
  for (int c = 0; c < channels; ++c) call.mean[c] = mean[c], call.scale[c] = scale[c];
  call.type = static_cast<ElementType>(type);
  call.layout = blocks ? layout_of(call, blocks, on_chip) : choose_layout(call);
  if (buffer) call.layout.buffer = max_of(buffer, channels * 3 * whole(call.layout.columns));
  uint8 ? run<true>(call, backwards) : run<false>(call, backwards);
}

// The launcher's choice for views of `channels`: blocks, 1 if the state is on the chip, bytes of shared memory a block.
extern "C" void emulate_layout(int channels, int height, int width, int64_t* out) {
  AugmentCall call = {};
  call.channels = channels, call.group_count = 1;
  call.groups[0] = {nullptr, height, width, 0, 1, 0, 0};
  const AugmentLayout layout = choose_layout(call);
  out[0] = layout.blocks, out[1] = layout.on_chip, out[2] = shared_bytes(layout);
}

extern "C" void emulate_sample_params(int64_t seed, const int64_t* ids, const int64_t* heights, const int64_t* widths,
                                      int64_t size_stride, const double* table, int64_t n, int views, int32_t* out) {
  for (int first = 0; first < views; first += MOST_RECIPES) {
    const int count = min_of(MOST_RECIPES, views - first);
    SampleParamsCall call = {nullptr,
                             seed,
                             ids,
                             heights,
                             widths,
                             size_stride,
                             size_stride,
                             n,
                             first,
                             count,
                             views,
                             {},
                             reinterpret_cast<AugmentParams*>(out)};
    std::memcpy(call.recipes, table + 28 * first, count * sizeof(ViewRecipe));
    for (int64_t i = 0; i < n * count; ++i) draw_params(call, i);
  }
}
