// Random colours and cross-entropies, in memory of exactly the right size, for the sanitizers to watch.
#include "../csrc/cpu/lab_bins.h"
#include "../csrc/cpu/sparse_cross_entropy.h"
#include "fuzz.h"

using namespace fastssl;

static int64_t bytes_of(ElementType type) { return type == TYPE_UINT8 ? 1 : type == TYPE_FLOAT32 ? 4 : 2; }

static float number(float size) { return size * ((float)below(2001) / 1000 - 1); }

static void encode(const char* capability) {
  LabBins l{};
  l.n = 1 + below(3), l.height = 1 + below(9), l.width = 1 + below(one_in(4) ? 200 : 40), l.stride = 1 + below(5);
  l.type = one_of<ElementType>({TYPE_UINT8, TYPE_FLOAT32, TYPE_FLOAT16, TYPE_BFLOAT16});
  int64_t strides[4], reach;
  if (one_in(3)) {  // interleaved
    strides[3] = 3, strides[1] = 1, strides[2] = l.width * 3 + below(3), strides[0] = l.height * strides[2];
    reach = (l.n * l.height - 1) * strides[2] + l.width * 3;
  } else if (one_in(2)) {  // pixels of a row side by side
    strides[3] = 1, reach = strides_of({l.n, 3, l.height}, l.width, strides);
  } else {
    reach = strides_of({l.n, 3, l.height, l.width}, 1, strides);
  }
  Memory<char> images(reach * bytes_of(l.type), below(2) * (int)bytes_of(l.type));
  l.images = images.randomize().data;
  l.sample = strides[0], l.channel = strides[1], l.row = strides[2], l.column = strides[3];
  if (l.type == TYPE_FLOAT32 && one_in(2))  // else any number there is
    for (int64_t i = 0; i < reach; ++i) ((float*)images.data)[i] = number(2);
  for (int c = 0; c < 3; ++c) l.scale[c] = 0.1f + (float)below(3), l.shift[c] = number(1);

  l.count = one_of<int64_t>({1, 2, 16, 17, 1 + below(400)});
  l.neighbors = 1 + below(l.count < 40 || one_in(8) ? l.count : 20);
  Memory<float> bins(2 * l.count);
  const float size = one_of<float>({1, 60, 120, 1e4f});
  for (int64_t i = 0; i < 2 * l.count; ++i) bins.data[i] = number(size);
  if (one_in(16)) bins.randomize();
  l.bins = bins.data, l.falloff = one_of<float>({0.02f, 1, 1e30f});
  const auto cells = cells_of(l.bins, l.count, l.neighbors, 1 + below(3));
  l.cells = one_in(8) ? nullptr : cells.get();

  const int64_t coded = ((l.height + l.stride - 1) / l.stride) * ((l.width + l.stride - 1) / l.stride);
  const int64_t codes = l.n * l.neighbors * coded;
  twice("lab_bins", {l.n * 3 * l.height * l.width * 4, codes * 4, codes * 4}, [&](void* const* out, int threads) {
    l.lab = (float*)out[0], l.index = (int32_t*)out[1], l.weight = (float*)out[2], l.threads = threads;
    lab_kernels(capability).encode(l);
    for (int64_t i = 0; i < codes; ++i)
      if (l.index[i] < 0 || l.index[i] >= l.count) fail("an index of no bin");
  });
}

static void cross_entropy(const char* capability) {
  SparseTargets t{};
  t.n = 1 + below(4), t.places = 1 + below(one_in(3) ? 150 : 20), t.count = 1 + below(6);
  t.classes = one_of<int64_t>({1, 2, 15, 16, 17, 1 + below(400), one_in(8) ? 9000 : 33});
  t.type = one_of<ElementType>({TYPE_FLOAT32, TYPE_FLOAT16, TYPE_BFLOAT16}), t.along_rows = one_in(2);
  int64_t strides[3];
  const int64_t reach =
      strides_of({t.n, t.along_rows ? t.places : t.classes}, t.along_rows ? t.classes : t.places, strides);
  t.sample = strides[0], t.row = t.along_rows ? 1 : strides[1], t.place = t.along_rows ? strides[1] : 1;
  Memory<char> logits(reach * bytes_of(t.type), below(3) * (int)bytes_of(t.type));
  t.logits = logits.randomize().data;
  if (t.type == TYPE_FLOAT32 && one_in(2))
    for (int64_t i = 0; i < reach; ++i) ((float*)logits.data)[i] = number(30);

  t.wide = one_in(2);
  Memory<char> index(strides_of({t.n, t.count, t.places}, 1, strides) * (t.wide ? 8 : 4));
  for (int64_t i = 0; i < index.count / (t.wide ? 8 : 4); ++i) {
    const int64_t named = one_in(16) ? below(9) - 9 : one_in(16) ? t.classes + below(9) : below(t.classes);
    if (t.wide) {
      ((int64_t*)index.data)[i] = one_in(32) ? (int64_t)1 << 40 : named;
    } else {
      ((int32_t*)index.data)[i] = (int32_t)named;
    }
  }
  t.index = index.data, t.index_sample = strides[0], t.index_row = strides[1], t.index_place = strides[2];
  Memory<float> weight(strides_of({t.n, t.count, t.places}, 1, strides));
  for (int64_t i = 0; i < weight.count; ++i) weight.data[i] = one_in(3) ? 0 : number(1);
  t.weight = weight.data, t.weight_sample = strides[0], t.weight_row = strides[1], t.weight_place = strides[2];

  const int64_t places = t.n * t.places, bytes = places * t.classes * bytes_of(t.type);
  const bool with_grad = one_in(2);
  twice("sparse_cross_entropy", {places * 4, places * 8, with_grad ? bytes : 0}, [&](void* const* out, int threads) {
    SparseForward f{t, (float*)out[0], 0.3f, out[2]};
    f.targets.lse = (double*)out[1], f.targets.threads = threads;
    sparse_kernels(capability).forward(f);
  });

  Memory<double> lse(places);
  for (int64_t i = 0; i < places; ++i) lse.data[i] = one_in(16) ? 1e300 : number(50);
  Memory<float> upstream(strides_of({t.n, t.places}, 1, strides));
  for (int64_t i = 0; i < upstream.count; ++i) upstream.data[i] = number(2);
  const bool of_weight = !with_grad || one_in(2);
  twice("its gradient", {with_grad ? bytes : 0, of_weight ? places * t.count * 4 : 0},
        [&](void* const* out, int threads) {
          SparseBackward b{t, upstream.data, strides[0], strides[1], out[0], (float*)out[1]};
          b.targets.lse = lse.data, b.targets.threads = threads;
          sparse_kernels(capability).backward(b);
        });
}

static void round_of_all(const char* capability) {
  encode(capability);
  cross_entropy(capability);
}

int main(int, char** arguments) { run_rounds_per_set(arguments, round_of_all); }
