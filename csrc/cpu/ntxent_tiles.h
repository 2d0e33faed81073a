// NT-Xent for one instruction set. Included by ntxent.cpp.
//
// The m = 2n unit rows against themselves, scale 1 / tau, each pair of rows once. The positives are left out of the
// tiles, as row i and its positive have the same id: with them alone in double precision, small losses keep their
// accuracy.
// clang-format off
#include "pairwise_tiles.h"
#include "pairwise_schedule.h"
#include "pairwise_sums.h"
#include "pairwise_weights.h"
// clang-format on

Pairs pairs_of(const float* zn, int64_t n, int64_t d, double tau, const int* ids, int threads) {
  return {zn, 0, 2 * n, 2 * n, d, ids, ids, 1 / tau, true, threads};
}

// Room for them, where there is any, filled: row i and its positive have the same.
int* ids_of(int64_t n, Arena& arena) {
  int* ids = static_cast<int*>(arena.take(2 * n * 4));
  for (int64_t i = 0; ids && i < n; ++i) ids[i] = ids[n + i] = static_cast<int>(i);
  return ids;
}

double dot(const float* a, const float* b, int64_t d) {
  double lane[8] = {0, 0, 0, 0, 0, 0, 0, 0};
  int64_t k = 0;
  for (; k + 8 <= d; k += 8)
    for (int v = 0; v < 8; ++v) lane[v] += static_cast<double>(a[k + v]) * b[k + v];
  for (; k < d; ++k) lane[0] += static_cast<double>(a[k]) * b[k];
  return ((lane[0] + lane[4]) + (lane[1] + lane[5])) + ((lane[2] + lane[6]) + (lane[3] + lane[7]));
}

void normalize(const NTXentForward& a, int64_t i) {
  const float* z = i < a.n ? a.z0 + i * a.d : a.z1 + (i - a.n) * a.d;
  const double norm = sqrt(dot(z, z, a.d));
  const double inverse = 1 / (norm < NTXENT_EPS ? NTXENT_EPS : norm);  // NaN stays NaN
  for (int64_t k = 0; k < a.d; ++k) a.zn[i * a.d + k] = static_cast<float>(z[k] * inverse);
  a.inv_norm[i] = static_cast<float>(inverse);
}

void forward(const NTXentForward& a) {
  Arena arena = {static_cast<char*>(a.workspace), 0};
  const int* ids = ids_of(a.n, arena);
  Sums t = sums_of(pairs_of(a.zn, a.n, a.d, a.tau, ids, a.threads), false, 0, arena);
  t.plain = sums_are_plain(t);
#pragma omp parallel num_threads(a.threads) if (a.threads > 1)
  {
#pragma omp for schedule(static)
    for (int64_t i = 0; i < t.m; ++i) normalize(a, i);
    pack(t);
    clear(t);
    sum_pairs(t);
#pragma omp for schedule(static)
    for (int64_t i = 0; i < t.m; ++i) {
      const int64_t partner = i < a.n ? i + a.n : i - a.n;
      const double pos = dot(a.zn + i * a.d, a.zn + partner * a.d, a.d) / a.tau;
      const double excess = row_log_sum(t, i) - pos;  // -inf for a single pair
      const double nll = excess > 0 ? excess + log1p(exp(-excess)) : log1p(exp(excess));
      a.nll[i] = static_cast<float>(nll);
      a.lse[i] = pos + nll;
    }
  }
  double sum = 0;
  for (int64_t i = 0; i < t.m; ++i) sum += a.nll[i];
  *a.loss = static_cast<float>(sum / t.m);
}

void backward(const NTXentBackward& a) {
  Arena arena = {static_cast<char*>(a.workspace), 0};
  const int* ids = ids_of(a.n, arena);
  float* sums = arena.floats(2 * a.n * a.d);
  double* along = arena.doubles(2 * a.n);
  Weights t = weights_of(pairs_of(a.zn, a.n, a.d, a.tau, ids, a.threads), false, sums, 0, arena);
  t.unit = 1, t.plain = weights_are_plain(t, 0, 0);
  const float scale = static_cast<float>(a.grad / (t.m * a.tau));
#pragma omp parallel num_threads(a.threads) if (a.threads > 1)
  {
    pack(t);
    prepare(t, 0, a.lse, 0, 0);
    weigh_pairs(t);
    // Positive term, upstream gradient, Jacobian of the normalisation.
#pragma omp for schedule(static)
    for (int64_t i = 0; i < t.m; ++i) {
      const int64_t partner = i < a.n ? i + a.n : i - a.n;
      // 1 - p_{i, p(i)} of both rows, exact where the loss is tiny
      const float miss =
          static_cast<float>(-expm1(-static_cast<double>(a.nll[i])) - expm1(-static_cast<double>(a.nll[partner])));
      const float* zn = a.zn + i * a.d;
      const float* positive = a.zn + partner * a.d;
      const float* sum = sums + i * a.d;
      float* out = i < a.n ? a.grad_z0 + i * a.d : a.grad_z1 + (i - a.n) * a.d;
      for (int64_t k = 0; k < a.d; ++k) out[k] = scale * (sum[k] - miss * positive[k]);
      along[i] = dot(out, zn, a.d);
      const float inverse = a.inv_norm[i];
      // Rows shorter than eps were divided by a constant.
      const float project = inverse < static_cast<float>(1 / NTXENT_EPS) ? static_cast<float>(along[i]) : 0.f;
      for (int64_t k = 0; k < a.d; ++k) out[k] = (out[k] - project * zn[k]) * inverse;
    }
  }
  *a.grad_tau = 0;
  for (int64_t i = 0; i < t.m; ++i) *a.grad_tau -= 0.5 * along[i] / a.tau;
}

int64_t forward_workspace(int64_t n, int64_t d, int threads) {
  Arena arena = {0, 0};
  ids_of(n, arena);
  sums_of(pairs_of(0, n, d, 1, 0, threads), false, 0, arena);
  return arena.bytes;
}

int64_t backward_workspace(int64_t n, int64_t d, int threads) {
  Arena arena = {0, 0};
  ids_of(n, arena);
  arena.floats(2 * n * d);
  arena.doubles(2 * n);
  float needed;
  weights_of(pairs_of(0, n, d, 1, 0, threads), false, &needed, 0, arena);
  return arena.bytes;
}

constexpr NTXentKernels kernels = {forward, backward, forward_workspace, backward_workspace};
