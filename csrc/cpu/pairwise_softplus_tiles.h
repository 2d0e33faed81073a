// The sum of softplus(-l t), t = scale s + bias, l = 1 for pairs that are the same and -1 for others, for one
// instruction set, with what each pair pulls: W = -l sigmoid(-l t). Included by pairwise_softplus.cpp.
// clang-format off
#include "pairwise_tiles.h"
#include "pairwise_schedule.h"
// clang-format on

struct Losses : Problem {
  float scale32;  // |scale|
  bool only_same;
  const float* bias;           // [m]
  double *totals, *products;   // of each panel: the sum, sum_ij W_ij t_ij; [groups, rows / PANEL]
  double* slopes;              // sum_j W_ij, [groups, rows]
  float *grad_x, *more_grads;  // W Y of the first group and of the others, [groups - 1, m, d]; or null
  float* grad_y;               // W^T X, or null
};

Losses losses_of(const Softplus& a, Arena& arena) {
  Losses t{};
  (Problem&)t = problem_of(a.pairs, a.grad_y, arena);
  t.scale32 = (float)(t.scale * t.sign), t.only_same = a.only_same, t.bias = a.bias;
  t.totals = arena.doubles(t.groups * t.rows / PANEL), t.products = arena.doubles(t.groups * t.rows / PANEL);
  t.slopes = arena.doubles(t.groups * t.rows);
  t.grad_x = a.grad_x, t.grad_y = a.grad_y;
  if (t.grad_x) t.more_grads = arena.floats((t.groups - 1) * t.m * t.d);
  return t;
}

// log(1 + z) for 0 <= z <= 1: z times a minimax polynomial of log(1 + z) / z that is 1 at 0, error 3.3e-8 before
// rounding.
FASTSSL_INLINE vfloat log1p_unit(vfloat z) {
  vfloat p = z * 0x1.5f96cap-8f - 0x1.ec990cp-6f;
  p = p * z + 0x1.446bf6p-4f;
  p = p * z - 0x1.19ad88p-3f;
  p = p * z + 0x1.884450p-3f;
  p = p * z - 0x1.fd1320p-3f;
  p = p * z + 0x1.5535dap-2f;
  p = p * z - 0x1.ffff14p-2f;
  p = p * z + 0x1.0p+0f;
  return p * z;
}

// e^-|u|, 0 where that is no normal number. The product with log2(e) is not rounded.
FASTSSL_INLINE vfloat exp_minus(vfloat size) {
  const vfloat shifted = size * (float)-LOG2_E + ROUND, whole = shifted - ROUND;
  vfloat fraction = size * (float)-LOG2_E - whole;
  fraction += size * (float)((double)(float)LOG2_E - LOG2_E);
  const vmask tiny = size > 87.f;
  return select(tiny, vfloat{}, exp2_parts(fraction, shifted));
}

// From scores to weights, in place; their sums over rows, and those of the terms and of products over all.
FASTSSL_INLINE void weigh(const Losses& t, const Mask& mask, int64_t i, int64_t panel, float* chunk, int64_t count) {
  const vfloat scale = splat(t.scale32), one = splat(1.f);
  vfloat bias[VECTORS], slope[VECTORS] = {}, total{}, product{};
  alignas(64) float biases[PANEL] = {};
  memcpy(biases, t.bias + i, (size_t)smaller(PANEL, t.m - i) * 4);
  for (int v = 0; v < VECTORS; ++v) bias[v] = load(biases + v * LANES);
  for (int64_t run = 0; run < count; run += RUN) {
    vfloat terms{}, pulls{}, part[VECTORS] = {};
    for (int64_t j = run; j < smaller(run + RUN, count); ++j)
      for (int v = 0; v < VECTORS; ++v) {
        float* at = chunk + j * PANEL + v * LANES;
        const vfloat s = load(at), logit = s * scale + bias[v];
        const vmask like = mask.same ? same(mask, j, v) : vmask{};
        const vfloat u = one_nan((vfloat)((vint)logit ^ (like & (int)0x80000000)));
        const vfloat e = exp_minus((vfloat)((vint)u & 0x7fffffff)), inverse = one / (one + e);
        vfloat term = maximum(u, vfloat{}) + log1p_unit(e);
        vfloat w = (vfloat)((vint)select(u > 0.f, inverse, e * inverse) ^ (like & (int)0x80000000)), pull = w * s;
        if (mask.outside || t.only_same) {
          const vmask out = outside(mask, j, v) | (t.only_same ? ~like : vmask{});
          term = select(out, vfloat{}, term), w = select(out, vfloat{}, w), pull = select(out, vfloat{}, pull);
        }
        store(at, w);
        terms += term, pulls += pull, part[v] += w;
      }
    total += terms, product += pulls;
    for (int v = 0; v < VECTORS; ++v) slope[v] += part[v];
  }
  t.totals[panel] += sum_lanes(total), t.products[panel] += sum_lanes(product);
  for (int k = 0; k < PANEL; ++k) t.slopes[panel * PANEL + k] += slope[k / LANES][k % LANES];
}

void weigh_stripe(const Problem& p, const Stripe& s) {
  const Losses& t = (const Losses&)p;
  alignas(64) float chunks[TILE * TILE];
  const int64_t count = s.j1 - s.j0;
  for (int64_t i = s.i0; i < s.i1; i += TILE) {
    const int64_t i1 = smaller(i + TILE, s.i1);
    bool any = false;
    for (int64_t k = i; k < i1; k += PANEL) {
      float* chunk = chunks + (k - i) * TILE;
      const Mask mask = mask_of(t, s, k, false);
      if (t.only_same && !mask.same) {
        memset(chunk, 0, sizeof(float) * CHUNK);
        continue;
      }
      any = true;
      scores(t, s, k, 0, chunk);
      weigh(t, mask, k, (s.group * t.rows + k) / PANEL, chunk, count);
    }
    if (any && t.grad_x)
      add_to_rows(t, s, chunks, i, i1, false, s.group ? t.more_grads + (s.group - 1) * t.m * t.d : t.grad_x, 0);
    if (any && t.grad_y) add_to_columns(t, s, chunks, i, i1, false, t.grad_y);
  }
}

void forward(const Softplus& a) {
  Arena arena = {(char*)a.workspace, 0};
  const Losses t = losses_of(a, arena);
  const float factor = (float)t.scale;
#pragma omp parallel num_threads(t.threads) if (t.threads > 1)
  {
    pack(t);
#pragma omp for schedule(static) nowait
    for (int64_t i = 0; i < t.groups * t.rows; ++i) {
      t.slopes[i] = 0;
      if (i % PANEL == 0) t.totals[i / PANEL] = 0, t.products[i / PANEL] = 0;
    }
    if (t.grad_x)
#pragma omp for schedule(static) nowait
      for (int64_t i = 0; i < t.groups * t.m; ++i)
        memset(i < t.m ? t.grad_x + i * t.d : t.more_grads + (i - t.m) * t.d, 0, (size_t)t.d * 4);
    if (t.grad_y)
#pragma omp for schedule(static) nowait
      for (int64_t j = 0; j < t.n; ++j) memset(t.grad_y + j * t.d, 0, (size_t)t.d * 4);
    visit_pairs(t, weigh_stripe);
#pragma omp for schedule(static)
    for (int64_t i = 0; i < t.m; ++i) {
      double slope = 0;
      for (int group = 0; group < t.groups; ++group) slope += t.slopes[group * t.rows + i];
      a.grad_bias[i] = (float)slope;
      for (int group = 0; t.grad_x && group < t.groups; ++group) {
        float* out = t.grad_x + i * t.d;
        const float* part = group ? t.more_grads + ((group - 1) * t.m + i) * t.d : out;
        for (int64_t k = 0; k < t.d; ++k) out[k] = group ? out[k] + factor * part[k] : factor * out[k];
      }
    }
    if (t.grad_y)
#pragma omp for schedule(static)
      for (int64_t k = 0; k < t.n * t.d; ++k) t.grad_y[k] *= factor;
  }
  double total = 0, products = 0;
  for (int64_t k = 0; k < t.groups * t.rows / PANEL; ++k) total += t.totals[k], products += t.products[k];
  *a.total = total;
  *a.grad_scale = t.sign * products;
}

int64_t workspace(const Softplus& a) {
  Arena arena = {0, 0};
  losses_of(a, arena);
  return arena.bytes;
}

constexpr SoftplusKernels kernels = {forward, workspace};
