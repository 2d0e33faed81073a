// Log-sum-exps of columns, a tile of them at a time; and what all of Sinkhorn-Knopp works with. Included by
// sinkhorn_rows.h.
#include "elements.h"

constexpr int64_t TILE = 2048;         // columns at a time, at most
constexpr int64_t LEAST_TILE = 64;     // at least, but where there are no more
constexpr int64_t PIECE = 2048;        // elements of a row at a time
constexpr int64_t AHEAD = 4096;        // elements of a row that are on their way to the second cache
constexpr int64_t LEAST_WORK = 16384;  // elements that are worth a thread
constexpr int GROUP = 8;               // rows whose elements of a column meet in registers
constexpr int64_t RUN = 1024;          // rows added up in float32 before they join a float64 sum
constexpr double SLACK = 20;           // nats by which an exponent may be above 0
constexpr double LN_2 = 0.69314718055994530942;

FASTSSL_INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
FASTSSL_INLINE int64_t parts_of(int64_t count, int64_t part) { return (count + part - 1) / part; }
FASTSSL_INLINE int64_t whole_vectors(int64_t count) { return parts_of(count, LANES) * LANES; }

FASTSSL_INLINE bool any(vmask mask) {
#if FASTSSL_LANES == 16
  return _mm512_movepi32_mask((__m512i)mask) != 0;
#elif FASTSSL_LANES == 8
  return _mm256_movemask_ps((__m256)mask) != 0;
#else
  return (mask[0] | mask[1] | mask[2] | mask[3]) != 0;
#endif
}

// e^(x/temp) = 2^(x factor).
struct Exponent {
  double inverse;  // 1/temp
  float factor;    // log2(e)/temp
  float least;     // 2^-126 comes from it
  float slack;     // e^SLACK comes from it
};

Exponent exponent_of(double temp) {
  const double factor = LOG2_E / temp;
  return {1 / temp, (float)factor, (float)(-126 / factor < NOTHING ? NOTHING : -126 / factor), (float)(SLACK * temp)};
}

constexpr float UNSHIFTED = ROUND + 127;  // leaves 2^n's exponent as IEEE has it

// 2^(x factor + shift - UNSHIFTED) for results that are normal numbers, NaN for any NaN. The product is not rounded.
FASTSSL_INLINE vfloat exponential_of(vfloat x, float factor, float shift) {
  const vfloat shifted = x * factor + shift, fraction = x * factor - (shifted - shift);
  vfloat p = fraction * 0x1.5c08e4p-10f + 0x1.3d0c52p-7f;  // as in exp2_parts
  p = p * fraction + 0x1.c6b6e4p-5f;
  p = p * fraction + 0x1.ebf918p-3f;
  p = p * fraction + 0x1.62e428p-1f;
  p = p * fraction + 0x1.000002p+0f;
  return p * (vfloat)((vuint)shifted << 23);
}

// e^(x/temp) for x up to the slack; 0 below the normal range, NaN for any NaN.
FASTSSL_INLINE vfloat exponential(vfloat x, Exponent e) {
  return select(x < e.least, vfloat{}, exponential_of(x, e.factor, UNSHIFTED));
}

// log(x) for x >= 0 that is 0, infinite, NaN or a normal number: of x = 2^n m, 1/sqrt(2) <= m < sqrt(2), it is
// n log(2) + 2 artanh((m - 1)/(m + 1)).
FASTSSL_INLINE vfloat logarithm(vfloat x) {
  const vuint bits = (vuint)x - 0x3f3504f3;
  const vfloat n = to_float((vint)bits >> 23), m = (vfloat)((bits & 0x7fffff) + 0x3f3504f3);
  const vfloat z = (m - 1.f) / (m + 1.f), square = z * z;
  vfloat p = square * (2.f / 9) + 2.f / 7;
  p = p * square + 2.f / 5;
  p = p * square + 2.f / 3;
  const vfloat y = n * (float)LN_2 + (p * square * z + 2.f * z);
  return select(x > 0.f, select(x < __builtin_inff(), y, x), select(x == 0.f, splat(-__builtin_inff()), x));
}

// A problem, and what its threads share in the workspace.
struct Plan : Sinkhorn {
  Exponent exponent;
  const float* center;           // or null
  double *row_lse, *column_lse;  // [samples], [prototypes]
  float *row_level, *row_rest;   // [samples]: row_lse temp = level + rest
  int64_t tile;                  // columns
  int64_t row_parts;             // of a row, where there are fewer rows than threads
  int64_t column_parts;          // of a column, where there are fewer tiles than threads
  double* parts;                 // log-sum-exps of parts of rows or of columns
  int64_t bytes;                 // of the workspace
};

// The next `count` elements of so many bytes of the workspace.
FASTSSL_INLINE void* take(Plan& p, int64_t count, int64_t bytes) {
  char* at = (char*)p.workspace + p.bytes;
  p.bytes += (count * bytes + 63) / 64 * 64;
  return at;
}
FASTSSL_INLINE float* take_floats(Plan& p, int64_t count) { return (float*)take(p, count, sizeof(float)); }
FASTSSL_INLINE double* take_doubles(Plan& p, int64_t count) { return (double*)take(p, count, sizeof(double)); }

Plan plan_of(const Sinkhorn& s) {
  Plan p{};
  (Sinkhorn&)p = s;
  p.threads = (int)larger(1, smaller(s.threads, parts_of(s.samples * s.prototypes, LEAST_WORK)));
  p.exponent = exponent_of(s.temp);
  p.row_level = take_floats(p, s.samples), p.row_rest = take_floats(p, s.samples);
  return p;
}

// How all columns and rows are split among the threads, beside a plan of tiles that are kept.
void split_work(Plan& p) {
  p.tile = smaller(TILE, larger(LEAST_TILE, whole_vectors(parts_of(p.prototypes, p.threads))));
  const int64_t tiles = parts_of(p.prototypes, p.tile), blocks = larger(1, parts_of(p.samples, 64));
  p.row_parts = smaller(parts_of(p.threads, larger(1, p.samples)), parts_of(p.prototypes, PIECE));
  p.column_parts = tiles >= p.threads ? 1 : smaller(parts_of(p.threads, tiles), blocks);
  p.parts = take_doubles(p, larger(p.samples * p.row_parts, p.prototypes * p.column_parts));
}

FASTSSL_INLINE const char* row_at(const Sinkhorn& s, int64_t b) { return element(s.type, s.logits, b * s.row); }

// log(e^a + e^b)
double log_add(double a, double b) {
  const double top = a < b ? b : a, other = a < b ? a : b;
  return other == -__builtin_inf() ? top : top + log1p(exp(other - top));
}

// log sum_i e^x_i
double log_sum(const double* x, int64_t count, int64_t stride) {
  double total = x[0];
  for (int64_t i = 1; i < count; ++i) total = log_add(total, x[i * stride]);
  return total;
}

// A score less the level is exact where it matters, and the rest is what the level was rounded by.
FASTSSL_INLINE void split_row(const Plan& p, int64_t b) {
  const double product = p.row_lse[b] * p.temp;
  p.row_level[b] = (float)product, p.row_rest[b] = (float)(product - p.row_level[b]);
}

// The sums of a tile of columns, each relative to a maximum of its own.
struct Columns {
  float max[TILE], before[TILE];  // the present one, and that of `whole`
  float sum[TILE];
  double whole[TILE];
};

// Where a group's exponentials are kept: [GROUP, stride], and the maxima [stride] that they are relative to.
struct Kept {
  float *exponentials, *levels;
  int64_t stride;
};

// Adds n rows from b on, of `plain` logits or less center and log-sum-exps. A maximum moves only where an exponent
// would be above the slack. On the way the elements at `next` are fetched, row by row.
FASTSSL_INLINE void add_rows_as(ElementType type, bool whole, bool plain, int n, const Plan& p, int64_t b, int64_t k0,
                                int64_t count, const char* next, Columns& c, const Kept* kept) {
  const Exponent e = p.exponent;
  const char* rows[GROUP];
  float level[GROUP], rest[GROUP];
  for (int r = 0; r < n; ++r) rows[r] = row_at(p, b + r), level[r] = p.row_level[b + r], rest[r] = p.row_rest[b + r];
  for (int64_t i = 0; i < count; i += LANES) {
    const int64_t k = k0 + i, left = whole ? LANES : count - i;
    const vfloat center = p.center ? load_some(TYPE_FLOAT32, p.center + k, left) : vfloat{};
    vfloat x[GROUP], most = splat(NOTHING);
    for (int r = 0; r < n; ++r) {
      x[r] = load_some(type, element(type, rows[r], k), left);
      if (!plain) x[r] = x[r] - center - level[r];
      __builtin_prefetch(element(type, next, r * p.row + i), 0, 2);
      most = maximum(most, x[r]);
    }
    vfloat max = load(c.max + i), sum = load(c.sum + i);
    if (any(most > max + e.slack)) {
      const vfloat risen = maximum(max, most);
      sum *= exponential(max - risen, e);
      max = risen;
      store(c.max + i, max);
    }
    vfloat part{};
    for (int r = 0; r < n; ++r) {
      const vfloat y = exponential(plain ? x[r] - max : x[r] - max - rest[r], e);
      part += y;
      if (kept) store(kept->exponentials + r * kept->stride + i, y);
    }
    store(c.sum + i, sum + part);
    if (kept) store(kept->levels + i, max);
  }
}

FASTSSL_INLINE void add_rows(int n, const Plan& p, int64_t b, int64_t k0, int64_t count, const char* next, Columns& c,
                             const Kept* kept) {
  const bool whole = count % LANES == 0;
  if (p.type == TYPE_FLOAT32 && whole && kept)
    return add_rows_as(TYPE_FLOAT32, true, true, n, p, b, k0, count, next, c, kept);
  if (p.type == TYPE_FLOAT32 && whole) return add_rows_as(TYPE_FLOAT32, true, false, n, p, b, k0, count, next, c, kept);
  if (p.type == TYPE_BFLOAT16 && whole && n == GROUP)
    return add_rows_as(TYPE_BFLOAT16, true, false, n, p, b, k0, count, next, c, kept);
  add_rows_as(p.type, false, false, n, p, b, k0, count, next, c, kept);
}

// Of so many rows that are left the next ones to add: GROUP, or the largest power of two.
FASTSSL_INLINE int group_of(int64_t left) { return left >= GROUP ? GROUP : left >= 4 ? 4 : left >= 2 ? 2 : 1; }

void add_group(int n, const Plan& p, int64_t b, int64_t k0, int64_t count, const char* next, Columns& c,
               const Kept* kept) {
  if (n == GROUP) return add_rows(GROUP, p, b, k0, count, next, c, kept);
  if (n == 4) return add_rows(4, p, b, k0, count, next, c, kept);
  if (n == 2) return add_rows(2, p, b, k0, count, next, c, kept);
  add_rows(1, p, b, k0, count, next, c, kept);
}

void clear(Columns& c, int64_t count) {
  for (int64_t i = 0; i < whole_vectors(count); ++i) c.max[i] = NOTHING, c.sum[i] = 0;
}

// The sums in float32 join those in float64.
void settle(const Plan& p, int64_t count, Columns& c) {
  for (int64_t i = 0; i < count; ++i) {
    if (c.max[i] != c.before[i] && c.whole[i] != 0)
      c.whole[i] *= exp(((double)c.before[i] - c.max[i]) * p.exponent.inverse);
    c.whole[i] += c.sum[i];
    c.before[i] = c.max[i], c.sum[i] = 0;
  }
}

// Writes log-sum-exps of at most TILE columns over the rows [b0, b1), of logits less their rows' log-sum-exps.
void sum_columns(const Plan& p, int64_t k0, int64_t k1, int64_t b0, int64_t b1, double* out) {
  const int64_t count = k1 - k0;
  const bool long_run = b1 - b0 > RUN;
  Columns c;
  clear(c, count);
  for (int64_t i = 0; long_run && i < count; ++i) c.before[i] = NOTHING, c.whole[i] = 0;
  for (int64_t run = b0; run < b1; run += RUN) {
    const int64_t end = smaller(run + RUN, b1);
    for (int64_t b = run; b < end;) {
      const int n = group_of(end - b);
      add_group(n, p, b, k0, count, element(p.type, row_at(p, b + n), k0), c, 0);
      b += n;
    }
    if (long_run) settle(p, count, c);
  }
  for (int64_t i = 0; long_run && i < count; ++i) c.sum[i] = (float)c.whole[i];
  for (int64_t i = 0; i < count; i += LANES) store(c.sum + i, logarithm(load(c.sum + i)));
  const double inverse = p.exponent.inverse;
  if (p.center) {
    for (int64_t i = 0; i < count; ++i) out[i] = ((double)c.max[i] + p.center[k0 + i]) * inverse + c.sum[i];
  } else {
    for (int64_t i = 0; i < count; ++i) out[i] = c.max[i] * inverse + c.sum[i];
  }
}

// The log-sum-exps of all columns. For all threads of a parallel region.
void sum_all_columns(const Plan& p) {
  const int64_t parts = p.column_parts, tiles = parts_of(p.prototypes, p.tile), length = parts_of(p.samples, parts);
#pragma omp for schedule(static)
  for (int64_t i = 0; i < tiles * parts; ++i) {
    const int64_t k = i / parts * p.tile, part = i % parts, b = smaller(part * length, p.samples);
    double* out = (parts == 1 ? p.column_lse : p.parts + part * p.prototypes) + k;
    sum_columns(p, k, smaller(k + p.tile, p.prototypes), b, smaller(b + length, p.samples), out);
  }
  if (parts == 1) return;
#pragma omp for schedule(static)
  for (int64_t k = 0; k < p.prototypes; ++k) p.column_lse[k] = log_sum(p.parts + k, parts, p.prototypes);
}
