// All pairs of rows, a tile at a time, for one instruction set. Included after simd.h, in a namespace of its own.
//
// Scores S = X Y^T are made for a panel of x, across vectors, against a tile of y, row by row, as [TILE, PANEL]; what
// an op makes of them, its weights W, takes their place. Then dX += W Y and dY += W^T X for the panels of a tile.
//
// Who works on what: row blocks and column blocks are paired in rounds whose pairs are disjoint, and a pair owns the
// sums of both its blocks. So there are neither atomics nor accumulators per thread, memory stays O((m + n) d) on any
// number of cores, and the order of every sum is fixed.

constexpr int VECTORS = 2;              // vectors across a register tile
constexpr int STRIP = FASTSSL_STRIP;    // its rows
constexpr int PANEL = VECTORS * LANES;  // its columns; x is packed in panels of that many rows
constexpr int TILE = 128;               // rows of x and of y that meet in the caches
constexpr int CHUNK = TILE * PANEL;     // scores of a panel against a tile
constexpr int DEPTH = 128;              // products added up in registers before they join a sum in memory
constexpr int RUN = 16;                 // terms added up in float32 before they join a longer sum
constexpr int SECTION = 8 * TILE;       // rows of x after which sums over columns join a double
constexpr float LARGEST = -NOTHING;
static_assert(PANEL % STRIP == 0 && TILE % PANEL == 0 && DEPTH % PANEL == 0, "register tiles divide panels, and so on");

FASTSSL_INLINE int64_t round_up(int64_t a, int64_t unit) { return (a + unit - 1) / unit * unit; }

// Deals out a workspace; of none, it only counts the bytes.
struct Arena {
  char* base;
  int64_t bytes;
  void* take(int64_t size) {
    void* p = base ? base + bytes : 0;
    bytes += round_up(size, 64);
    return p;
  }
  float* floats(int64_t count) { return (float*)take(count * 4); }
  double* doubles(int64_t count) { return (double*)take(count * 8); }
};

struct Problem : Pairs {
  bool symmetric;            // x against itself, each unordered pair of rows once
  float sign, log2_scale;    // of the scale, and log2(e) |scale|: the sign goes into the packed x
  int64_t rows, slices;      // m in whole panels, d in whole slices
  int row_blocks, groups;    // each group of columns has its own sums of the rows
  float* panels;             // sign x, [rows / PANEL, d, PANEL]
  float* by_slice;           // x, [slices, rows, PANEL], or null: only dY needs it
  float* tiles;              // y, [threads, slices, TILE, PANEL]
  float *x_norms, *y_norms;  // the largest |x_i|^2 and |y_j|^2 [rows / PANEL], [n / TILE]
  int *low, *high;           // least and largest id of each panel, [rows / PANEL]
};

// Rows [i0, i1) of x, at most a section, against [j0, j1) of y, at most a tile; on the diagonal, only pairs i < j.
struct Stripe {
  int64_t i0, i1, j0, j1;
  bool diagonal;
  int group;
  const float* y;  // packed
  int low, high;   // ids of y
};

typedef void (*Visit)(const Problem&, const Stripe&);

// As many groups of columns as share the threads evenly, without more memory for sums of rows than y has.
int groups_of(const Pairs& p) {
  const int64_t most = p.n > (int64_t)PANEL * p.threads ? p.n : (int64_t)PANEL * p.threads;
  int groups = p.threads;
  while (groups > 1 && (p.threads % groups || groups * p.m > most)) --groups;
  return groups;
}

Problem problem_of(const Pairs& pairs, bool with_slices, Arena& arena) {
  Problem p{};
  (Pairs&)p = pairs;
  p.symmetric = !p.y;
  if (p.symmetric) p.y = p.x;
  p.sign = p.scale < 0 ? -1.f : 1.f;
  p.log2_scale = (float)(p.scale * p.sign * LOG2_E);
  p.rows = round_up(p.m, PANEL), p.slices = round_up(p.d, PANEL) / PANEL;
  p.groups = p.symmetric ? 1 : groups_of(p), p.row_blocks = p.threads / p.groups;
  p.panels = arena.floats(p.rows * p.d);
  p.by_slice = with_slices ? arena.floats(p.rows * p.slices * PANEL) : 0;
  p.tiles = arena.floats(p.threads * p.slices * CHUNK);
  p.x_norms = arena.floats(p.rows / PANEL), p.y_norms = arena.floats(p.n / TILE + 1);
  p.low = (int*)arena.floats(p.rows / PANEL), p.high = (int*)arena.floats(p.rows / PANEL);
  return p;
}

// NaN of any bits becomes the one that 2^x keeps.
FASTSSL_INLINE vfloat one_nan(vfloat x) { return select(x == x, x, splat(__builtin_nanf(""))); }

// One slice of a row, from column k on, and zeros beyond its end.
FASTSSL_INLINE void copy_slice(const float* row, int64_t k, int64_t d, float* to) {
  alignas(64) float last[PANEL] = {};
  const float* from = row + k;
  if (d - k < PANEL) {
    memcpy(last, from, (size_t)(d - k) * 4);
    from = last;
  }
  for (int v = 0; v < VECTORS; ++v) store(to + v * LANES, one_nan(load(from + v * LANES)));
}

// A square block of rows as columns, times a factor; both PANEL apart.
FASTSSL_INLINE void transpose(const float* rows, float factor, float* to) {
  vfloat v[LANES];
  vint lane;
  for (int i = 0; i < LANES; ++i) v[i] = load(rows + i * PANEL) * factor, lane[i] = i;
#pragma GCC unroll 4
  for (int half = 1; half < LANES; half *= 2) {  // swaps the off-diagonal halves of blocks of 2, 4, 8 ...
    const vmask second = (lane & half) != 0;
    const vint low = second ? lane + (LANES - half) : lane, high = second ? lane + LANES : lane + half;
#pragma GCC unroll 16
    for (int i = 0; i < LANES; ++i) {
      if (i & half) continue;
      const vfloat a = v[i], b = v[i + half];
      v[i] = permute(a, b, low), v[i + half] = permute(a, b, high);
    }
  }
  for (int i = 0; i < LANES; ++i) store(to + i * PANEL, v[i]);
}

// |row|^2, and a little more than what its smallest elements may have lost.
float square(const float* row, int64_t d) {
  vfloat sum{};
  int64_t k = 0;
  for (; k + LANES <= d; k += LANES) sum += load(row + k) * load(row + k);
  float total = (float)d * 1.2e-38f;
  for (int v = 0; v < LANES; ++v) total += sum[v];
  for (; k < d; ++k) total += row[k] * row[k];
  return total;
}

// a, or b if that is larger or NaN.
FASTSSL_INLINE float larger(float a, float b) { return a >= b || a != a ? a : b; }

// Everything the stripes read. Like the other functions with an `omp for`, for all threads of a parallel region; what
// `nowait` leaves unfinished, `visit_pairs` waits for.
void pack(const Problem& p) {
#pragma omp for schedule(static) nowait
  for (int64_t panel = 0; panel < p.rows / PANEL; ++panel) {
    const int64_t i0 = panel * PANEL;
    float norm = 0;
    int low = INT32_MAX, high = INT32_MIN;
    alignas(64) float rows[PANEL * PANEL];
    for (int64_t k = 0; k < p.d; k += PANEL) {
      for (int64_t r = 0; r < PANEL; ++r) {
        float* row = rows + r * PANEL;
        for (int v = 0; v < PANEL; ++v) row[v] = 0;
        if (i0 + r < p.m) copy_slice(p.x + (i0 + r) * p.d, k, p.d, row);
        if (p.by_slice) memcpy(p.by_slice + k * p.rows + (i0 + r) * PANEL, row, sizeof(float) * PANEL);
      }
      alignas(64) float columns[PANEL * PANEL];
      for (int r = 0; r < PANEL; r += LANES)
        for (int t = 0; t < PANEL; t += LANES) transpose(rows + r * PANEL + t, p.sign, columns + t * PANEL + r);
      memcpy(p.panels + i0 * p.d + k * PANEL, columns, (size_t)smaller(PANEL, p.d - k) * PANEL * 4);
    }
    for (int64_t i = i0; i < smaller(i0 + PANEL, p.m); ++i) {
      if (!p.bounded) norm = larger(norm, square(p.x + i * p.d, p.d));
      if (!p.row_ids) continue;
      if (p.row_ids[i] < low) low = p.row_ids[i];
      if (p.row_ids[i] > high) high = p.row_ids[i];
    }
    p.x_norms[panel] = norm, p.low[panel] = low, p.high[panel] = high;
  }
  if (p.bounded || p.symmetric) return;
#pragma omp for schedule(static) nowait
  for (int64_t tile = 0; tile < p.n / TILE + 1; ++tile) {
    float norm = 0;
    for (int64_t j = tile * TILE; j < smaller((tile + 1) * TILE, p.n); ++j)
      norm = larger(norm, square(p.y + j * p.d, p.d));
    p.y_norms[tile] = norm;
  }
}

float largest(const float* x, int64_t count) {
  float found = 0;
  for (int64_t i = 0; i < count; ++i) found = larger(found, x[i]);
  return found;
}

FASTSSL_INLINE double largest_x(const Problem& p) { return p.bounded ? 1 : sqrt(largest(p.x_norms, p.rows / PANEL)); }
FASTSSL_INLINE double largest_y(const Problem& p) {
  return p.bounded || p.symmetric ? largest_x(p) : sqrt(largest(p.y_norms, p.n / TILE + 1));
}

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

// out = shrink_r out + c for the rows and columns that exist. All is read before anything is written: rows 4096 bytes
// apart would wait for each other.
FASTSSL_INLINE void add(float* out, int64_t stride, RegisterTile& c, int64_t rows, int64_t columns,
                        const float* shrink) {
  if (rows >= STRIP && columns >= PANEL) {
    for (int r = 0; r < STRIP; ++r)
      for (int v = 0; v < VECTORS; ++v) {
        const vfloat old = load(out + r * stride + v * LANES);
        c[r][v] += shrink ? old * splat(shrink[r]) : old;
      }
    for (int r = 0; r < STRIP; ++r)
      for (int v = 0; v < VECTORS; ++v) store(out + r * stride + v * LANES, c[r][v]);
    return;
  }
  alignas(64) float memory[STRIP * PANEL];
  for (int r = 0; r < STRIP; ++r)
    for (int v = 0; v < VECTORS; ++v) store(memory + r * PANEL + v * LANES, c[r][v]);
  for (int64_t r = 0; r < smaller(rows, STRIP); ++r) {
    const float factor = shrink ? shrink[r] : 1.f;
    for (int64_t k = 0; k < smaller(columns, PANEL); ++k)
      out[r * stride + k] = out[r * stride + k] * factor + memory[r * PANEL + k];
  }
}

// Scores of the panel of rows i.. against rows [first, j1 - j0) of the tile.
void scores(const Problem& p, const Stripe& s, int64_t i, int64_t first, float* chunk) {
  for (int64_t start = 0; start < p.d; start += DEPTH) {
    const int64_t end = smaller(start + DEPTH, p.d);
    for (int64_t j = first; j < s.j1 - s.j0; j += STRIP) {
      RegisterTile c;
      clear(c);
      for (int64_t k = start; k < end; k += PANEL)
        multiply(c, s.y + k * TILE + j * PANEL, PANEL, 1, p.panels + i * p.d + k * PANEL, smaller(PANEL, p.d - k));
      float* out = chunk + j * PANEL;
      for (int r = 0; r < STRIP; ++r)
        for (int v = 0; v < VECTORS; ++v) {
          float* at = out + r * PANEL + v * LANES;
          store(at, start ? load(at) + c[r][v] : c[r][v]);
        }
    }
  }
}

// Rows of a panel's width that are read soon, on their way into the cache while products are made.
FASTSSL_INLINE void expect(const float* at, int64_t stride, int64_t rows, int64_t columns) {
  for (int r = 0; r < STRIP && r < rows; ++r)
    for (int64_t k = 0; k < PANEL && k < columns; k += 16) __builtin_prefetch(at + r * stride + k);
}

// dX += W Y for the panels of rows [i0, i1), after dX is shrunk by a factor a row, if any.
void add_to_rows(const Problem& p, const Stripe& s, const float* chunks, int64_t i0, int64_t i1, bool triangle,
                 float* out, const float* shrink) {
  for (int64_t k = 0; k < p.d; k += PANEL)
    for (int64_t i = i0; i < i1 && i < p.m; i += STRIP) {
      const int64_t panel = (i - i0) / PANEL * PANEL, first = triangle ? panel : 0;
      expect(out + i * p.d + k, p.d, p.m - i, p.d - k);
      RegisterTile c;
      clear(c);
      multiply(c, chunks + panel * TILE + first * PANEL + (i - i0 - panel), 1, PANEL, s.y + k * TILE + first * PANEL,
               s.j1 - s.j0 - first);
      add(out + i * p.d + k, p.d, c, p.m - i, p.d - k, shrink ? shrink + (i - i0) : 0);
    }
}

// dY += W^T X. Of a triangle, only what is on and above the diagonal is read; beside it there are zeros.
void add_to_columns(const Problem& p, const Stripe& s, const float* chunks, int64_t i0, int64_t i1, bool triangle,
                    float* out) {
  for (int64_t k = 0; k < p.d; k += PANEL)
    for (int64_t j = 0; j < s.j1 - s.j0; j += STRIP) {
      const int64_t end = triangle ? i0 + j + STRIP : i1;
      expect(out + (s.j0 + j) * p.d + k, p.d, s.j1 - s.j0 - j, p.d - k);
      if (k + PANEL < p.d) expect(p.by_slice + (k + PANEL) * p.rows + (i0 + j) * PANEL, PANEL, i1 - i0 - j, PANEL);
      RegisterTile c;
      clear(c);
      for (int64_t i = i0; i < end; i += PANEL)
        multiply(c, chunks + (i - i0) * TILE + j * PANEL, PANEL, 1, p.by_slice + k * p.rows + i * PANEL,
                 smaller(PANEL, end - i));
      add(out + (s.j0 + j) * p.d + k, p.d, c, s.j1 - s.j0 - j, p.d - k, 0);
    }
}

// Which of a panel's pairs with a tile are not plain ones.
struct Mask {
  bool same, outside;  // whether there may be pairs of equal ids; pairs that do not exist or come below the diagonal
  vint ids[VECTORS], lane[VECTORS];
  const int* col_ids;  // of the tile
  int64_t end, diagonal;
};

Mask mask_of(const Problem& p, const Stripe& s, int64_t i, bool triangle) {
  Mask m{};
  m.same = p.row_ids && p.low[i / PANEL] <= s.high && s.low <= p.high[i / PANEL];
  m.outside = triangle || i + PANEL > p.m;
  m.end = p.m - i, m.diagonal = triangle ? s.j0 - i : PANEL;
  alignas(64) int ids[PANEL] = {}, lane[PANEL];
  for (int64_t k = 0; k < PANEL; ++k) {
    lane[k] = (int)k;
    if (m.same && k < m.end) ids[k] = p.row_ids[i + k];
  }
  for (int v = 0; v < VECTORS; ++v) m.ids[v] = load(ids + v * LANES), m.lane[v] = load(lane + v * LANES);
  if (m.same) m.col_ids = p.col_ids + s.j0;
  return m;
}

FASTSSL_INLINE vmask same(const Mask& m, int64_t j, int v) { return m.ids[v] == vint{} + m.col_ids[j]; }
FASTSSL_INLINE vmask outside(const Mask& m, int64_t j, int v) {
  return m.lane[v] >= vint{} + (int)smaller(m.end, m.diagonal + j);
}
FASTSSL_INLINE vmask excluded(const Mask& m, int64_t j, int v) {
  return m.same ? same(m, j, v) | outside(m, j, v) : outside(m, j, v);
}

FASTSSL_INLINE double sum_lanes(vfloat x) {
  double sum = 0;
  for (int v = 0; v < LANES; ++v) sum += x[v];
  return sum;
}
