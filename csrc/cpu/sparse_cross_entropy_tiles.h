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

// What one thread needs. The numbers of a place are [width].
struct Scratch {
  float* e;          // e^(z - m), the classes `e_row` apart, the places `e_place`
  float *top, *sum;  // m and s
  float* factor;     // W/s, and what the place's loss counts
  int64_t width, e_row, e_place;
};

int64_t width_of(const SparseTargets& t) {
  if (t.along_rows) return ROWS;
  return VECTORS * LANES * t.classes * (int64_t)sizeof(float) <= TILE_BYTES ? VECTORS * LANES : LANES;
}

Scratch new_scratch(const SparseTargets& t) {
  const int64_t width = width_of(t), size = width * t.classes + LANES;
  float* e = (float*)malloc((size_t)(size + 3 * width) * sizeof(float));
  float* top = e + size;
  return {e, top, top + width, top + 2 * width, width, t.along_rows ? 1 : width, t.along_rows ? t.classes : 1};
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

// Place j of a tile.
FASTSSL_INLINE Tile place_at(const SparseTargets& t, const Tile& tile, int64_t j) {
  const int64_t p = tile.p + j;
  if (p < t.places) return {tile.n, p, 1};
  return {tile.n + p / t.places, p % t.places, 1};
}

FASTSSL_INLINE const char* logit_at(const SparseTargets& t, const Tile& at, int64_t q) {
  return element(t.type, t.logits, at.n * t.sample + q * t.row + at.p * t.place);
}

FASTSSL_INLINE float logit_of(const SparseTargets& t, const Tile& at, int64_t q) {
  if (t.type != TYPE_FLOAT32) return load_some(t.type, logit_at(t, at, q), 1)[0];
  float x;
  memcpy(&x, logit_at(t, at, q), sizeof x);
  return x;
}

// -1 where an index names no class.
FASTSSL_INLINE int64_t class_of(const SparseTargets& t, const Tile& at, int64_t k) {
  const int64_t i = at.n * t.index_sample + k * t.index_row + at.p * t.index_place;
  const int64_t found = t.wide ? ((const int64_t*)t.index)[i] : ((const int32_t*)t.index)[i];
  return found >= 0 && found < t.classes ? found : -1;
}

FASTSSL_INLINE float weight_of(const SparseTargets& t, const Tile& at, int64_t k) {
  return t.weight[at.n * t.weight_sample + k * t.weight_row + at.p * t.weight_place];
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
        if (wanted & SUMS) __builtin_prefetch(element(type, next + q * step, v * LANES), 0, 2);
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
  if (!t.along_rows) return columns_of(type, t, a, logit_at(t, tile, 0), tile.count, wanted);
  for (int64_t j = 0; j < tile.count; ++j) row_as(type, t, a, j, logit_at(t, place_at(t, tile, j), 0), wanted);
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

// Takes the targets of place j off its exponentials, which are then to be multiplied by its factor.
void take_targets(const SparseTargets& t, const Scratch& a, const Tile& at, int64_t j, float share) {
  float total = 0, size = 0;
  for (int64_t k = 0; k < t.count; ++k) {
    const float w = class_of(t, at, k) < 0 ? 0 : weight_of(t, at, k);
    total += w, size += __builtin_fabsf(w);
  }
  float *e = a.e + j * a.e_place, whole = a.sum[j], base = total;
  if (__builtin_fabsf(total) < RATIO * size) {  // no softmax, but targets
    for (int64_t q = 0; q < t.classes; ++q) e[q * a.e_row] *= 0;
    whole = base = 1;
  }
  a.factor[j] = base * share / whole;
  for (int64_t k = 0; k < t.count; ++k) {
    const int64_t q = class_of(t, at, k);
    const float w = q < 0 ? 0 : weight_of(t, at, k);
    if (w != 0) e[q * a.e_row] -= w / base * whole;
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

void forward(const SparseForward& f) {
  const SparseTargets& t = f.targets;
#pragma omp parallel num_threads(t.threads) if (t.threads > 1)
  {
    const Scratch a = new_scratch(t);
#pragma omp for schedule(static)
    for (int64_t number = 0; number < tiles_of(t); ++number) {
      const Tile tile = tile_at(t, number);
      exponentials(t, a, tile, f.grad ? SUMS | EXPONENTIALS : SUMS);
      for (int64_t j = 0; j < tile.count; ++j) {
        const Tile at = place_at(t, tile, j);
        const double rest = log((double)a.sum[j] / EXP2_OF_0);
        double loss = 0;
        for (int64_t k = 0; k < t.count; ++k) {
          const int64_t q = class_of(t, at, k);
          if (q >= 0) loss += (double)weight_of(t, at, k) * ((double)a.top[j] - (double)logit_of(t, at, q) + rest);
        }
        f.losses[at.n * t.places + at.p] = (float)loss;
        t.lse[at.n * t.places + at.p] = (double)a.top[j] + rest;
        if (f.grad) take_targets(t, a, at, j, f.share);
      }
      if (f.grad) multiply(t, a, tile, f.grad, streams(t));
    }
    free(a.e);
    finish_streams();
  }
}

void backward_place(const SparseBackward& b, const Scratch& a, const Tile& at, int64_t j, float upstream) {
  const SparseTargets& t = b.targets;
  if (b.grad) take_targets(t, a, at, j, upstream);
  for (int64_t k = 0; b.grad_weight && k < t.count; ++k) {
    const int64_t q = class_of(t, at, k);
    const double away = q < 0 ? 0 : t.lse[at.n * t.places + at.p] - (double)logit_of(t, at, q);
    b.grad_weight[(at.n * t.count + k) * t.places + at.p] = q < 0 ? 0 : (float)(upstream * away);
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
      // e^(z - lse) = e^(z - m)/s, where m is lse as a float.
      for (int64_t j = 0; j < tile.count; ++j) {
        const Tile at = place_at(t, tile, j);
        const double lse = t.lse[at.n * t.places + at.p];
        a.top[j] = (float)lse;
        a.sum[j] = (float)(exp(lse - (double)a.top[j]) * EXP2_OF_0);
      }
      if (b.grad) exponentials(t, a, tile, EXPONENTIALS);
      for (int64_t j = 0; j < tile.count; ++j) {
        const Tile at = place_at(t, tile, j);
        backward_place(b, a, at, j, b.upstream[at.n * b.upstream_sample + at.p * b.upstream_place]);
      }
      if (b.grad) multiply(t, a, tile, b.grad, streams(t));
    }
    free(a.e);
    finish_streams();
  }
}

constexpr SparseKernels kernels = {forward, backward};
