// NT-Xent for one instruction set. Included by ntxent.cpp inside a namespace of its own, after simd.h.
//
// m = 2n unit rows, s_ij = <zn_i, zn_j>, c = log2(e) / tau. Every unordered pair of rows is visited once, in tiles:
//   forward:  S = Z_I Z_J^T, E = 2^(c S); row sums go to I, column sums to J          (m^2 d operations in all)
//   backward: the same S, W_ij = E_ij (1/l_i + 1/l_j); dZ_I += W Z_J, dZ_J += W^T Z_I (3 m^2 d)
// A tile of the diagonal is a triangle: its register tiles under the diagonal are skipped.
// The positives are left out of the tiles: with them alone in double precision, small losses keep their accuracy.
//
// Who works on what: the rows fall into an even number of blocks, and in each round of a round-robin tournament
// the pairs of blocks are disjoint. A pair owns the sums of both its blocks, so there are neither atomics nor
// accumulators per thread, memory stays O(m d) on any number of cores, and the order of every sum is fixed.

constexpr int VECTORS = 2;              // vectors across a register tile
constexpr int STRIP = FASTSSL_STRIP;    // rows of a register tile
constexpr int PANEL = VECTORS * LANES;  // its columns; embeddings are packed in panels of that many rows
constexpr int TILE = 128;               // rows and columns of a cache tile
constexpr int TILE_STRIDE = TILE + 16;  // of its rows: not a power of two, which would alias in the cache
constexpr float NOTHING = -1e30f;       // the running maximum of scores before the first
constexpr float EXCLUDED = -2e30f;      // a score that must not count, even against NOTHING
constexpr double ONLINE_ABOVE = 64;     // 1/tau up to which sums of e^(s/tau) need no maximum: |s| <= 1
static_assert(PANEL % STRIP == 0 && TILE % PANEL == 0, "register tiles must divide panels, panels tiles");

// The packed problem: rows padded with zeros to `rows`, widths to whole slices.
struct Layout {
  int64_t n, m, d, rows, slices;
  Layout(int64_t n_, int64_t d_)
      : n(n_), m(2 * n_), d(d_), rows((m + PANEL - 1) / PANEL * PANEL), slices((d + PANEL - 1) / PANEL) {}
  int64_t panels_size() const { return rows * d; }               // [rows / PANEL, d, PANEL]
  int64_t slices_size() const { return slices * rows * PANEL; }  // [slices, rows, PANEL]
};

struct Tiles : Layout {
  Tiles(int64_t n_, int64_t d_) : Layout(n_, d_) {}
  float scale = 0;                  // c
  const float* panels = nullptr;    // Z, columns of S: a row block transposed
  const float* by_slice = nullptr;  // Z, rows of dZ: a slice of the width for all rows
  // Running sums of the forward pass and their maxima: one per lane for a tile's rows, one for its columns.
  float *row_sum = nullptr, *row_max = nullptr;  // [rows, LANES]
  float *col_sum = nullptr, *col_max = nullptr;  // [rows]
  // 1/l_i, relative to 2^(c level_i) when online: s - level is exact where it matters, c s would be rounded.
  const float* level = nullptr;    // [rows]
  const float* inv_sum = nullptr;  // [rows]
  float* grad_by_slice = nullptr;  // [slices, rows, PANEL]
};

typedef vfloat RegisterTile[STRIP][VECTORS];

FASTSSL_INLINE void clear(RegisterTile& c) {
  for (int r = 0; r < STRIP; ++r)
    for (int v = 0; v < VECTORS; ++v) c[r][v] = vfloat{};
}

// c[r][v] += sum_t a[t * a_step + r * a_row] * b[t * PANEL + v * LANES ..]
FASTSSL_INLINE void multiply(RegisterTile& c, const float* a, int a_row, int a_step, const float* b, int64_t depth) {
  for (int64_t t = 0; t < depth; ++t, a += a_step, b += PANEL) {
    vfloat bv[VECTORS];
    for (int v = 0; v < VECTORS; ++v) bv[v] = load(b + v * LANES);
    for (int r = 0; r < STRIP; ++r) {
      const vfloat av = splat(a[r * a_row]);
      for (int v = 0; v < VECTORS; ++v) c[r][v] += av * bv[v];
    }
  }
}

// The scores of rows i.. against the panel of columns j..
FASTSSL_INLINE void scores(RegisterTile& s, const Tiles& t, int64_t i, int64_t j) {
  clear(s);
  multiply(s, t.panels + i / PANEL * PANEL * t.d + i % PANEL, 1, PANEL, t.panels + j * t.d, t.d);
}

FASTSSL_INLINE bool below_diagonal(int64_t i, int64_t j) { return j + PANEL <= i + 1; }

// Whether a register tile holds a pair that does not count: self, positive, padding, or below a triangle's diagonal.
FASTSSL_INLINE bool has_excluded(const Tiles& t, int64_t i, int64_t j) {
  const int64_t low = j - i - (STRIP - 1), high = j - i + (PANEL - 1);
  const bool self = low <= 0 && 0 <= high, above = low <= t.n && t.n <= high, below = low <= -t.n && -t.n <= high;
  return self || above || below || i + STRIP > t.m || j + PANEL > t.m;
}

// Overwrite these pairs in a register tile in memory.
void exclude(const Tiles& t, int64_t i, int64_t j, float* tile, int64_t stride, bool triangle, float with) {
  for (int64_t r = 0; r < STRIP; ++r)
    for (int64_t k = 0; k < PANEL; ++k) {
      const int64_t offset = j + k - i - r;
      if (offset == 0 || (triangle && offset < 0) || offset == t.n || offset == -t.n || i + r >= t.m || j + k >= t.m)
        tile[r * stride + k] = with;
    }
}

FASTSSL_INLINE void exclude(const Tiles& t, int64_t i, int64_t j, RegisterTile& tile, bool triangle, float with) {
  alignas(64) float memory[STRIP * PANEL];
  for (int r = 0; r < STRIP; ++r)
    for (int v = 0; v < VECTORS; ++v) store(memory + r * PANEL + v * LANES, tile[r][v]);
  exclude(t, i, j, memory, PANEL, triangle, with);
  for (int r = 0; r < STRIP; ++r)
    for (int v = 0; v < VECTORS; ++v) tile[r][v] = load(memory + r * PANEL + v * LANES);
}

// Running sums of 2^(c s), a lane each: relative to 2^(c max) when `online`, plain otherwise.
struct RunningSum {
  vfloat sum, max;
};

// The sum over `count` vectors: of scores s when online, of 2^(c s) otherwise, as rows and columns share that.
FASTSSL_INLINE RunningSum sum_over(const vfloat* s, int count, int stride, vfloat scale, bool online) {
  RunningSum total = {vfloat{}, splat(NOTHING)};
  for (int k = 0; online && k < count; ++k) total.max = maximum(total.max, s[k * stride]);
  for (int k = 0; k < count; ++k)
    total.sum += online ? exp2_nonpositive((s[k * stride] - total.max) * scale) : s[k * stride];
  return total;
}

// sums[0 .. LANES) += s
FASTSSL_INLINE void add(float* sums, float* maxima, RunningSum s, vfloat scale, bool online) {
  vfloat sum = load(sums);
  if (online) {
    const vfloat old = load(maxima), max = maximum(old, s.max);
    sum *= exp2_nonpositive((old - max) * scale);
    s.sum *= exp2_nonpositive((s.max - max) * scale);
    store(maxima, max);
  }
  store(sums, sum + s.sum);
}

// Forward on the tile of rows [i0, i1) and [j0, j1), which are equal in a triangle.
FASTSSL_INLINE void forward_tile(const Tiles& t, int64_t i0, int64_t i1, int64_t j0, int64_t j1, bool triangle,
                                 bool online) {
  // Sums first within the tile, then into the running ones: shorter chains of float32 additions.
  alignas(64) float row_sum[TILE * LANES], row_max[TILE * LANES];
  alignas(64) float col_sum[PANEL], col_max[PANEL];
  const vfloat scale = splat(t.scale);
  for (int64_t k = 0; k < (i1 - i0) * LANES; ++k) row_sum[k] = 0, row_max[k] = NOTHING;
  for (int64_t j = j0; j < j1; j += PANEL) {
    for (int k = 0; k < PANEL; ++k) col_sum[k] = 0, col_max[k] = NOTHING;
    for (int64_t i = i0; i < i1; i += STRIP) {
      if (triangle && below_diagonal(i, j)) break;
      RegisterTile s;
      scores(s, t, i, j);
      for (int r = 0; r < STRIP; ++r)
        for (int v = 0; v < VECTORS; ++v) s[r][v] = online ? s[r][v] : exp2_product(s[r][v], scale);
      if (has_excluded(t, i, j)) exclude(t, i, j, s, triangle, online ? EXCLUDED : 0.f);
      for (int r = 0; r < STRIP; ++r) {
        const int64_t k = (i - i0 + r) * LANES;
        add(row_sum + k, row_max + k, sum_over(s[r], VECTORS, 1, scale, online), scale, online);
      }
      for (int v = 0; v < VECTORS; ++v)
        add(col_sum + v * LANES, col_max + v * LANES, sum_over(s[0] + v, STRIP, VECTORS, scale, online), scale, online);
    }
    for (int k = 0; k < PANEL; k += LANES)
      add(t.col_sum + j + k, t.col_max + j + k, {load(col_sum + k), load(col_max + k)}, scale, online);
  }
  for (int64_t k = 0; k < (i1 - i0) * LANES; k += LANES)
    add(t.row_sum + i0 * LANES + k, t.row_max + i0 * LANES + k, {load(row_sum + k), load(row_max + k)}, scale, online);
}

void forward_tile_plain(const Tiles& t, int64_t i0, int64_t i1, int64_t j0, int64_t j1, bool triangle) {
  forward_tile(t, i0, i1, j0, j1, triangle, false);
}
void forward_tile_online(const Tiles& t, int64_t i0, int64_t i1, int64_t j0, int64_t j1, bool triangle) {
  forward_tile(t, i0, i1, j0, j1, triangle, true);
}

// dZ[to ..] += W Z[from ..] for a tile of weights, read by rows or, `transposed`, by columns. Of a triangle only what
// is on and above the diagonal is read; register tiles that cross it hold zeros below.
FASTSSL_INLINE void accumulate(const Tiles& t, const float* weights, bool transposed, bool triangle, int64_t to0,
                               int64_t to1, int64_t from0, int64_t from1) {
  const int row = transposed ? 1 : TILE_STRIDE, step = transposed ? TILE_STRIDE : 1;
  for (int64_t slice = 0; slice < t.slices; ++slice) {
    for (int64_t i = to0; i < to1; i += STRIP) {
      int64_t first = from0, last = from1;
      if (triangle && transposed) last = i + STRIP;
      if (triangle && !transposed) first = i / PANEL * PANEL;
      RegisterTile sum;  // of this tile alone, added at the end: shorter chains of float32 additions
      clear(sum);
      multiply(sum, weights + (i - to0) * row + (first - from0) * step, row, step,
               t.by_slice + (slice * t.rows + first) * PANEL, last - first);
      float* out = t.grad_by_slice + (slice * t.rows + i) * PANEL;
      for (int r = 0; r < STRIP; ++r)
        for (int v = 0; v < VECTORS; ++v)
          store(out + r * PANEL + v * LANES, load(out + r * PANEL + v * LANES) + sum[r][v]);
    }
  }
}

FASTSSL_INLINE void backward_tile(const Tiles& t, int64_t i0, int64_t i1, int64_t j0, int64_t j1, bool triangle,
                                  bool online) {
  alignas(64) float weights[TILE * TILE_STRIDE];
  const vfloat scale = splat(t.scale);
  for (int64_t j = j0; j < j1; j += PANEL) {
    for (int64_t i = i0; i < i1; i += STRIP) {
      if (triangle && below_diagonal(i, j)) break;
      RegisterTile s;
      scores(s, t, i, j);
      float* out = weights + (i - i0) * TILE_STRIDE + (j - j0);
      for (int r = 0; r < STRIP; ++r)
        for (int v = 0; v < VECTORS; ++v) {
          const int64_t k = j + v * LANES;
          vfloat w;
          if (online) {
            w = exp2_nonpositive((s[r][v] - t.level[i + r]) * scale) * t.inv_sum[i + r] +
                exp2_nonpositive((s[r][v] - load(t.level + k)) * scale) * load(t.inv_sum + k);
          } else {
            w = exp2_product(s[r][v], scale) * (load(t.inv_sum + k) + t.inv_sum[i + r]);
          }
          store(out + r * TILE_STRIDE + v * LANES, w);
        }
      if (has_excluded(t, i, j)) exclude(t, i, j, out, TILE_STRIDE, triangle, 0.f);
    }
  }
  accumulate(t, weights, false, triangle, i0, i1, j0, j1);
  accumulate(t, weights, true, triangle, j0, j1, i0, i1);
}

void backward_tile_plain(const Tiles& t, int64_t i0, int64_t i1, int64_t j0, int64_t j1, bool triangle) {
  backward_tile(t, i0, i1, j0, j1, triangle, false);
}
void backward_tile_online(const Tiles& t, int64_t i0, int64_t i1, int64_t j0, int64_t j1, bool triangle) {
  backward_tile(t, i0, i1, j0, j1, triangle, true);
}

typedef void (*TileFunction)(const Tiles&, int64_t, int64_t, int64_t, int64_t, bool);

// All tiles of the pair of row blocks [p0, p1) and [q0, q1), which are the same block or disjoint.
void visit_blocks(const Tiles& t, TileFunction tile, int64_t p0, int64_t p1, int64_t q0, int64_t q1) {
  for (int64_t i = p0; i < p1; i += TILE) {
    const int64_t i1 = i + TILE < p1 ? i + TILE : p1;
    const bool same = p0 == q0;
    if (same) tile(t, i, i1, i, i1, true);
    for (int64_t j = same ? i1 : q0; j < q1; j += TILE) tile(t, i, i1, j, j + TILE < q1 ? j + TILE : q1, false);
  }
}

// Visit every pair of blocks once, in rounds of disjoint pairs (the circle method). Like the other functions with an
// `omp for`, it is called by all threads of a parallel region.
void visit_pairs(const Tiles& t, TileFunction tile, int threads) {
  const int64_t panels = t.rows / PANEL;
  int64_t blocks = 2 * threads;
  if (blocks > panels) blocks = (panels + 1) / 2 * 2;
  const auto start = [&](int64_t b) { return b * panels / blocks * PANEL; };
  const int64_t ring = blocks - 1;
#pragma omp for schedule(static)
  for (int64_t b = 0; b < blocks; ++b) visit_blocks(t, tile, start(b), start(b + 1), start(b), start(b + 1));
  for (int64_t round = 0; round < ring; ++round) {
#pragma omp for schedule(static)
    for (int64_t k = 0; k < blocks / 2; ++k) {
      const int64_t p = (round + k) % ring, q = k == 0 ? ring : (round + ring - k) % ring;
      visit_blocks(t, tile, start(p), start(p + 1), start(q), start(q + 1));
    }
  }
}

// Copy unit rows [m, d] into panels [rows / PANEL, d, PANEL], and into slices [slices, rows, PANEL] if asked.
void pack(const Layout& l, const float* zn, float* panels, float* by_slice) {
#pragma omp for schedule(static)
  for (int64_t panel = 0; panel < l.rows / PANEL; ++panel) {
    for (int64_t r = 0; r < PANEL; ++r) {
      const int64_t i = panel * PANEL + r;
      const float* row = zn + i * l.d;
      float* out = panels + panel * PANEL * l.d + r;
      if (i < l.m) {
        for (int64_t k = 0; k < l.d; ++k) out[k * PANEL] = row[k];
      } else {
        for (int64_t k = 0; k < l.d; ++k) out[k * PANEL] = 0;
      }
      for (int64_t slice = 0; by_slice != nullptr && slice < l.slices; ++slice) {
        float* to = by_slice + (slice * l.rows + i) * PANEL;
        const int64_t first = slice * PANEL, count = i >= l.m ? 0 : l.d - first < PANEL ? l.d - first : PANEL;
        for (int64_t k = 0; k < PANEL; ++k) to[k] = k < count ? row[first + k] : 0.f;
      }
    }
  }
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

// log of the sum over negatives of e^(s_ij / tau): the lanes of the row sums, and the column sum.
double log_negatives(const Tiles& t, int64_t i, double tau, bool online) {
  const float *sums = t.row_sum + i * LANES, *maxima = t.row_max + i * LANES;
  double max = online ? t.col_max[i] : 0;
  for (int v = 0; online && v < LANES; ++v) max = maxima[v] > max ? maxima[v] : max;
  double sum = online ? t.col_sum[i] * exp((t.col_max[i] - max) / tau) : t.col_sum[i];
  for (int v = 0; v < LANES; ++v) sum += online ? sums[v] * exp((maxima[v] - max) / tau) : sums[v];
  return log(sum) + max / tau;
}

int64_t forward_workspace(int64_t n, int64_t d) {
  const Layout l(n, d);
  return l.panels_size() + l.rows * (2 * LANES + 2);
}

void forward(const NTXentForward& a) {
  Tiles t(a.n, a.d);
  const bool online = 1 / a.tau > ONLINE_ABOVE;
  float* panels = a.workspace;
  t.scale = static_cast<float>(1 / (a.tau * LN2));
  t.panels = panels;
  t.row_sum = panels + t.panels_size();
  t.row_max = t.row_sum + t.rows * LANES;
  t.col_sum = t.row_max + t.rows * LANES;
  t.col_max = t.col_sum + t.rows;
#pragma omp parallel num_threads(a.threads) if (a.threads > 1)
  {
#pragma omp for schedule(static)
    for (int64_t i = 0; i < t.rows; ++i) {
      if (i < t.m) normalize(a, i);
      t.col_sum[i] = 0;
      t.col_max[i] = NOTHING;
      for (int v = 0; v < LANES; ++v) t.row_sum[i * LANES + v] = 0, t.row_max[i * LANES + v] = NOTHING;
    }
    pack(t, a.zn, panels, nullptr);
    visit_pairs(t, online ? forward_tile_online : forward_tile_plain, a.threads);
#pragma omp for schedule(static)
    for (int64_t i = 0; i < t.m; ++i) {
      const int64_t partner = i < a.n ? i + a.n : i - a.n;
      const double pos = dot(a.zn + i * a.d, a.zn + partner * a.d, a.d) / a.tau;
      const double excess = log_negatives(t, i, a.tau, online) - pos;  // -inf for a single pair
      const double nll = excess > 0 ? excess + log1p(exp(-excess)) : log1p(exp(excess));
      a.nll[i] = static_cast<float>(nll);
      a.lse[i] = pos + nll;
    }
  }
  double sum = 0;
  for (int64_t i = 0; i < t.m; ++i) sum += a.nll[i];
  *a.loss = static_cast<float>(sum / t.m);
}

int64_t backward_workspace(int64_t n, int64_t d) {
  const Layout l(n, d);
  return l.panels_size() + 2 * l.slices_size() + 2 * l.rows;
}

void backward(const NTXentBackward& a) {
  Tiles t(a.n, a.d);
  const bool online = 1 / a.tau > ONLINE_ABOVE;
  float* panels = a.workspace;
  float* by_slice = panels + t.panels_size();
  t.scale = static_cast<float>(1 / (a.tau * LN2));
  t.panels = panels;
  t.by_slice = by_slice;
  t.grad_by_slice = by_slice + t.slices_size();
  float* level = t.grad_by_slice + t.slices_size();
  float* inv_sum = level + t.rows;
  t.level = level;
  t.inv_sum = inv_sum;
  const float scale = static_cast<float>(a.grad / (t.m * a.tau));
#pragma omp parallel num_threads(a.threads) if (a.threads > 1)
  {
#pragma omp for schedule(static)
    for (int64_t i = 0; i < t.rows; ++i) {
      const double lse = i < t.m ? a.lse[i] : 0;
      level[i] = online ? static_cast<float>(lse * a.tau) : 0;
      inv_sum[i] = static_cast<float>(exp(level[i] / a.tau - lse));
      for (int64_t slice = 0; slice < t.slices; ++slice)
        for (int k = 0; k < PANEL; ++k) t.grad_by_slice[(slice * t.rows + i) * PANEL + k] = 0;
    }
    pack(t, a.zn, panels, by_slice);
    visit_pairs(t, online ? backward_tile_online : backward_tile_plain, a.threads);
    // Positive term, upstream gradient, Jacobian of the normalisation. `level` turns into the rows' <G, zn>.
#pragma omp for schedule(static)
    for (int64_t i = 0; i < t.m; ++i) {
      const int64_t partner = i < a.n ? i + a.n : i - a.n;
      // 1 - p_{i, p(i)} of both rows, exact where the loss is tiny
      const float miss =
          static_cast<float>(-expm1(-static_cast<double>(a.nll[i])) - expm1(-static_cast<double>(a.nll[partner])));
      const float* zn = a.zn + i * a.d;
      const float* positive = a.zn + partner * a.d;
      float* out = i < a.n ? a.grad_z0 + i * a.d : a.grad_z1 + (i - a.n) * a.d;
      for (int64_t first = 0; first < a.d; first += PANEL) {
        const float* sum = t.grad_by_slice + (first / PANEL * t.rows + i) * PANEL;
        const int64_t last = first + PANEL < a.d ? first + PANEL : a.d;
        for (int64_t k = first; k < last; ++k) out[k] = scale * (sum[k - first] - miss * positive[k]);
      }
      const double along = dot(out, zn, a.d);
      level[i] = static_cast<float>(along);
      const float inverse = a.inv_norm[i];
      // Rows shorter than eps were divided by a constant.
      const float project = inverse < static_cast<float>(1 / NTXENT_EPS) ? static_cast<float>(along) : 0.f;
      for (int64_t k = 0; k < a.d; ++k) out[k] = (out[k] - project * zn[k]) * inverse;
    }
  }
  *a.grad_tau = 0;
  for (int64_t i = 0; i < t.m; ++i) *a.grad_tau -= 0.5 * level[i] / a.tau;
}

const NTXentKernels kernels = {forward, backward, forward_workspace, backward_workspace};
