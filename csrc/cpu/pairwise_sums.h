// Sums of e^(scale s_ij) over rows and columns. Included after pairwise_schedule.h.
//
// With t_ij = <sign x_i, y_j> and c = log2(e) |scale|, e^(scale s_ij) = 2^(c t_ij). Where |c t| is small enough these
// are summed as they are: `plain`. Else each row and column has a running maximum; t - max is exact where it matters,
// as c t would not be.

constexpr double PLAIN_UP_TO = 64;  // of |scale t|

// Sums and the maxima they are relative to, in scores; plain ones are relative to 0.
struct Sums : Problem {
  bool plain, columns;
  double *row_sum, *col_sum;  // [groups, rows], [n]
  float *row_max, *col_max;   // the same
  float *mean, *more_means;   // sum_j 2^.. y_j of the first group and of the others, [groups - 1, m, d]; or null
};

Sums sums_of(const Pairs& pairs, bool columns, float* mean, Arena& arena) {
  Sums t{};
  (Problem&)t = problem_of(pairs, false, arena);
  t.columns = columns || t.symmetric;
  t.row_sum = arena.doubles(t.groups * t.rows), t.row_max = arena.floats(t.groups * t.rows);
  if (t.columns) t.col_sum = arena.doubles(t.n), t.col_max = arena.floats(t.n);
  t.mean = mean;
  if (mean) t.more_means = arena.floats((t.groups - 1) * t.m * t.d);
  return t;
}

// The sums over a chunk of a panel's rows, and into col_sum of 2^(c t) a lane each.
FASTSSL_INLINE void sum_plain(const Sums& t, const Mask& mask, float* chunk, int64_t first, int64_t count,
                              double* row_sum, float* col_sum) {
  const vfloat c = splat(t.log2_scale);
  const bool masked = mask.same || mask.outside, keep = t.mean;
  vfloat total[VECTORS] = {};
  for (int64_t run = first; run < count; run += RUN) {
    vfloat part[VECTORS] = {};
    for (int64_t j = run; j < smaller(run + RUN, count); ++j) {
      vfloat column{};
      for (int v = 0; v < VECTORS; ++v) {
        float* at = chunk + j * PANEL + v * LANES;
        vfloat e = exp2_product(load(at), c);
        if (masked) e = select(excluded(mask, j, v), vfloat{}, e);
        if (keep) store(at, e);
        part[v] += e;
        column += e;
      }
      if (t.columns) store(col_sum + j * LANES, load(col_sum + j * LANES) + column);
    }
    for (int v = 0; v < VECTORS; ++v) total[v] += part[v];
  }
  for (int k = 0; k < PANEL; ++k) row_sum[k] += total[k / LANES][k % LANES];
}

// The same relative to running maxima; `shrink` is by how much older sums have shrunk. Excluded scores become -inf.
FASTSSL_INLINE void sum_online(const Sums& t, const Mask& mask, float* chunk, int64_t first, int64_t count,
                               double* row_sum, float* row_max, float* shrink) {
  const vfloat c = splat(t.log2_scale), never = splat(-__builtin_inff());
  const bool keep = t.mean;
  vfloat total[VECTORS] = {}, max[VECTORS];
  for (int v = 0; v < VECTORS; ++v) max[v] = load(row_max + v * LANES);
  for (int64_t j = first; j < count; ++j)
    for (int v = 0; v < VECTORS; ++v) {
      float* at = chunk + j * PANEL + v * LANES;
      vfloat s = load(at);
      if (mask.same || mask.outside) store(at, s = select(excluded(mask, j, v), never, s));
      max[v] = maximum(max[v], s);
    }
  for (int64_t run = first; run < count; run += RUN) {
    vfloat part[VECTORS] = {};
    for (int64_t j = run; j < smaller(run + RUN, count); ++j)
      for (int v = 0; v < VECTORS; ++v) {
        float* at = chunk + j * PANEL + v * LANES;
        const vfloat e = exp2_nonpositive((load(at) - max[v]) * c);
        if (keep) store(at, e);
        part[v] += e;
      }
    for (int v = 0; v < VECTORS; ++v) total[v] += part[v];
  }
  for (int v = 0; v < VECTORS; ++v) {
    store(shrink + v * LANES, exp2_nonpositive((load(row_max + v * LANES) - max[v]) * c));
    store(row_max + v * LANES, max[v]);
  }
  for (int k = 0; k < PANEL; ++k) row_sum[k] = row_sum[k] * shrink[k] + total[k / LANES][k % LANES];
}

// Column sums relative to running maxima, a lane each, of a tile of `width` rows of x, all panels of them.
FASTSSL_INLINE void sum_columns_online(const Sums& t, const float* chunks, int64_t width, bool triangle, int64_t count,
                                       float* col_sum, float* col_max) {
  const vfloat c = splat(t.log2_scale);
  for (int64_t j = 0; j < count; ++j, col_sum += LANES, col_max += LANES) {
    const int64_t panels = triangle ? j / PANEL + 1 : width / PANEL;
    const vfloat old = load(col_max);
    vfloat max = old;
    for (int64_t k = 0; k < panels * VECTORS; ++k)
      max = maximum(max, load(chunks + k / VECTORS * CHUNK + j * PANEL + k % VECTORS * LANES));
    vfloat total = load(col_sum) * exp2_nonpositive((old - max) * c);
    for (int64_t k = 0; k < panels * VECTORS; ++k)
      total += exp2_nonpositive((load(chunks + k / VECTORS * CHUNK + j * PANEL + k % VECTORS * LANES) - max) * c);
    store(col_sum, total);
    store(col_max, max);
  }
}

// sum and max of another part join these.
FASTSSL_INLINE void join(double& sum, float& max, double more, float more_max, double scale) {
  const float top = larger(max, more_max);
  sum = (max == top ? sum : sum * exp((max - top) * scale)) +
        (more_max == top ? more : more * exp((more_max - top) * scale));
  max = top;
}

FASTSSL_INLINE void sum_stripe(const Problem& p, const Stripe& s, bool plain) {
  const Sums& t = (const Sums&)p;
  alignas(64) float chunks[TILE * TILE], col_sum[TILE * LANES], col_max[TILE * LANES], shrink[TILE];
  const int64_t count = s.j1 - s.j0;
  for (int64_t k = 0; t.columns && k < count * LANES; ++k) col_sum[k] = 0, col_max[k] = NOTHING;
  for (int64_t i = s.i0; i < s.i1; i += TILE) {
    const int64_t i1 = smaller(i + TILE, s.i1);
    const bool triangle = s.diagonal && i == s.j0;
    for (int64_t k = i; k < i1; k += PANEL) {
      const int64_t first = triangle ? k - i : 0, at = s.group * t.rows + k;
      float* chunk = chunks + (k - i) * TILE;
      scores(t, s, k, first, chunk);
      const Mask mask = mask_of(t, s, k, triangle);
      if (plain) {
        sum_plain(t, mask, chunk, first, count, t.row_sum + at, col_sum);
      } else {
        sum_online(t, mask, chunk, first, count, t.row_sum + at, t.row_max + at, shrink + (k - i));
      }
    }
    if (!plain && t.columns) sum_columns_online(t, chunks, i1 - i, triangle, count, col_sum, col_max);
    if (t.mean)
      add_to_rows(t, s, chunks, i, i1, false, s.group ? t.more_means + (s.group - 1) * t.m * t.d : t.mean,
                  plain ? 0 : shrink);
  }
  for (int64_t j = 0; t.columns && j < count; ++j) {
    double& sum = t.col_sum[s.j0 + j];
    vfloat lanes = load(col_sum + j * LANES);
    if (plain) {
      sum += sum_lanes(lanes);
    } else {
      const vfloat maxima = load(col_max + j * LANES);
      float max = NOTHING;
      for (int v = 0; v < LANES; ++v) max = larger(max, maxima[v]);
      lanes *= exp2_nonpositive((maxima - max) * t.log2_scale);
      join(sum, t.col_max[s.j0 + j], sum_lanes(lanes), max, t.scale * t.sign);
    }
  }
}

void sum_stripe_plain(const Problem& p, const Stripe& s) { sum_stripe(p, s, true); }
void sum_stripe_online(const Problem& p, const Stripe& s) { sum_stripe(p, s, false); }

// Whether e^(scale t) can be summed as it is, and with a mean, times y.
bool sums_are_plain(const Sums& t) {
  const double x = largest_x(t), y = largest_y(t);
  return fabs(t.scale) * x * y <= PLAIN_UP_TO && (!t.mean || t.bounded || (1e-4 <= y && y <= 1e4));
}

// Nothing summed yet. For all threads of a parallel region.
void clear(const Sums& t) {
#pragma omp for schedule(static) nowait
  for (int64_t i = 0; i < t.groups * t.rows; ++i) t.row_sum[i] = 0, t.row_max[i] = NOTHING;
  if (t.columns)
#pragma omp for schedule(static) nowait
    for (int64_t j = 0; j < t.n; ++j) t.col_sum[j] = 0, t.col_max[j] = NOTHING;
  if (!t.mean) return;
#pragma omp for schedule(static) nowait
  for (int64_t i = 0; i < t.groups * t.m; ++i)
    memset(i < t.m ? t.mean + i * t.d : t.more_means + (i - t.m) * t.d, 0, (size_t)t.d * 4);
}

void sum_pairs(const Sums& t) { visit_pairs(t, t.plain ? sum_stripe_plain : sum_stripe_online); }

double log_of(const Sums& t, double sum, float max) { return log(sum) + (t.plain ? 0 : max * (t.scale * t.sign)); }

// log sum_j e^(scale t_ij), the groups together; of a symmetric problem without the pair of i and itself.
double row_log_sum(const Sums& t, int64_t i) {
  double sum = t.row_sum[i];
  float max = t.row_max[i];
  for (int group = 1; group < t.groups; ++group)
    join(sum, max, t.row_sum[group * t.rows + i], t.row_max[group * t.rows + i], t.scale * t.sign);
  if (t.symmetric) join(sum, max, t.col_sum[i], t.col_max[i], t.scale * t.sign);
  return log_of(t, sum, max);
}
