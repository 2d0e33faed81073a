// What each pair pulls at its rows: W_ij = grad_row_i e^(scale s_ij - row_lse_i) + grad_col_j e^(scale s_ij -
// col_lse_j). Included after pairwise_sums.h, whose t and c these are.
//
// grad e^(scale s - lse) = 2^(c (t - level)) rest: plain ones have level 0, others lse / |scale|, so that t - level is
// exact where it matters.

constexpr double PLAIN_LSE = 80;  // e^-lse stays a normal number

struct Weights : Problem {
  bool plain;
  double unit;                  // the largest gradient of all, by which they are divided
  float *row_level, *row_rest;  // [rows]
  float *col_level, *col_rest;  // [n], or null
  float *grad_x, *more_grads;   // W Y of the first group and of the others, [groups - 1, m, d]; or null
  float* grad_y;                // W^T X, or null; of a symmetric problem grad_x
  double* products;             // sum_ij W_ij t_ij, [groups, rows / PANEL]
};

Weights weights_of(const Pairs& pairs, bool columns, float* grad_x, float* grad_y, Arena& arena) {
  Weights t{};
  (Problem&)t = problem_of(pairs, grad_y != 0 || (!pairs.y && grad_x), arena);
  t.row_level = arena.floats(t.rows), t.row_rest = arena.floats(t.rows);
  if (columns) t.col_level = arena.floats(t.n), t.col_rest = arena.floats(t.n);
  if (t.symmetric) t.col_level = t.row_level, t.col_rest = t.row_rest;
  t.grad_x = grad_x, t.grad_y = t.symmetric ? grad_x : grad_y;
  if (grad_x) t.more_grads = arena.floats((t.groups - 1) * t.m * t.d);
  t.products = arena.doubles(t.groups * t.rows / PANEL);
  return t;
}

// From scores to weights, in place; the sum of their products.
FASTSSL_INLINE double weigh(const Weights& t, const Mask& mask, int64_t i, int64_t j0, float* chunk, int64_t first,
                            int64_t count, bool plain) {
  const vfloat c = splat(t.log2_scale);
  const bool masked = mask.same || mask.outside;
  vfloat level[VECTORS], rest[VECTORS], total{};
  for (int v = 0; v < VECTORS; ++v)
    level[v] = load(t.row_level + i + v * LANES), rest[v] = load(t.row_rest + i + v * LANES);
  for (int64_t run = first; run < count; run += RUN) {
    vfloat part{};
    for (int64_t j = run; j < smaller(run + RUN, count); ++j) {
      const vfloat col_rest = splat(t.col_rest ? t.col_rest[j0 + j] : 0.f);
      const vfloat col_level = splat(!plain && t.col_rest ? t.col_level[j0 + j] : 0.f);
      for (int v = 0; v < VECTORS; ++v) {
        float* at = chunk + j * PANEL + v * LANES;
        const vfloat s = load(at);
        vfloat w;
        if (plain) {
          w = exp2_product(s, c) * (rest[v] + col_rest);
        } else {
          w = exp2_nonpositive((s - level[v]) * c) * rest[v];
          if (t.col_rest) w += exp2_nonpositive((s - col_level) * c) * col_rest;
        }
        if (masked) {
          const vmask out = excluded(mask, j, v);
          w = select(out, vfloat{}, w);
          part += select(out, vfloat{}, w * s);
        } else {
          part += w * s;
        }
        store(at, w);
      }
    }
    total += part;
  }
  return sum_lanes(total);
}

FASTSSL_INLINE void weigh_stripe(const Problem& p, const Stripe& s, bool plain) {
  const Weights& t = (const Weights&)p;
  alignas(64) float chunks[TILE * TILE];
  for (int64_t i = s.i0; i < s.i1; i += TILE) {
    const int64_t i1 = smaller(i + TILE, s.i1);
    const bool triangle = s.diagonal && i == s.j0;
    for (int64_t k = i; k < i1; k += PANEL) {
      const int64_t first = triangle ? k - i : 0;
      float* chunk = chunks + (k - i) * TILE;
      scores(t, s, k, first, chunk);
      t.products[(s.group * t.rows + k) / PANEL] +=
          weigh(t, mask_of(t, s, k, triangle), k, s.j0, chunk, first, s.j1 - s.j0, plain);
    }
    if (t.grad_x)
      add_to_rows(t, s, chunks, i, i1, triangle, s.group ? t.more_grads + (s.group - 1) * t.m * t.d : t.grad_x, 0);
    if (t.grad_y) add_to_columns(t, s, chunks, i, i1, triangle, t.grad_y);
  }
}

void weigh_stripe_plain(const Problem& p, const Stripe& s) { weigh_stripe(p, s, true); }
void weigh_stripe_online(const Problem& p, const Stripe& s) { weigh_stripe(p, s, false); }

// Whether e^(scale t) and e^-lse can be taken one by one, as products of normal numbers.
bool weights_are_plain(const Weights& t, const double* row_lse, const double* col_lse) {
  double most = -PLAIN_LSE;
  for (int64_t i = 0; row_lse && i < t.m; ++i) most = row_lse[i] <= most ? most : row_lse[i];
  for (int64_t j = 0; col_lse && j < t.n; ++j) most = col_lse[j] <= most ? most : col_lse[j];
  return fabs(t.scale) * largest_x(t) * largest_y(t) <= PLAIN_UP_TO && most <= PLAIN_LSE;
}

// The level and the rest of one row; no gradient, or of an empty row: nothing.
FASTSSL_INLINE void split(const Weights& t, double grad, double lse, float& level, float& rest) {
  const double scale = t.scale * t.sign;
  if (lse == -__builtin_inf()) {
    level = LARGEST, rest = 0;
    return;
  }
  level = t.plain ? 0.f : (float)(lse / scale);
  rest = (float)(grad / t.unit * (lse < __builtin_inf() ? exp(level * scale - lse) : __builtin_nan("")));
}

// Levels and rests, and no sums yet. For all threads of a parallel region.
void prepare(const Weights& t, const float* grad_row, const double* row_lse, const float* grad_col,
             const double* col_lse) {
#pragma omp for schedule(static) nowait
  for (int64_t i = 0; i < t.rows; ++i) {
    const bool none = i >= t.m || !row_lse;
    split(t, none || !grad_row ? 1 : grad_row[i], none ? -__builtin_inf() : row_lse[i], t.row_level[i], t.row_rest[i]);
  }
  if (t.col_rest && !t.symmetric)
#pragma omp for schedule(static) nowait
    for (int64_t j = 0; j < t.n; ++j) split(t, grad_col[j], col_lse[j], t.col_level[j], t.col_rest[j]);
#pragma omp for schedule(static) nowait
  for (int64_t k = 0; k < t.groups * t.rows / PANEL; ++k) t.products[k] = 0;
  if (t.grad_x)
#pragma omp for schedule(static) nowait
    for (int64_t i = 0; i < t.groups * t.m; ++i)
      memset(i < t.m ? t.grad_x + i * t.d : t.more_grads + (i - t.m) * t.d, 0, (size_t)t.d * 4);
  if (t.grad_y && !t.symmetric)
#pragma omp for schedule(static) nowait
    for (int64_t j = 0; j < t.n; ++j) memset(t.grad_y + j * t.d, 0, (size_t)t.d * 4);
}

void weigh_pairs(const Weights& t) { visit_pairs(t, t.plain ? weigh_stripe_plain : weigh_stripe_online); }

FASTSSL_INLINE double sum_of_products(const Weights& t) {
  double sum = 0;
  for (int64_t k = 0; k < t.groups * t.rows / PANEL; ++k) sum += t.products[k];
  return sum;
}
