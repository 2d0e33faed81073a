// Sinkhorn-Knopp, a tile of columns at a time. Included by sinkhorn.cpp, once per instruction set.
//
// The exponentials of a tile, of logits less their rows' log-sum-exps, stay in the second cache until their columns'
// sums are known, and then give what the tile adds to the next sums of the rows: an iteration is one read of the logits
// and one exponential an element. Where there are too many rows for that, it is two, as in a pass. A row that hardly
// gets a share of any column is summed again on logarithms.
#include "sinkhorn_rows.h"

constexpr int64_t KEPT = 65536;     // exponentials that a thread keeps, or those of LEAST_TILE columns
constexpr int64_t MOST_ROWS = 512;  // that are kept
constexpr int64_t PAD = 16;         // without it rows of a tile would compete for the same places of a cache
constexpr double FARTHEST = 1000;   // bits by which exponents are shifted
constexpr double FAINT = 0x1p-60;   // a row's sum of as much a column has all its digits

// What makes e^((x - center)/temp - row_lse) of a row's scores: 2^((x - center - level) factor + shift) unit. The level
// is 0 but where the log-sum-exp is too large for a shift.
struct RowScale {
  float level, shift, least, unit;  // least: of x - center - level; 2^-125 comes from it
};

struct Fit : Plan {
  bool tiled;
  RowScale* scales;  // [samples]
  float* result;     // [prototypes]
  int64_t stride;    // of the rows of a tile
  float* kept;       // [threads, samples, stride]
  float* levels;     // [threads, groups, stride]
  double* row_sums;  // [threads, samples]
};

// At most; see group_of.
FASTSSL_INLINE int64_t groups_of(const Fit& f) { return f.samples / GROUP + 3; }

Fit fit_of(const SinkhornFit& s) {
  Fit f{};
  (Plan&)f = plan_of(s.problem);
  f.result = s.center;
  f.row_lse = take_doubles(f, f.samples);
  f.tiled = f.samples <= MOST_ROWS;
  if (f.tiled) {
    const int64_t fair = whole_vectors(parts_of(f.prototypes, f.threads)),
                  held = KEPT / larger(1, f.samples) / LANES * LANES;
    f.tile = larger(LEAST_TILE, smaller(smaller(TILE, fair), held));
    f.stride = f.tile + PAD;
    f.kept = take_floats(f, f.threads * f.samples * f.stride);
    f.levels = take_floats(f, f.threads * groups_of(f) * f.stride);
    f.row_sums = take_doubles(f, f.threads * f.samples);
    f.scales = (RowScale*)take(f, f.samples, sizeof(RowScale));
  } else {
    f.column_lse = take_doubles(f, f.prototypes);
    split_work(f);
  }
  return f;
}

int64_t fit_workspace(const SinkhornFit& s) { return fit_of(s).bytes; }

// Adds the sums of n rows' exponentials, each times the share of its column. `max`: what shares are relative to, null
// where all exponentials are relative to the same.
FASTSSL_INLINE void add_shares_of(int n, const Fit& f, const Kept& kept, const float* max, const float* shares,
                                  int64_t count, double* sums) {
  vfloat total[GROUP];
  for (int r = 0; r < n; ++r) total[r] = vfloat{};
  for (int64_t i = 0; i < count; i += LANES) {
    vfloat share = load(shares + i);
    if (max) {
      const vfloat level = load(kept.levels + i), present = load(max + i);
      if (any(level != present)) share *= exponential(level - present, f.exponent);
    }
    for (int r = 0; r < n; ++r) total[r] += load(kept.exponentials + r * kept.stride + i) * share;
  }
  for (int r = 0; r < n; ++r) sums[r] += sum_lanes(total[r]);
}

void add_shares(int n, const Fit& f, const Kept& kept, const float* max, const float* shares, int64_t count,
                double* sums) {
  if (n == GROUP) return add_shares_of(GROUP, f, kept, max, shares, count, sums);
  if (n == 4) return add_shares_of(4, f, kept, max, shares, count, sums);
  if (n == 2) return add_shares_of(2, f, kept, max, shares, count, sums);
  add_shares_of(1, f, kept, max, shares, count, sums);
}

RowScale scale_of(const Fit& f, double row_lse) {
  const double bits = row_lse * LOG2_E, factor = LOG2_E / f.temp;
  const bool near = bits > -FARTHEST && bits < FARTHEST;
  const double level = near ? 0 : (double)(float)(row_lse * f.temp), shift = near ? rint(-bits) : 0;
  const double least = (-125 - shift) / factor;
  return {(float)level, (float)(UNSHIFTED + shift), (float)(least < NOTHING ? NOTHING : least),
          (float)exp2(-bits - shift + level * factor)};
}

// Adds n rows to the sums of columns relative to a center that has normalised them, before the rows were: no term is
// above 1, and no sum so small that it lacks digits, so that there are no maxima to follow.
FASTSSL_INLINE void add_again_as(ElementType type, bool whole, bool near, int n, const Fit& f, int64_t b, int64_t k0,
                                 int64_t count, const char* next, float* sums, float* kept) {
  const float factor = f.exponent.factor;
  const char* rows[GROUP];
  RowScale scale[GROUP];
  for (int r = 0; r < n; ++r) rows[r] = row_at(f, b + r), scale[r] = f.scales[b + r];
  for (int64_t i = 0; i < count; i += LANES) {
    const int64_t k = k0 + i, left = whole ? LANES : count - i;
    const vfloat center = load_some(TYPE_FLOAT32, f.result + k, left);
    vfloat sum = load(sums + i);
    for (int r = 0; r < n; ++r) {
      vfloat x = load_some(type, element(type, rows[r], k), left) - center;
      if (!near) x -= scale[r].level;
      for (int64_t lane = left; lane < LANES; ++lane) x[lane] = NOTHING;  // a finite number, which 0 shares meet
      __builtin_prefetch(element(type, next, r * f.row + i), 0, 2);
      const vfloat y = exponential_of(maximum(x, splat(scale[r].least)), factor, scale[r].shift);
      sum += y * scale[r].unit;
      if (kept) store(kept + r * f.stride + i, y);
    }
    store(sums + i, sum);
  }
}

FASTSSL_INLINE void add_again(int n, const Fit& f, int64_t b, int64_t k0, int64_t count, const char* next, float* sums,
                              float* kept) {
  const bool whole = count % LANES == 0;
  bool near = true;
  for (int r = 0; r < n; ++r) near = near && f.scales[b + r].level == 0;
  if (f.type == TYPE_FLOAT32 && whole && near && kept)
    return add_again_as(TYPE_FLOAT32, true, true, n, f, b, k0, count, next, sums, kept);
  if (f.type == TYPE_FLOAT32 && whole && near)
    return add_again_as(TYPE_FLOAT32, true, true, n, f, b, k0, count, next, sums, 0);
  if (f.type == TYPE_BFLOAT16 && whole && near && n == GROUP)
    return add_again_as(TYPE_BFLOAT16, true, true, n, f, b, k0, count, next, sums, kept);
  add_again_as(f.type, false, false, n, f, b, k0, count, next, sums, kept);
}

void add_group_again(int n, const Fit& f, int64_t b, int64_t k0, int64_t count, const char* next, float* sums,
                     float* kept) {
  if (n == GROUP) return add_again(GROUP, f, b, k0, count, next, sums, kept);
  if (n == 4) return add_again(4, f, b, k0, count, next, sums, kept);
  if (n == 2) return add_again(2, f, b, k0, count, next, sums, kept);
  add_again(1, f, b, k0, count, next, sums, kept);
}

// The center of a tile of columns, from their sums relative to what was subtracted; the sums become shares: what e^0 is
// of a sum, 0 beyond the columns.
void finish_tile(const Fit& f, int64_t k0, int64_t count, const float* subtracted, float* sums) {
  alignas(64) float logs[TILE];
  for (int64_t i = 0; i < count; i += LANES) {
    const vfloat sum = load(sums + i);
    store(logs + i, logarithm(sum));
    store(sums + i, 1.f / sum);
  }
  for (int64_t i = count; i < whole_vectors(count); ++i) sums[i] = 0;
  for (int64_t i = 0; i < count; ++i) f.result[k0 + i] = (float)(subtracted[i] + f.temp * logs[i]);
}

// The center, and of each thread's columns the shares that they give to each row. Every other iteration goes through
// the tiles from the last to the first, which a cache may still have. For all threads of a parallel region.
void fit_columns(const Fit& f, int64_t iteration, bool shares) {
  const int64_t tiles = parts_of(f.prototypes, f.tile), step = iteration % 2 ? -1 : 1;
#pragma omp for schedule(static)
  for (int64_t thread = 0; thread < f.threads; ++thread) {
    Kept all = {f.kept + thread * f.samples * f.stride, f.levels + thread * groups_of(f) * f.stride, f.stride};
    double* sums = f.row_sums + thread * f.samples;
    for (int64_t b = 0; b < f.samples; ++b) sums[b] = 0;
    Columns c;
    const int64_t first = thread * tiles / f.threads, end = (thread + 1) * tiles / f.threads;
    for (int64_t i = 0; i < end - first; ++i) {
      const int64_t k0 = (step > 0 ? first + i : end - 1 - i) * f.tile, count = smaller(f.tile, f.prototypes - k0);
      clear(c, count);
      Kept kept = all;
      for (int64_t b = 0; b < f.samples;) {
        const int n = group_of(f.samples - b);
        const bool more = b + n < f.samples;
        const int64_t after = larger(0, k0 + step * f.tile);
        const char* next = more ? element(f.type, row_at(f, b + n), k0) : element(f.type, row_at(f, 0), after);
        if (iteration == 0) {
          add_group(n, f, b, k0, count, next, c, &kept);
        } else {
          add_group_again(n, f, b, k0, count, next, c.sum, shares ? kept.exponentials : 0);
        }
        b += n, kept.exponentials += n * f.stride, kept.levels += f.stride;
      }
      finish_tile(f, k0, count, iteration == 0 ? c.max : f.result + k0, c.sum);
      if (!shares) continue;
      kept = all;
      for (int64_t b = 0; b < f.samples;) {
        const int n = group_of(f.samples - b);
        add_shares(n, f, kept, iteration == 0 ? c.max : 0, c.sum, count, sums + b);
        b += n, kept.exponentials += n * f.stride, kept.levels += f.stride;
      }
    }
    for (int64_t b = 0; iteration > 0 && b < f.samples; ++b) sums[b] *= f.scales[b].unit;
  }
}

// The rows' log-sum-exps after the center, from those before. For all threads of a parallel region.
void fit_rows(const Fit& f) {
  const double least = (double)f.prototypes * FAINT;
  Plan after = f;
  after.center = f.result;
#pragma omp for schedule(static)
  for (int64_t b = 0; b < f.samples; ++b) {
    double share = 0;
    for (int64_t thread = 0; thread < f.threads; ++thread) share += f.row_sums[thread * f.samples + b];
    f.row_lse[b] = share < least ? sum_row(after, b, 0, f.prototypes) : f.row_lse[b] + log(share);
    f.scales[b] = scale_of(f, f.row_lse[b]);
  }
}

// An iteration in two reads. For all threads of a parallel region.
void fit_pass(const Fit& f, bool first) {
  Plan p = f;
  p.center = first ? 0 : f.result;
  sum_all_rows(p);
  sum_all_columns(p);
#pragma omp for schedule(static)
  for (int64_t k = 0; k < f.prototypes; ++k) f.result[k] = (float)(f.temp * f.column_lse[k]);
}

void fit(const SinkhornFit& s) {
  const Fit f = fit_of(s);
#pragma omp parallel num_threads(f.threads) if (f.threads > 1)
  {
    if (f.tiled) {
#pragma omp for schedule(static)
      for (int64_t b = 0; b < f.samples; ++b) f.row_lse[b] = f.row_level[b] = f.row_rest[b] = 0;
      for (int64_t i = 0; i < s.iterations; ++i) {
        const bool last = i + 1 == s.iterations;
        fit_columns(f, i, !last);
        if (!last) fit_rows(f);
      }
    } else {
      for (int64_t i = 0; i < s.iterations; ++i) fit_pass(f, i == 0);
    }
  }
}

constexpr SinkhornKernels kernels = {pass_workspace, pass, fit_workspace, fit};
