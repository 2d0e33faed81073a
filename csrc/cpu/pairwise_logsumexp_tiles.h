// Log-sum-exp over rows and columns for one instruction set. Included by pairwise_logsumexp.cpp.
// clang-format off
#include "pairwise_tiles.h"
#include "pairwise_schedule.h"
#include "pairwise_sums.h"
#include "pairwise_weights.h"
// clang-format on

// <x_i, x_i>, the one pair of a symmetric problem without ids that is not among the unordered pairs.
double own_score(const Pairs& p, int64_t i) {
  double sum = 0;
  for (int64_t k = 0; k < p.d; ++k) sum += (double)p.x[i * p.d + k] * p.x[i * p.d + k];
  return sum;
}

FASTSSL_INLINE bool has_own_pairs(const Problem& p) { return p.symmetric && !p.row_ids; }

double log_add(double a, double b) {
  if (a == b) return a + log(2.);
  return a > b ? a + log1p(exp(b - a)) : b + log1p(exp(a - b));
}

// mean_i = (the sums of the groups) / (the sum of weights)
void finish_mean(const Sums& t, int64_t i, double lse) {
  float* mean = t.mean + i * t.d;
  for (int group = 0; group < t.groups; ++group) {
    const double level = t.plain ? 0 : t.row_max[group * t.rows + i] * (t.scale * t.sign);
    const bool empty = lse == -__builtin_inf() || (!t.plain && t.row_max[group * t.rows + i] == NOTHING);
    const float factor = empty ? 0.f : (float)exp(level - lse);
    const float* part = group ? t.more_means + ((group - 1) * t.m + i) * t.d : mean;
    for (int64_t k = 0; k < t.d; ++k) mean[k] = part[k] * factor + (group ? mean[k] : 0.f);
  }
}

void forward(const LogsumexpForward& a) {
  Arena arena = {(char*)a.workspace, 0};
  Sums t = sums_of(a.pairs, a.columns, a.mean, arena);
#pragma omp parallel num_threads(t.threads) if (t.threads > 1)
  {
    pack(t);
    clear(t);
  }
  t.plain = sums_are_plain(t);
#pragma omp parallel num_threads(t.threads) if (t.threads > 1)
  {
    sum_pairs(t);
#pragma omp for schedule(static)
    for (int64_t i = 0; i < t.m; ++i) {
      a.row_lse[i] = row_log_sum(t, i);
      if (has_own_pairs(t)) a.row_lse[i] = log_add(a.row_lse[i], t.scale * own_score(t, i));
      if (t.mean) finish_mean(t, i, a.row_lse[i]);
    }
    if (a.columns)
#pragma omp for schedule(static)
      for (int64_t j = 0; j < t.n; ++j) a.col_lse[j] = log_of(t, t.col_sum[j], t.col_max[j]);
  }
}

// The largest |x|, where that is a number to divide by.
double unit_of(const float* x, int64_t count, double unit) {
  for (int64_t i = 0; x && i < count; ++i)
    if (fabs(x[i]) > unit) unit = fabs(x[i]);
  return unit;
}

void backward(const LogsumexpBackward& a) {
  Arena arena = {(char*)a.workspace, 0};
  Weights t = weights_of(a.pairs, a.grad_col, a.grad_x, a.grad_y, arena);
  const double unit = unit_of(a.grad_col, t.n, unit_of(a.grad_row, t.m, 0));
  t.unit = unit > 0 && unit < __builtin_inf() ? unit : 1;
#pragma omp parallel num_threads(t.threads) if (t.threads > 1)
  pack(t);
  const double* row_lse = a.grad_row ? a.row_lse : 0;
  t.plain = weights_are_plain(t, row_lse, a.grad_col ? a.col_lse : 0);
  const float factor = (float)(t.scale * t.unit);
#pragma omp parallel num_threads(t.threads) if (t.threads > 1)
  {
    prepare(t, a.grad_row, row_lse, a.grad_col, a.col_lse);
    weigh_pairs(t);
    if (t.grad_x)
#pragma omp for schedule(static)
      for (int64_t i = 0; i < t.m; ++i) {
        float* out = t.grad_x + i * t.d;
        for (int group = 1; group < t.groups; ++group)
          for (int64_t k = 0; k < t.d; ++k) out[k] += t.more_grads[((group - 1) * t.m + i) * t.d + k];
        const float own = has_own_pairs(t) && row_lse
                              ? (float)(2 * a.grad_row[i] / t.unit * exp(t.scale * own_score(t, i) - row_lse[i]))
                              : 0.f;
        for (int64_t k = 0; k < t.d; ++k) out[k] = factor * (own ? out[k] + own * t.x[i * t.d + k] : out[k]);
      }
    if (t.grad_y && !t.symmetric)
#pragma omp for schedule(static)
      for (int64_t k = 0; k < t.n * t.d; ++k) t.grad_y[k] *= factor;
  }
  double products = t.sign * sum_of_products(t);
  for (int64_t i = 0; has_own_pairs(t) && row_lse && i < t.m; ++i) {
    const double own = own_score(t, i);
    products += a.grad_row[i] / t.unit * exp(t.scale * own - row_lse[i]) * own;
  }
  *a.grad_scale = products * t.unit;
}

int64_t forward_workspace(const LogsumexpForward& a) {
  Arena arena = {0, 0};
  sums_of(a.pairs, a.columns, a.mean, arena);
  return arena.bytes;
}

int64_t backward_workspace(const LogsumexpBackward& a) {
  Arena arena = {0, 0};
  weights_of(a.pairs, a.grad_col, a.grad_x, a.grad_y, arena);
  return arena.bytes;
}

constexpr LogsumexpKernels kernels = {forward, backward, forward_workspace, backward_workspace};
