// Random calls of the masks, in memory of exactly the right size, for the sanitizers to watch; and the pages of large
// results, shared by threads.
#include <math.h>

#include <algorithm>
#include <thread>

#include "../csrc/cpu/masking.h"
#include "../csrc/cpu/pages.h"
#include "fuzz.h"

using namespace fastssl;

// n samples with ids of 64 bits or none.
struct Batch {
  explicit Batch(int64_t n) : n(n), seed((uint64_t)words().w[0] << 32 | words().w[0]), ids(one_in(2) ? n : 0) {
    ids.randomize();
  }
  Samples samples(int threads) const { return {seed, ids.data, n, (uint32_t)seed, threads}; }
  int64_t n;
  uint64_t seed;
  Memory<int64_t> ids;
};

static int few_or_many() { return 1 + below(one_in(4) ? 300 : 5); }  // samples: many are worth more than one thread

static void random_masks() {
  const Batch batch(few_or_many());
  const int64_t n = batch.n, prefix = below(4), patches = below(one_in(8) ? 2000 : 200), length = prefix + patches;
  const int kind = below(3), bytes = kind == 2 ? 8 : 4;
  Memory<char> noise(kind ? n * patches * bytes : 0);
  noise.randomize();
  for (int64_t i = 0; i < noise.count; i += bytes)
    if (one_in(8)) memset(noise.data + i, one_of<int>({0, 0xff, 0x3f}), bytes);  // ties, and NaN
  Memory<int64_t> keep(one_in(2) ? n : 0);
  for (int64_t i = 0; i < keep.count; ++i) keep.data[i] = prefix + below(patches + 1);
  int64_t least = prefix + below(patches + 1), most = least;
  if (keep.count) {
    least = *std::min_element(keep.data, keep.data + n), most = *std::max_element(keep.data, keep.data + n);
  }
  const std::vector<int64_t> results = {n * (most + length - least) * 8, n * length * 8, n * length * 4};
  twice("random_masking", results, [&](void* const* out, int threads) {
    random_masking({batch.samples(threads), kind ? noise.data : nullptr, kind == 2, keep.data, length, prefix, most,
                    length - least, (int64_t*)out[0], (int64_t*)out[1], (float*)out[2]});
  });
}

// Two numbers, the lower one first.
static void push_range(std::vector<double>& table, const std::vector<double>& values) {
  const double a = one_of(values), b = one_of(values);
  table.push_back(std::min(a, b)), table.push_back(std::max(a, b));
}

static const std::vector<double> SCALES = {1, 1, 0.5, 0.2, 0.15, 0.01, 1e-300};
static const std::vector<double> RATIOS = {1, 0.75, 1.5, 0.3, 3, 100, 1e-3, 5e-324, 1e-300, 1e300, 1.7e308};

static void multiblock_masks() {
  const Batch batch(few_or_many());
  const int blocks = 1 + below(5), frames = one_in(2) ? 1 : 1 + below(8), height = 1 + below(30), width = 1 + below(30);
  const bool shared = one_in(2);
  std::vector<double> table;
  push_range(table, SCALES), push_range(table, RATIOS), push_range(table, SCALES);
  const Memory<double> bounds(6);
  memcpy(bounds.data, table.data(), 48);
  twice("multiblock_masking", {batch.n * blocks * frames * height * width}, [&](void* const* out, int threads) {
    multiblock_masking(batch.samples(threads), bounds.data, shared, blocks, frames, height, width, (bool*)out[0]);
  });
}

static void blockwise_masks() {
  const Batch batch(few_or_many());
  const int height = 1 + below(30), width = 1 + below(30), patches = height * width;
  const int least = one_in(4) ? one_of<int>({1, 1000, INT32_MAX}) : 1 + below(20);
  const int most = one_in(2) ? patches : 1 + below(patches);
  const int stride = below(3);
  Memory<int64_t> target((batch.n - 1) * stride + 1);
  for (int64_t i = 0; i < target.count; ++i)
    target.data[i] = one_in(8) ? one_of<int64_t>({-1, INT64_MIN, INT64_MAX, 0, patches}) : below(patches + 1);
  std::vector<double> ratios;
  push_range(ratios, RATIOS);
  const Memory<double> log_ratios(2);
  for (int i = 0; i < 2; ++i) log_ratios.data[i] = log(ratios[i]);
  twice("blockwise_masking", {batch.n * patches}, [&](void* const* out, int threads) {
    blockwise_masking(batch.samples(threads), target.data, stride, least, most, log_ratios.data, height, width,
                      (bool*)out[0]);
  });
}

static void text_masks() {
  const Batch batch(few_or_many());
  const int64_t n = batch.n, length = below(200);
  Memory<int64_t> tokens(n * length);
  tokens.randomize();
  Memory<bool> special(one_in(2) ? n * length : 0);
  for (int64_t i = 0; i < special.count; ++i) special.data[i] = one_in(3);
  const std::vector<int64_t> thresholds = {0, 1, 644245094, (int64_t)1 << 31, (int64_t)1 << 32};
  const int64_t choose = one_of(thresholds), replace = one_of(thresholds);
  const int64_t random = std::min(one_of(thresholds), ((int64_t)1 << 32) - replace);
  const int64_t vocabulary = one_of<int64_t>({1, 30522, (int64_t)1 << 40});
  twice("text_masking", {n * length * 8, n * length * 8}, [&](void* const* out, int threads) {
    text_masking({batch.samples(threads), tokens.data, special.data, length, 103, vocabulary, choose, replace, random,
                  -100, (int64_t*)out[0], (int64_t*)out[1]});
  });
}

// Threads take blocks and return them; what one holds, no other may change.
static void pages() {
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    std::vector<size_t> sizes;
    for (int i = 0; i < 20; ++i) sizes.push_back(((size_t)4 << 20) + (size_t)below(12 << 20));
    threads.emplace_back([t, sizes] {
      std::deque<Pages*> held;
      const auto tag = [&](Pages* p) { return (uint8_t)((size_t)p->data >> 21 ^ (size_t)t); };
      const auto give_back = [&] {
        Pages* p = held.front();
        held.pop_front();
        for (size_t i = 0; i < p->bytes; i += 4095)
          if (((uint8_t*)p->data)[i] != tag(p)) fail("two hold the same pages");
        return_pages(p);
      };
      for (size_t bytes : sizes) {
        Pages* p = take_pages(bytes);
        if (!p || p->bytes < bytes || (size_t)p->data % ((size_t)2 << 20)) fail("pages are missing, or not aligned");
        for (size_t i = 0; i < p->bytes; i += 4095) ((uint8_t*)p->data)[i] = tag(p);
        ((uint8_t*)p->data)[p->bytes - 1] = tag(p);
        held.push_back(p);
        if (held.size() > 2) give_back();
      }
      while (!held.empty()) give_back();
    });
  }
  for (auto& thread : threads) thread.join();
}

int main(int, char** arguments) {
  setenv("FASTSSL_CPU_CACHE_MIB", "24", 1);  // of which some must go
  run_rounds(arguments, "", [] {
    random_masks(), multiblock_masks(), blockwise_masks(), text_masks();
    if (one_in(25)) pages();
  });
}
