// Random tokens, images and ids through the kernels of masked training, in memory of exactly the right size, for the
// sanitizers to watch.
#include "../csrc/cpu/gather_tokens.h"
#include "../csrc/cpu/mask_patchify.h"
#include "../csrc/cpu/masked_mse.h"
#include "../csrc/cpu/restore_tokens.h"
#include "fuzz.h"

using namespace fastssl;

constexpr int64_t STREAM_BYTES = 4 << 20;  // the kernels write results from this size on in another way

static int64_t bytes_of(ElementType type) { return type == TYPE_FLOAT32 ? 4 : type == TYPE_UINT8 ? 1 : 2; }
static ElementType float_type() { return (ElementType)below(3); }

// Elements of any type.
struct Elements {
  Elements(ElementType type, int64_t count) : memory(count * bytes_of(type), (int)bytes_of(type) * below(3)) {
    memory.randomize();
  }
  Memory<char> memory;
};

// [n, rows, width]
struct Rows {
  Rows(ElementType type, int64_t n, int64_t rows, int64_t width)
      : elements(type, strides_of({n, rows}, width, strides)),
        view{elements.memory.data, type, strides[0], strides[1]} {}
  int64_t strides[2];
  Elements elements;
  TokenRows view;
};

// [n, count], most of which name one of `length` tokens.
struct Ids {
  Ids(int64_t n, int64_t count, int64_t length)
      : memory(strides_of({n, count}, 1, strides), below(2)), view{memory.data, strides[0], strides[1], count} {
    for (int64_t i = 0; i < memory.count; ++i)
      memory.data[i] = length && !one_in(4) ? below(length) : one_of<int64_t>({-1, -2, length, INT64_MIN, INT64_MAX});
  }
  int64_t strides[2];
  Memory<int64_t> memory;
  TokenIds view;
};

// [n, channels, frames, height, width], whole patches.
struct Images {
  explicit Images(int64_t n, int largest_grid) : p{} {
    const bool video = one_in(3), square = one_in(3);
    p.channels = one_in(2) ? 3 : 1 + below(16);
    p.frames = video ? 1 + below(3) : 1, p.height = 1 + below(9), p.width = square ? p.height : 1 + below(20);
    p.grid_frames = video ? 1 + below(3) : 1, p.grid_height = 1 + below(largest_grid);
    p.grid_width = 1 + below(largest_grid);
    p.type = (ElementType)below(4), p.channels_last = one_in(2), p.plain = one_in(3);
    const int64_t frames = p.frames * p.grid_frames, height = p.height * p.grid_height, width = p.width * p.grid_width;
    int64_t strides[5], count;
    if (one_in(3)) {  // memory format channels_last
      count = strides_of({n, frames, height}, width * p.channels, strides);
      p.sample = strides[0], p.channel = 1, p.frame = strides[1], p.row = strides[2], p.column = p.channels;
    } else {
      count = strides_of({n, p.channels, frames, height, width}, 1, strides);
      p.sample = strides[0], p.channel = strides[1], p.frame = strides[2], p.row = strides[3], p.column = strides[4];
    }
    p.images = pixels.emplace_back(p.type, count).memory.data;
    if (!p.plain) {
      p.scale = factors.emplace_back(p.size()).randomize().data;
      p.shift = factors.emplace_back(p.size()).randomize().data;
    }
  }
  std::deque<Elements> pixels;
  std::deque<Memory<float>> factors;
  Patches p;
};

// A number of rows; or, once in a while, so many that their bytes are streamed.
static int64_t count_of(int64_t n, int64_t row_bytes) {
  return row_bytes >= 200 && one_in(16) ? STREAM_BYTES / (n * row_bytes) + 1 + below(3) : below(40);
}

static int64_t width_of() { return one_in(20) ? 0 : one_in(3) ? 1 + below(20) : 1 + below(200); }

static void gather(const char* set) {
  const ElementType type = float_type();
  const int64_t n = 1 + below(4), prefix = below(3), width = width_of(), bytes = width * bytes_of(type);
  const int64_t length = prefix + below(40), count = count_of(n, bytes);
  const Rows x(type, n, length, width);
  const Ids ids(n, count, length - prefix);
  twice("gather", {n * (prefix + count) * bytes}, [&](void* const* out, int threads) {
    const int64_t element = bytes_of(type);
    gather_kernels(set).gather({(const char*)x.view.data, x.view.sample * element, x.view.row * element, bytes,
                                ids.view, n, length, prefix, threads, (char*)out[0]});
  });
}

static void collect(const char* set) {
  const ElementType type = float_type();
  const int64_t n = 1 + below(4), prefix = below(3), width = width_of(), bytes = width * bytes_of(type);
  const int64_t length = prefix + count_of(n, bytes), count = one_in(2) ? count_of(n, bytes) : below(300);
  const Rows x(type, n, prefix + count, width);
  const Ids ids(n, count, length - prefix);
  twice("collect", {n * length * bytes}, [&](void* const* out, int threads) {
    Memory<int32_t> first(n * (length - prefix)), next(n * count);
    gather_kernels(set).collect({x.view, ids.view, n, length, prefix, width, threads, first.data, next.data, out[0]});
  });
}

static void restore(const char* set) {
  const ElementType type = float_type(), out_type = one_in(2) ? TYPE_FLOAT32 : type;
  const int64_t n = 1 + below(4), prefix = below(3), width = width_of(), bytes = width * bytes_of(out_type);
  const int64_t num_visible = prefix + below(40), count = count_of(n, bytes), rows = prefix + count;
  const Rows visible(type, n, num_visible, width);
  const Ids ids(n, count, num_visible - prefix);
  Memory<float> mask_token(width), pos(one_in(2) ? rows * width : 0);
  mask_token.randomize(), pos.randomize();
  twice("restore", {n * rows * bytes}, [&](void* const* out, int threads) {
    restore_kernels(set).restore(
        {visible.view, ids.view, n, num_visible, prefix, width, mask_token.data, pos.data, threads, out_type, out[0]});
  });
}

static void restore_sums(const char* set) {
  const ElementType type = float_type();
  const int64_t n = 1 + below(one_in(8) ? 100 : 4), prefix = below(3), width = width_of(), count = below(150);
  const int64_t rows = prefix + count, num_visible = prefix + below(40);
  const bool with_pos = one_in(2);
  const int chunks = rows < 64 ? (int)rows : 64;
  const Rows grad(type, n, rows, width);
  const Ids ids(n, count, num_visible - prefix);
  twice("sums", {width * 4, with_pos ? rows * width * 4 : 0}, [&](void* const* out, int threads) {
    Memory<double> workspace(chunks * width);
    restore_kernels(set).sums({grad.view, ids.view, n, num_visible, prefix, width, threads, chunks, workspace.data,
                               (float*)out[0], (float*)out[1]});
  });
}

static void patchify(const char* set) {
  const ElementType type = float_type();
  const int64_t n = 1 + below(3);
  const Images images(n, 5);
  const int64_t bytes = images.p.size() * bytes_of(type), count = count_of(n, bytes);
  const Ids ids(n, count, images.p.tokens());
  twice("patchify", {n * count * bytes}, [&](void* const* out, int threads) {
    patch_kernels(set).patchify({images.p, ids.view, n, threads, type, out[0]});
  });
}

static void sum(const char* set) {
  const ElementType type = float_type();
  const int64_t n = 1 + below(one_in(8) ? 100 : 4), width = width_of(), length = 1 + below(40), count = below(60);
  const Rows x(type, n, count, width);
  const Ids ids(n, count, length);
  twice("sum", {length * width * 4}, [&](void* const* out, int threads) {
    Memory<int32_t> first(n * length), next(n * count);
    patch_kernels(set).sum({x.view, ids.view, n, length, width, threads, first.data, next.data, (float*)out[0]});
  });
}

static void masked_mse(const char* set) {
  const int64_t n = 1 + below(3);
  const bool by_ids = one_in(2), with_grad = !one_in(4);
  const Images images(n, by_ids || !one_in(4) ? 5 : 30);
  const ElementType type = float_type(), grad_type = type == TYPE_FLOAT16 ? TYPE_FLOAT32 : type;
  const int64_t size = images.p.size(), bytes = size * bytes_of(grad_type), tokens = images.p.tokens();
  const int64_t rows = by_ids ? count_of(n, bytes) : tokens;
  const Rows pred(type, n, rows, size);
  const Ids ids(n, by_ids ? rows : 0, tokens);
  int64_t strides[2];
  Memory<float> weights(strides_of({n, rows}, 1, strides), below(2));
  for (int64_t i = 0; i < weights.count; ++i) weights.data[i] = one_of<float>({0, 0, 1, 1, 1, 0.3f});
  MaskedMSE m{};
  m.patches = images.p, m.pred = pred.view, m.n = n, m.rows = rows;
  if (by_ids) {
    m.ids = ids.view;
  } else {
    m.weights = weights.data, m.weight_sample = strides[0], m.weight_token = strides[1];
  }
  m.loss = (PatchLoss)below(3), m.beta = one_of<float>({1, 0.1f, 1e-30f}), m.norm_pix = one_in(2) && size > 1;
  m.grad_type = grad_type;
  twice("masked_mse", {4, with_grad ? n * rows * bytes : 0}, [&](void* const* out, int threads) {
    Memory<float> partial(n * rows);
    m.threads = threads, m.partial = partial.data, m.value = (float*)out[0], m.grad = out[1];
    masked_mse_kernels(set).forward(m);
  });
}

int main(int, char** arguments) {
  run_rounds_per_set(arguments, [](const char* set) {
    for (auto kernel : {gather, collect, restore, restore_sums, patchify, sum, masked_mse}) kernel(set);
  });
}
