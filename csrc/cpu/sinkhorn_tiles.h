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
constexpr double FAINT = 0x1p-100;  // a row's sum of as much a column has all its digits

struct Fit : Plan {
  bool tiled;
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
  } else {
    f.column_lse = take_doubles(f, f.prototypes);
    split_work(f);
  }
  return f;
}

int64_t fit_workspace(const SinkhornFit& s) { return fit_of(s).bytes; }

// Adds the sums of n rows' exponentials, each times the share of its column.
FASTSSL_INLINE void add_shares_of(int n, const Fit& f, const Kept& kept, const float* max, const float* shares,
                                  int64_t count, double* sums) {
  vfloat total[GROUP];
  for (int r = 0; r < n; ++r) total[r] = vfloat{};
  for (int64_t i = 0; i < count; i += LANES) {
    vfloat share = load(shares + i);
    const vfloat level = load(kept.levels + i), present = load(max + i);
    if (any(level != present)) share *= exponential(level - present, f.exponent);
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

// The center of a tile of columns, from their sums, which become shares: what e^0 is of a sum, 0 beyond the columns.
void finish_tile(const Fit& f, int64_t k0, int64_t count, Columns& c) {
  alignas(64) float logs[TILE];
  for (int64_t i = 0; i < count; i += LANES) {
    const vfloat sum = load(c.sum + i);
    store(logs + i, logarithm(sum));
    store(c.sum + i, 1.f / sum);
  }
  for (int64_t i = count; i < whole_vectors(count); ++i) c.sum[i] = 0;
  for (int64_t i = 0; i < count; ++i) f.result[k0 + i] = (float)(c.max[i] + f.temp * logs[i]);
}

// The center, and of each thread's columns the shares that they give to each row. For all threads of a parallel region.
void fit_columns(const Fit& f, bool shares) {
  const int64_t tiles = parts_of(f.prototypes, f.tile);
#pragma omp for schedule(static)
  for (int64_t thread = 0; thread < f.threads; ++thread) {
    Kept all = {f.kept + thread * f.samples * f.stride, f.levels + thread * groups_of(f) * f.stride, f.stride};
    double* sums = f.row_sums + thread * f.samples;
    for (int64_t b = 0; b < f.samples; ++b) sums[b] = 0;
    Columns c;
    for (int64_t tile = thread * tiles / f.threads; tile < (thread + 1) * tiles / f.threads; ++tile) {
      const int64_t k0 = tile * f.tile, count = smaller(f.tile, f.prototypes - k0);
      clear(c, count);
      Kept kept = all;
      for (int64_t b = 0; b < f.samples;) {
        const int n = group_of(f.samples - b);
        const bool more = b + n < f.samples;
        const char* next = more ? element(f.type, row_at(f, b + n), k0) : element(f.type, row_at(f, 0), k0 + f.tile);
        add_group(n, f, b, k0, count, next, c, shares ? &kept : 0);
        b += n, kept.exponentials += n * f.stride, kept.levels += f.stride;
      }
      finish_tile(f, k0, count, c);
      if (!shares) continue;
      kept = all;
      for (int64_t b = 0; b < f.samples;) {
        const int n = group_of(f.samples - b);
        add_shares(n, f, kept, c.max, c.sum, count, sums + b);
        b += n, kept.exponentials += n * f.stride, kept.levels += f.stride;
      }
    }
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
    split_row(f, b);
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
      for (int64_t b = 0; b < f.samples; ++b) {
        f.row_lse[b] = 0;
        split_row(f, b);
      }
      for (int64_t i = 1; i < s.iterations; ++i) {
        fit_columns(f, true);
        fit_rows(f);
      }
      fit_columns(f, false);
    } else {
      for (int64_t i = 0; i < s.iterations; ++i) fit_pass(f, i == 0);
    }
  }
}

constexpr SinkhornKernels kernels = {pass_workspace, pass, fit_workspace, fit};
