// Cross-entropies with sparse soft targets, a tile of places at a time, whose logits stay in the second cache. Included
// by sparse_cross_entropy.cpp, once per instruction set.
//
// A tile's exponentials e = e^(z - m) are kept until their sum s is known. With W the sum of a place's weights its
// gradient is W/s e, less w_k at each target: as W/s (e - w_k s/W), the targets are taken off before the one pass that
// multiplies and writes.
// clang-format off
#include "elements.h"
#include "streams.h"
// clang-format on

constexpr int64_t VECTORS = 4;             // of places side by side, in a tile
constexpr int64_t TILE_BYTES = 512 << 10;  // of exponentials; one vector of places where four have more
constexpr int64_t ROWS = 16;               // in a tile: their gradient begins and ends where a cache line does
constexpr int64_t RUN = 32;                // added up before they join the sum
constexpr float RATIO = 1e-30f;            // of W to the weights, below which it is 0

struct Lanes {
  alignas(64) int number[LANES];
};

constexpr Lanes lane_numbers() {
  Lanes l{};
  for (int i = 0; i < LANES; ++i) l.number[i] = i;
  return l;
}

constexpr Lanes LANE = lane_numbers();

// A tile of `count` places from number `p` of sample `n` on: of one sample, or rows of any.
struct Tile {
  int64_t n, p, count;
};

// What one thread needs. The numbers of a place are [width], those of its targets [targets, width].
struct Scratch {
  float* e;                             // e^(z - m), the classes `e_row` apart, the places `e_place`
  float *top, *sum;                     // m and s
  float *rest, *share;                  // log s, and what the place's loss counts
  float* factor;                        // W/s share
  int64_t *place, *logit;               // where a place is in results without gaps, and in the logits
  int64_t *first_index, *first_weight;  // where its first target is
  int* target;                          // classes, -1 for none
  float* weight;                        // 0 for none
  char* picked;                         // logits of the targets, in their type, 0 for none
  int64_t width, e_row, e_place;
};

int64_t width_of(const SparseTargets& t) {
  if (t.along_rows) return ROWS;
  return VECTORS * LANES * t.classes * (int64_t)sizeof(float) <= TILE_BYTES ? VECTORS * LANES : LANES;
}

Scratch new_scratch(const SparseTargets& t) {
  const int64_t width = width_of(t), size = width * t.classes + LANES, targets = t.count * width;
  Scratch a{};
  a.place = (int64_t*)calloc((size_t)(8 * 4 * width + 4 * (size + 5 * width + 3 * targets)), 1);
  a.logit = a.place + width, a.first_index = a.logit + width, a.first_weight = a.first_index + width;
  a.e = (float*)(a.first_weight + width);
  a.top = a.e + size, a.sum = a.top + width, a.rest = a.sum + width, a.share = a.rest + width;
  a.factor = a.share + width, a.weight = a.factor + width, a.target = (int*)(a.weight + targets);
  a.picked = (char*)(a.target + targets);
  a.width = width, a.e_row = t.along_rows ? 1 : width, a.e_place = t.along_rows ? t.classes : 1;
  return a;
}

int64_t tiles_of(const SparseTargets& t) {
  const int64_t width = width_of(t);
  if (t.along_rows) return (t.n * t.places + width - 1) / width;
  return t.n * ((t.places + width - 1) / width);
}

Tile tile_at(const SparseTargets& t, int64_t number) {
  const int64_t width = width_of(t);
  if (t.along_rows) {
    const int64_t first = number * width;
    return {first / t.places, first % t.places, smaller(width, t.n * t.places - first)};
  }
  const int64_t tiles = (t.places + width - 1) / width, p = number % tiles * width;
  return {number / tiles, p, smaller(width, t.places - p)};
}

// Finds the places of a tile.
void locate(const SparseTargets& t, const Scratch& a, const Tile& tile) {
  int64_t n = tile.n, p = tile.p;
  for (int64_t j = 0; j < tile.count; ++j, ++p) {
    if (p == t.places) ++n, p = 0;
    a.place[j] = n * t.places + p, a.logit[j] = n * t.sample + p * t.place;
    a.first_index[j] = n * t.index_sample + p * t.index_place;
    a.first_weight[j] = n * t.weight_sample + p * t.weight_place;
  }
}

FASTSSL_INLINE int64_t class_at(const SparseTargets& t, int64_t i) {
  return t.wide ? ((const int64_t*)t.index)[i] : ((const int32_t*)t.index)[i];
}

// Fetches the targets of a tile and, one by one, their logits, which are in the caches.
FASTSSL_INLINE void fetch_as(ElementType type, const SparseTargets& t, const Scratch& a, int64_t count) {
  const int64_t bytes = bytes_of(type);
  for (int64_t k = 0; k < t.count; ++k)
    for (int64_t j = 0; j < count; ++j) {
      const int64_t i = k * a.width + j, q = class_at(t, a.first_index[j] + k * t.index_row);
      const bool named = q >= 0 && q < t.classes;
      a.target[i] = named ? (int)q : -1;
      a.weight[i] = named ? t.weight[a.first_weight[j] + k * t.weight_row] : 0;
      if (named) {
        memcpy(a.picked + i * bytes, element(type, t.logits, a.logit[j] + q * t.row), (size_t)bytes);
      } else {
        memset(a.picked + i * bytes, 0, (size_t)bytes);
      }
    }
}

void fetch(const SparseTargets& t, const Scratch& a, int64_t count) {
  if (t.type == TYPE_FLOAT32) return fetch_as(TYPE_FLOAT32, t, a, count);
  fetch_as(TYPE_BFLOAT16, t, a, count);  // of as many bytes as float16
}

FASTSSL_INLINE vfloat exponential(vfloat z, vfloat top) { return exp2_nonpositive((z - top) * (float)LOG2_E); }

// What is wanted of the exponentials of a tile.
enum Wanted { SUMS = 1, EXPONENTIALS = 2 };  // m and s, else m is known; e, for a gradient

// Of classes whose places lie side by side. `next` is fetched on the way into the second cache: each class is in a page
// of its own, where nothing else foresees it.
FASTSSL_INLINE void columns_as(ElementType type, int64_t vectors, const SparseTargets& t, const Scratch& a,
                               const char* from, int64_t count, int wanted) {
  const int64_t step = t.row * bytes_of(type), width = vectors * LANES;
  const char* next = element(type, from, width);
  vfloat top[VECTORS], sum[VECTORS];
  for (int64_t v = 0; v < vectors; ++v)
    top[v] = wanted & SUMS ? splat(NOTHING) : load(a.top + v * LANES), sum[v] = vfloat{};
  for (int64_t q = 0; wanted & SUMS && q < t.classes; ++q)
    for (int64_t v = 0; v < vectors; ++v)
      if (v * LANES < count)
        top[v] = maximum(top[v], load_some(type, element(type, from + q * step, v * LANES), count - v * LANES));
  for (int64_t first = 0; first < t.classes; first += RUN) {
    vfloat run[VECTORS] = {};
    for (int64_t q = first; q < smaller(first + RUN, t.classes); ++q)
      for (int64_t v = 0; v < vectors; ++v) {
        if (v * LANES >= count) break;
        __builtin_prefetch(element(type, next + q * step, v * LANES), 0, 2);
        const vfloat z = load_some(type, element(type, from + q * step, v * LANES), count - v * LANES);
        const vfloat e = exponential(z, top[v]);
        if (wanted & EXPONENTIALS) store(a.e + q * width + v * LANES, e);
        run[v] += e;
      }
    for (int64_t v = 0; v < vectors; ++v) sum[v] += run[v];
  }
  for (int64_t v = 0; wanted & SUMS && v < vectors; ++v)
    store(a.top + v * LANES, top[v]), store(a.sum + v * LANES, sum[v]);
}

FASTSSL_INLINE void columns_of(ElementType type, const SparseTargets& t, const Scratch& a, const char* from,
                               int64_t count, int wanted) {
  if (count == VECTORS * LANES) return columns_as(type, VECTORS, t, a, from, VECTORS * LANES, wanted);
  if (a.width == LANES) return columns_as(type, 1, t, a, from, count, wanted);
  columns_as(type, VECTORS, t, a, from, count, wanted);
}

// Where lanes are beyond the first `count` ones, `other`.
FASTSSL_INLINE vfloat first_lanes(vfloat x, int64_t count, float other) {
  return select(load(LANE.number) < (int)smaller(count, LANES), x, splat(other));
}

// Of a place whose classes lie side by side, number j of the tile.
FASTSSL_INLINE void row_as(ElementType type, const SparseTargets& t, const Scratch& a, int64_t j, const char* from,
                           int wanted) {
  float* e = a.e + j * t.classes;
  const int64_t whole = t.classes / LANES * LANES, left = t.classes - whole;
  if (wanted & SUMS) {
    vfloat top = splat(NOTHING);
    for (int64_t q = 0; q < whole; q += LANES) top = maximum(top, load_as(type, element(type, from, q)));
    if (left) top = maximum(top, first_lanes(load_some(type, element(type, from, whole), left), left, NOTHING));
    a.top[j] = max_lanes(top);
  }
  const vfloat top = splat(a.top[j]);
  vfloat sum{};
  for (int64_t first = 0; first < whole; first += RUN * LANES) {
    vfloat run{};
    for (int64_t q = first; q < smaller(first + RUN * LANES, whole); q += LANES) {
      const vfloat x = exponential(load_as(type, element(type, from, q)), top);
      if (wanted & EXPONENTIALS) store(e + q, x);
      run += x;
    }
    sum += run;
  }
  if (left) {
    const vfloat x = exponential(load_some(type, element(type, from, whole), left), top);
    if (wanted & EXPONENTIALS) store(e + whole, x);  // what is beyond the row is the next one's, or spare
    sum += first_lanes(x, left, 0);
  }
  if (wanted & SUMS) a.sum[j] = sum_lanes(sum);
}

FASTSSL_INLINE void exponentials_as(ElementType type, const SparseTargets& t, const Scratch& a, const Tile& tile,
                                    int wanted) {
  if (!t.along_rows) return columns_of(type, t, a, element(type, t.logits, a.logit[0]), tile.count, wanted);
  for (int64_t j = 0; j < tile.count; ++j) row_as(type, t, a, j, element(type, t.logits, a.logit[j]), wanted);
}

FASTSSL_INLINE void exponentials_of(ElementType type, const SparseTargets& t, const Scratch& a, const Tile& tile,
                                    int wanted) {
  if (wanted == SUMS) return exponentials_as(type, t, a, tile, SUMS);
  if (wanted == EXPONENTIALS) return exponentials_as(type, t, a, tile, EXPONENTIALS);
  exponentials_as(type, t, a, tile, SUMS | EXPONENTIALS);
}

void exponentials(const SparseTargets& t, const Scratch& a, const Tile& tile, int wanted) {
  if (t.type == TYPE_FLOAT32) return exponentials_of(TYPE_FLOAT32, t, a, tile, wanted);
  if (t.type == TYPE_BFLOAT16) return exponentials_of(TYPE_BFLOAT16, t, a, tile, wanted);
  exponentials_of(TYPE_FLOAT16, t, a, tile, wanted);
}

FASTSSL_INLINE vfloat absolute(vfloat x) { return (vfloat)((vint)x & 0x7fffffff); }

// Takes the targets off the exponentials, which are then to be multiplied by their factors.
void take_targets(const SparseTargets& t, const Scratch& a, int64_t count) {
  for (int64_t j = 0; j < count; j += LANES) {
    vfloat total{}, size{};
    for (int64_t k = 0; k < t.count; ++k) {
      const vfloat w = load(a.weight + k * a.width + j);
      total += w, size += absolute(w);
    }
    const vint cancel = absolute(total) < size * RATIO;  // no softmax, but targets
    const vfloat one = splat(1), whole = select(cancel, one, load(a.sum + j)), base = select(cancel, one, total);
    store(a.factor + j, base / whole * load(a.share + j));
    for (int64_t k = 0; k < t.count; ++k) {
      float* weight = a.weight + k * a.width + j;
      store(weight, select(load(weight) == 0.f, vfloat{}, load(weight) / base * whole));
    }
    for (int64_t i = j; i < smaller(j + LANES, count); ++i)
      for (int64_t q = 0; cancel[i - j] && q < t.classes; ++q) a.e[q * a.e_row + i * a.e_place] *= 0;
  }
  for (int64_t k = 0; k < t.count; ++k)
    for (int64_t j = 0; j < count; ++j) {
      const int64_t i = k * a.width + j;
      if (a.target[i] >= 0) a.e[a.target[i] * a.e_row + j * a.e_place] -= a.weight[i];
    }
}

FASTSSL_INLINE void put(ElementType type, char* to, vfloat x, int64_t count, bool stream) {
  if (stream && type == TYPE_FLOAT32 && count >= LANES) return store_past(to, x);
  store_some(type, to, x, count);
}

FASTSSL_INLINE void multiply_columns_as(ElementType type, const SparseTargets& t, const Scratch& a, char* to,
                                        int64_t count, bool stream) {
  const int64_t step = t.places * bytes_of(type);
  for (int64_t q = 0; q < t.classes; ++q)
    for (int64_t j = 0; j < count; j += LANES)
      put(type, element(type, (void*)(to + q * step), j), load(a.e + q * a.width + j) * load(a.factor + j), count - j,
          stream);
}

FASTSSL_INLINE void multiply_rows_as(ElementType type, const SparseTargets& t, const Scratch& a, char* to,
                                     int64_t count, bool stream) {
  for (int64_t j = 0; j < count; ++j) {
    float* e = a.e + j * t.classes;
    const int64_t whole = t.classes / LANES * LANES, left = t.classes - whole;
    for (int64_t q = 0; q < whole; q += LANES) store(e + q, load(e + q) * a.factor[j]);
    const vfloat rest = load(e + whole);
    if (left) store(e + whole, select(load(LANE.number) < (int)left, rest * a.factor[j], rest));
  }
  for (int64_t i = 0; i < count * t.classes; i += LANES)
    put(type, element(type, (void*)to, i), load(a.e + i), count * t.classes - i, stream);
}

FASTSSL_INLINE void multiply_as(ElementType type, const SparseTargets& t, const Scratch& a, const Tile& tile,
                                void* grad, bool stream) {
  if (t.along_rows) {
    char* to = element(type, grad, (tile.n * t.places + tile.p) * t.classes);
    return multiply_rows_as(type, t, a, to, tile.count, stream);
  }
  char* to = element(type, grad, tile.n * t.classes * t.places + tile.p);
  if (tile.count == VECTORS * LANES) return multiply_columns_as(type, t, a, to, VECTORS * LANES, stream);
  multiply_columns_as(type, t, a, to, tile.count, stream);
}

void multiply(const SparseTargets& t, const Scratch& a, const Tile& tile, void* grad, bool stream) {
  if (t.type == TYPE_FLOAT32) return multiply_as(TYPE_FLOAT32, t, a, tile, grad, stream);
  if (t.type == TYPE_BFLOAT16) return multiply_as(TYPE_BFLOAT16, t, a, tile, grad, stream);
  multiply_as(TYPE_FLOAT16, t, a, tile, grad, stream);
}

FASTSSL_INLINE bool streams(const SparseTargets& t) {
  return t.n * t.classes * t.places * bytes_of(t.type) >= STREAM_BYTES;
}

// Losses of a tile, and their log-sum-exps.
void take_losses(const SparseForward& f, const Scratch& a, int64_t count) {
  const SparseTargets& t = f.targets;
  for (int64_t j = 0; j < count; ++j) {
    const double rest = log((double)a.sum[j] / EXP2_OF_0);
    t.lse[a.place[j]] = (double)a.top[j] + rest;
    a.rest[j] = (float)rest, a.share[j] = f.share;
  }
  for (int64_t j = 0; j < count; j += LANES) {
    vfloat loss{};
    for (int64_t k = 0; k < t.count; ++k) {
      const int64_t i = k * a.width + j;
      const vfloat w = load(a.weight + i), away = load(a.top + j) - load_as(t.type, element(t.type, a.picked, i));
      loss += w * (away + load(a.rest + j));
    }
    for (int64_t i = j; i < smaller(j + LANES, count); ++i) f.losses[a.place[i]] = loss[i - j];
  }
}

void forward(const SparseForward& f) {
  const SparseTargets& t = f.targets;
#pragma omp parallel num_threads(t.threads) if (t.threads > 1)
  {
    const Scratch a = new_scratch(t);
#pragma omp for schedule(static)
    for (int64_t number = 0; number < tiles_of(t); ++number) {
      const Tile tile = tile_at(t, number);
      locate(t, a, tile);
      exponentials(t, a, tile, f.grad ? SUMS | EXPONENTIALS : SUMS);
      fetch(t, a, tile.count);
      take_losses(f, a, tile.count);
      if (!f.grad) continue;
      take_targets(t, a, tile.count);
      multiply(t, a, tile, f.grad, streams(t));
    }
    free(a.place);
    finish_streams();
  }
}

// e^(z - lse) = e^(z - m)/s, where m is lse as a float. A place counts its upstream gradient.
void take_levels(const SparseBackward& b, const Scratch& a, const Tile& tile) {
  const SparseTargets& t = b.targets;
  for (int64_t j = 0; j < tile.count; ++j) {
    const int64_t n = a.place[j] / t.places, p = a.place[j] % t.places;
    const double lse = t.lse[a.place[j]];
    a.top[j] = (float)lse, a.rest[j] = (float)(lse - (double)a.top[j]);
    a.sum[j] = (float)(exp((double)a.rest[j]) * EXP2_OF_0);
    a.share[j] = b.upstream[n * b.upstream_sample + p * b.upstream_place];
  }
}

void differentiate_weights(const SparseBackward& b, const Scratch& a, int64_t count) {
  const SparseTargets& t = b.targets;
  for (int64_t k = 0; k < t.count; ++k)
    for (int64_t j = 0; j < count; j += LANES) {
      const int64_t at = k * a.width + j;
      const vfloat away = load(a.top + j) - load_as(t.type, element(t.type, a.picked, at));
      const vfloat found = select(load(a.target + at) >= 0, load(a.share + j) * (away + load(a.rest + j)), vfloat{});
      for (int64_t i = j; i < smaller(j + LANES, count); ++i) {
        const int64_t n = a.place[i] / t.places, p = a.place[i] % t.places;
        b.grad_weight[(n * t.count + k) * t.places + p] = found[i - j];
      }
    }
}

void backward(const SparseBackward& b) {
  const SparseTargets& t = b.targets;
#pragma omp parallel num_threads(t.threads) if (t.threads > 1)
  {
    const Scratch a = new_scratch(t);
#pragma omp for schedule(static)
    for (int64_t number = 0; number < tiles_of(t); ++number) {
      const Tile tile = tile_at(t, number);
      locate(t, a, tile);
      take_levels(b, a, tile);
      if (b.grad) exponentials(t, a, tile, EXPONENTIALS);
      fetch(t, a, tile.count);
      if (b.grad_weight) differentiate_weights(b, a, tile.count);
      if (!b.grad) continue;
      take_targets(t, a, tile.count);
      multiply(t, a, tile, b.grad, streams(t));
    }
    free(a.place);
    finish_streams();
  }
}

constexpr SparseKernels kernels = {forward, backward};
