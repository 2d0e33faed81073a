// Log-sum-exps of the rows of (logits - center)/temp, and then of the columns of logits/temp less those. Included by
// sinkhorn.cpp, once per instruction set.
//
// A row is swept in pieces that fit the first cache. Its exponentials stay in a scratch of one row, in the second
// cache, until their sum is known, and join the thread's column sums during the next row: one exponential an element,
// and one read of the logits. A column that hardly gets a share of any row is summed again on logarithms, as are all of
// them where there is no center, and where the rows are too few for the threads.
#include "sinkhorn_columns.h"

// Elements of a row less those of the center; beyond the row -inf.
FASTSSL_INLINE vfloat centered(ElementType type, const char* row, const float* center, int64_t k, int64_t left) {
  vfloat x = load_some(type, element(type, row, k), left) - load_some(TYPE_FLOAT32, center + k, left);
  for (int64_t lane = left; lane < LANES; ++lane) x[lane] = -__builtin_inff();
  return x;
}

FASTSSL_INLINE float peak(const Sinkhorn& s, const char* row, int64_t k0, int64_t k1) {
  vfloat most = splat(NOTHING);
  for (int64_t k = k0; k < k1; k += LANES) most = maximum(most, centered(s.type, row, s.center, k, k1 - k));
  return max_lanes(most);
}

// Where the exponentials of a piece of a row go. They take the places of the row before, whose shares join the column
// sums on the way.
struct Target {
  float* exponentials;  // or null: nowhere
  float* sums;          // or null: they have joined already
  float share;          // 1 / the sum of the row before, relative to the level of the piece
};

// The sum of e^((x - center - level)/temp) over a piece of a row; the largest x - center in each lane.
FASTSSL_INLINE float sweep_as(ElementType type, bool whole, bool join, const char* row, const float* center, int64_t k0,
                              int64_t count, float level, Exponent e, Target to, vfloat* most) {
  vfloat total{}, max = splat(NOTHING);
  for (int64_t i = 0; i < count; i += LANES) {
    const vfloat x = centered(type, row, center, k0 + i, whole ? LANES : count - i);
    __builtin_prefetch(element(type, row, k0 + i + AHEAD), 0, 2);
    max = maximum(max, x);
    const vfloat y = exponential(x - level, e);
    total += y;
    if (join) store(to.sums + i, load(to.sums + i) + load(to.exponentials + i) * to.share);
    if (join || to.exponentials) store(to.exponentials + i, y);
  }
  *most = max;
  return sum_lanes(total);
}

FASTSSL_INLINE float sweep_of(const Plan& p, bool whole, const char* row, int64_t k0, int64_t count, float level,
                              Target to, vfloat* most) {
  const Exponent e = p.exponent;
  if (!to.sums) return sweep_as(p.type, whole, false, row, p.center, k0, count, level, e, to, most);
  if (p.type == TYPE_FLOAT32) return sweep_as(TYPE_FLOAT32, whole, true, row, p.center, k0, count, level, e, to, most);
  if (p.type == TYPE_BFLOAT16)
    return sweep_as(TYPE_BFLOAT16, whole, true, row, p.center, k0, count, level, e, to, most);
  return sweep_as(TYPE_FLOAT16, whole, true, row, p.center, k0, count, level, e, to, most);
}

float sweep(const Plan& p, const char* row, int64_t k0, int64_t count, float level, Target to, vfloat* most) {
  if (count % LANES == 0) return sweep_of(p, true, row, k0, count, level, to, most);
  return sweep_of(p, false, row, k0, count, level, to, most);
}

struct RowSum {
  float level;
  double sum;  // relative to it
};

// What a thread keeps of the row before, and its column sums.
struct Before {
  float* exponentials;  // [width], or null: nothing is kept
  float* levels;        // of the pieces, [pieces]
  float* sums;          // [width]
  RowSum row;
};

FASTSSL_INLINE float share_of(const Plan& p, const Before& before, int64_t piece) {
  const double rise = (double)before.levels[piece] - before.row.level;
  return (float)((rise == 0 ? 1 : exp(rise * p.exponent.inverse)) / before.row.sum);
}

// Of the columns [k0, k1) of a row. The level rises in time for no exponential to overflow.
RowSum sum_row(const Plan& p, int64_t b, int64_t k0, int64_t k1, const Before& before) {
  const char* row = row_at(p, b);
  float level = peak(p, row, k0, smaller(k1, k0 + PIECE));
  double sum = 0;
  for (int64_t k = k0; k < k1; k += PIECE) {
    const int64_t count = smaller(PIECE, k1 - k), piece = (k - k0) / PIECE;
    Target to{};
    if (before.exponentials) to = {before.exponentials + (k - k0), before.sums + (k - k0), share_of(p, before, piece)};
    vfloat most;
    float part = sweep(p, row, k, count, level, to, &most);
    if (any(most > level + p.exponent.slack)) {
      const float risen = max_lanes(most);
      sum *= exp(((double)level - risen) * p.exponent.inverse);
      level = risen, to.sums = 0;
      part = sweep(p, row, k, count, level, to, &most);
    }
    if (before.exponentials) before.levels[piece] = level;
    sum += part;
  }
  return {level, sum};
}

FASTSSL_INLINE double log_of(const Plan& p, RowSum r) { return r.level * p.exponent.inverse + log(r.sum); }

// The log-sum-exps of all rows. For all threads of a parallel region.
void sum_rows(const Plan& p) {
  const int64_t parts = p.row_parts, length = parts_of(parts_of(p.prototypes, parts), PIECE) * PIECE;
#pragma omp for schedule(static)
  for (int64_t i = 0; i < p.samples * parts; ++i) {
    const int64_t b = i / parts, k = i % parts * length;
    p.scratch.parts[i] =
        k < p.prototypes ? log_of(p, sum_row(p, b, k, smaller(k + length, p.prototypes), {})) : -__builtin_inf();
  }
#pragma omp for schedule(static)
  for (int64_t b = 0; b < p.samples; ++b) p.row_lse[b] = log_sum(p.scratch.parts + b * parts, parts, 1);
}

// e^-lse = e^(-level/temp) rest, where a score less the level is exact where it matters. For all threads of a parallel
// region.
void split_rows(const Plan& p) {
#pragma omp for schedule(static)
  for (int64_t b = 0; b < p.samples; ++b) {
    const float level = (float)(p.row_lse[b] * p.temp);
    p.scratch.row_level[b] = level;
    p.scratch.row_rest[b] = (float)exp(level * p.exponent.inverse - p.row_lse[b]);
  }
}

// Adds the last row's shares.
void add_last(const Plan& p, const Before& before) {
  for (int64_t k = 0; k < p.width; k += PIECE) {
    const float share = share_of(p, before, k / PIECE);
    for (int64_t i = k; i < smaller(k + PIECE, p.width); i += LANES)
      store(before.sums + i, load(before.sums + i) + load(before.exponentials + i) * share);
  }
}

FASTSSL_INLINE void settle_sums(float* sums, double* whole, int64_t width) {
  for (int64_t i = 0; i < width; ++i) whole[i] += sums[i], sums[i] = 0;
}

// The rows' log-sum-exps, and the column sums of each thread's rows. For all threads of a parallel region.
void sum_rows_and_columns(const Plan& p) {
#pragma omp for schedule(static)
  for (int64_t thread = 0; thread < p.threads; ++thread) {
    const int64_t pieces = parts_of(p.width, PIECE), at = thread * p.width;
    Before before = {p.scratch.exponentials + at, p.scratch.levels + thread * pieces, p.scratch.sums + at, {0, 1}};
    double* whole = p.scratch.whole_sums ? p.scratch.whole_sums + at : 0;
    for (int64_t i = 0; i < p.width; ++i) before.exponentials[i] = before.sums[i] = 0;
    for (int64_t i = 0; i < pieces; ++i) before.levels[i] = 0;
    for (int64_t i = 0; whole && i < p.width; ++i) whole[i] = 0;
    const int64_t first = thread * p.rows_of_thread, end = smaller(first + p.rows_of_thread, p.samples);
    for (int64_t b = first; b < end; ++b) {
      before.row = sum_row(p, b, 0, p.prototypes, before);
      p.row_lse[b] = log_of(p, before.row);
      if (whole && (b + 1 - first) % BLOCK_ROWS == 0) settle_sums(before.sums, whole, p.width);
    }
    add_last(p, before);
    if (whole) settle_sums(before.sums, whole, p.width);
  }
}

// The sums of all threads, of LANES columns.
FASTSSL_INLINE vfloat total_of(const Plan& p, int64_t k) {
  if (!p.scratch.whole_sums) {
    vfloat total{};
    for (int64_t thread = 0; thread < p.threads; ++thread) total += load(p.scratch.sums + thread * p.width + k);
    return total;
  }
  double totals[LANES] = {};
  for (int64_t thread = 0; thread < p.threads; ++thread)
    for (int i = 0; i < LANES; ++i) totals[i] += p.scratch.whole_sums[thread * p.width + k + i];
  vfloat total{};
  for (int i = 0; i < LANES; ++i) total[i] = (float)totals[i];
  return total;
}

FASTSSL_INLINE bool any_below(const float* x, int64_t count, float least) {
  bool found = false;
  for (int64_t i = 0; i < smaller(count, LANES); ++i) found = found || x[i] < least;
  return found;
}

// From sums to log-sum-exps of the columns; of those that are too small, on logarithms. For all threads of a parallel
// region.
void finish_columns(const Plan& p) {
  const float least = (float)log((double)p.samples * FAINT);
#pragma omp for schedule(static, 1)
  for (int64_t k0 = 0; k0 < p.prototypes; k0 += TILE) {
    const int64_t count = smaller(TILE, p.prototypes - k0);
    alignas(64) float logs[TILE];
    for (int64_t i = 0; i < count; i += LANES) store(logs + i, total_of(p, k0 + i));
    finish(p, logs, p.center + k0, 0, count, p.column_lse + k0);
    for (int64_t i = 0; i < count; i += LANES) {
      const int64_t first = i;
      while (i < count && any_below(logs + i, count - i, least)) i += LANES;
      if (i > first) sum_columns(p, false, k0 + first, k0 + smaller(i, count), 0, p.samples, p.column_lse + k0 + first);
    }
  }
}

void pass(const Sinkhorn& s) {
  const Plan p = plan_of(s);
#pragma omp parallel num_threads(p.threads) if (p.threads > 1)
  {
    if (p.fused) {
      sum_rows_and_columns(p);
      split_rows(p);
      finish_columns(p);
    } else {
      if (p.center) {
        sum_rows(p);
        split_rows(p);
      } else {
#pragma omp for schedule(static)
        for (int64_t b = 0; b < p.samples; ++b) p.row_lse[b] = 0;
      }
      if (p.column_lse) sum_all_columns(p);
    }
  }
}

constexpr SinkhornKernels kernels = {workspace, pass};
