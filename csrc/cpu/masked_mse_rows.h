// The loss on masked patches: a patch at a time, in the first cache. Included by masked_mse.cpp, once per instruction
// set.
// clang-format off
#include "token_rows.h"
#include "patch_rows.h"
// clang-format on

constexpr double NORM_EPS = 1e-6;

FASTSSL_INLINE vfloat absolute(vfloat x) { return (vfloat)((vint)x & 0x7fffffff); }

// x where `at` + lane < size, else 0.
FASTSSL_INLINE vfloat within(vfloat x, int64_t at, int64_t size) {
  if (at + LANES <= size) return x;
  for (int64_t i = size - at; i < LANES; ++i) x[i] = 0;
  return x;
}

// (x - mean) / sqrt(var + eps), var unbiased.
void normalize(float* x, int64_t size) {
  vfloat total{};
  for (int64_t i = 0; i < size; i += LANES) total += within(load(x + i), i, size);
  const float mean = sum_lanes(total) / (float)size;
  vfloat squares{};
  for (int64_t i = 0; i < size; i += LANES) {
    const vfloat d = within(load(x + i) - mean, i, size);
    store(x + i, d);
    squares += d * d;
  }
  const double var = (double)sum_lanes(squares) / (double)(size - 1);
  const float inverse = (float)(1 / __builtin_sqrt(var + NORM_EPS));
  for (int64_t i = 0; i < size; i += LANES) store(x + i, load(x + i) * inverse);
}

// The sum of the loss over one patch; the gradient times `factor`.
FASTSSL_INLINE float compare_as(PatchLoss loss, ElementType type, const MaskedMSE& m, const char* pred,
                                const float* target, char* grad, float factor, bool stream) {
  const int64_t size = m.patches.size();
  const vfloat zero{}, one = zero + 1.f;
  vfloat total{};
  for (int64_t i = 0; i < size; i += LANES) {
    const int64_t left = size - i;
    const vfloat d = within(load_some(type, element(type, pred, i), left) - load(target + i), i, size);
    const vfloat sign = d > 0.f ? one : d < 0.f ? -one : d;  // NaN stays
    vfloat value, slope;
    if (loss == LOSS_MSE) {
      value = d * d, slope = d * 2.f;
    } else if (loss == LOSS_L1) {
      value = absolute(d), slope = sign;
    } else {
      const vint linear = absolute(d) >= m.beta;
      value = linear ? absolute(d) - 0.5f * m.beta : d * d * (0.5f / m.beta);
      slope = linear ? sign : d / m.beta;
    }
    total += value;
    if (!grad) continue;
    if (stream && m.grad_type == TYPE_FLOAT32 && left >= LANES) {
      store_past((float*)grad + i, slope * factor);
    } else {
      store_some(m.grad_type, element(m.grad_type, (void*)grad, i), slope * factor, left);
    }
  }
  return sum_lanes(total);
}

float compare(const MaskedMSE& m, const char* pred, const float* target, char* grad, float factor, bool stream) {
  const ElementType type = m.pred.type;
  if (m.loss == LOSS_L1) return compare_as(LOSS_L1, type, m, pred, target, grad, factor, stream);
  if (m.loss == LOSS_SMOOTH_L1) return compare_as(LOSS_SMOOTH_L1, type, m, pred, target, grad, factor, stream);
  if (type == TYPE_FLOAT32) return compare_as(LOSS_MSE, TYPE_FLOAT32, m, pred, target, grad, factor, stream);
  return compare_as(LOSS_MSE, type, m, pred, target, grad, factor, stream);
}

FASTSSL_INLINE int64_t token_of(const MaskedMSE& m, int64_t n, int64_t j) {
  return m.ids.data ? id_of(m.ids, n, j) : j;
}

FASTSSL_INLINE float weight_of(const MaskedMSE& m, int64_t n, int64_t j) {
  if (!m.ids.data) return m.weights[n * m.weight_sample + j * m.weight_token];
  return names_row(id_of(m.ids, n, j), m.patches.tokens()) ? 1.f : 0.f;
}

void forward(const MaskedMSE& m) {
  const int64_t size = m.patches.size(), bytes = size * bytes_of(m.grad_type);
  const bool stream = m.grad && m.n * m.rows * bytes >= STREAM_BYTES;
  double weights = 0;
  for (int64_t n = 0; n < m.n; ++n)
    for (int64_t j = 0; j < m.rows; ++j) weights += weight_of(m, n, j);
  const double share = 1 / (weights * (double)size);
#pragma omp parallel num_threads(m.threads) if (m.threads > 1)
  {
    float* target = (float*)malloc((size_t)(size + SLACK) * sizeof(float));
#pragma omp for schedule(static)
    for (int64_t at = 0; at < m.n * m.rows; ++at) {
      const int64_t n = at / m.rows, j = at % m.rows;
      const float weight = weight_of(m, n, j);
      char* grad = m.grad ? (char*)m.grad + at * bytes : 0;
      m.partial[at] = 0;
      if (weight == 0) {
        if (grad) clear_bytes(grad, bytes, stream);
        continue;
      }
      load_patch(m.patches, n, token_of(m, n, j), target);
      if (m.norm_pix) normalize(target, size);
      m.partial[at] = weight * compare(m, row_of(m.pred, n, j), target, grad, (float)(weight * share), stream);
    }
    free(target);
    finish_streams();
  }
  double total = 0;
  for (int64_t at = 0; at < m.n * m.rows; ++at) total += m.partial[at];
  *m.value = (float)(total * share);
}

constexpr MaskedMSEKernels kernels = {forward};
