// Log-sum-exps of rows, and one iteration of Sinkhorn-Knopp. Included by sinkhorn_tiles.h.
#include "sinkhorn_columns.h"

// Elements of a row less those of the center; beyond the row -inf.
FASTSSL_INLINE vfloat centered(ElementType type, const char* row, const float* center, int64_t k, int64_t left) {
  vfloat x = load_some(type, element(type, row, k), left) - load_some(TYPE_FLOAT32, center + k, left);
  for (int64_t lane = left; lane < LANES; ++lane) x[lane] = -__builtin_inff();
  return x;
}

FASTSSL_INLINE float peak(const Plan& p, const char* row, int64_t k0, int64_t k1) {
  vfloat most = splat(NOTHING);
  for (int64_t k = k0; k < k1; k += LANES) most = maximum(most, centered(p.type, row, p.center, k, k1 - k));
  return max_lanes(most);
}

// The sum of e^((x - center - level)/temp) over a piece of a row; the largest x - center in each lane.
FASTSSL_INLINE float sweep_as(ElementType type, bool whole, const Plan& p, const char* row, int64_t k0, int64_t count,
                              float level, vfloat* most) {
  const Exponent e = p.exponent;
  vfloat total{}, max = splat(NOTHING);
  for (int64_t i = 0; i < count; i += LANES) {
    const vfloat x = centered(type, row, p.center, k0 + i, whole ? LANES : count - i);
    __builtin_prefetch(element(type, row, k0 + i + AHEAD), 0, 2);
    max = maximum(max, x);
    total += exponential(x - level, e);
  }
  *most = max;
  return sum_lanes(total);
}

float sweep(const Plan& p, const char* row, int64_t k0, int64_t count, float level, vfloat* most) {
  const bool whole = count % LANES == 0;
  if (p.type == TYPE_FLOAT32 && whole) return sweep_as(TYPE_FLOAT32, true, p, row, k0, count, level, most);
  if (p.type == TYPE_BFLOAT16 && whole) return sweep_as(TYPE_BFLOAT16, true, p, row, k0, count, level, most);
  return sweep_as(p.type, false, p, row, k0, count, level, most);
}

// The log-sum-exp of the columns [k0, k1) of a row less the center. The level rises in time for no exponential to
// overflow.
double sum_row(const Plan& p, int64_t b, int64_t k0, int64_t k1) {
  const char* row = row_at(p, b);
  float level = peak(p, row, k0, smaller(k1, k0 + PIECE));
  double sum = 0;
  for (int64_t k = k0; k < k1; k += PIECE) {
    const int64_t count = smaller(PIECE, k1 - k);
    vfloat most;
    float part = sweep(p, row, k, count, level, &most);
    if (any(most > level + p.exponent.slack)) {
      const float risen = max_lanes(most);
      sum *= exp(((double)level - risen) * p.exponent.inverse);
      level = risen;
      part = sweep(p, row, k, count, level, &most);
    }
    sum += part;
  }
  return level * p.exponent.inverse + log(sum);
}

// The log-sum-exps of all rows; 0 without a center. For all threads of a parallel region.
void sum_all_rows(const Plan& p) {
  const int64_t parts = p.row_parts, length = parts_of(parts_of(p.prototypes, parts), PIECE) * PIECE;
#pragma omp for schedule(static)
  for (int64_t i = 0; i < (p.center ? p.samples * parts : 0); ++i) {
    const int64_t k = i % parts * length;
    p.parts[i] = k < p.prototypes ? sum_row(p, i / parts, k, smaller(k + length, p.prototypes)) : -__builtin_inf();
  }
#pragma omp for schedule(static)
  for (int64_t b = 0; b < p.samples; ++b) {
    p.row_lse[b] = p.center ? log_sum(p.parts + b * parts, parts, 1) : 0;
    split_row(p, b);
  }
}

Plan plan_of_pass(const SinkhornPass& s) {
  Plan p = plan_of(s.problem);
  p.center = s.center, p.row_lse = s.row_lse, p.column_lse = s.column_lse;
  split_work(p);
  return p;
}

int64_t pass_workspace(const SinkhornPass& s) { return plan_of_pass(s).bytes; }

void pass(const SinkhornPass& s) {
  const Plan p = plan_of_pass(s);
#pragma omp parallel num_threads(p.threads) if (p.threads > 1)
  {
    sum_all_rows(p);
    if (p.column_lse) sum_all_columns(p);
  }
}
