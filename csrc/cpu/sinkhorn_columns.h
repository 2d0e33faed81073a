// Log-sum-exps of columns, on logarithms; and what a pass works with. Included by sinkhorn_rows.h.
#include "elements.h"

constexpr int64_t PIECE = 2048;              // elements of a row at a time
constexpr int64_t TILE = 2048;               // columns at a time
constexpr int GROUP = 8;                     // rows whose elements of a column meet in registers
constexpr int64_t BLOCK_ROWS = 64;           // added in float32 before they join a float64 sum
constexpr int64_t RUN = 1024;                // the same, of sums of GROUP
constexpr int64_t AHEAD = 4096;              // elements that are on their way to the second cache
constexpr int64_t LEAST_WORK = 16384;        // elements that are worth a thread
constexpr double SLACK = 20;                 // nats by which an exponent may be above 0
constexpr float FAINT = 0x1p-100f;           // a column sum of as much a row has all its digits
constexpr float NOTHING = -3.402823466e38f;  // the running maximum before the first element
constexpr double LOG2_E = 1.44269504088896340736, LN_2 = 0.69314718055994530942;

FASTSSL_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
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

FASTSSL_INLINE float max_lanes(vfloat x) {
  for (int half = LANES / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) x[i] = x[i] < x[i + half] ? x[i + half] : x[i];
  return x[0];
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

// e^(x/temp) for x up to the slack; 0 below the normal range, NaN for any NaN. The product is not rounded.
FASTSSL_INLINE vfloat exponential(vfloat x, Exponent e) {
  const float round = ROUND + 127;  // leaves 2^n's exponent as IEEE has it
  const vfloat shifted = x * e.factor + round, fraction = x * e.factor - (shifted - round);
  vfloat p = fraction * 0x1.5c08e4p-10f + 0x1.3d0c52p-7f;  // as in exp2_parts
  p = p * fraction + 0x1.c6b6e4p-5f;
  p = p * fraction + 0x1.ebf918p-3f;
  p = p * fraction + 0x1.62e428p-1f;
  p = p * fraction + 0x1.000002p+0f;
  const vfloat y = p * (vfloat)((vuint)shifted << 23);
  return select(x < e.least, vfloat{}, y);
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

// What all threads share, in the workspace.
struct Scratch {
  float *row_level, *row_rest;  // of e^-row_lse, [samples]
  double* parts;                // log-sum-exps of parts of rows or of columns
  float* exponentials;          // of a row, [threads, width]
  float* levels;                // of its pieces, [threads, pieces]
  float* sums;                  // of columns, [threads, width]
  double* whole_sums;           // [threads, width], or null where a block of rows is all
};

struct Plan : Sinkhorn {
  Exponent exponent;
  int64_t width;           // prototypes in whole vectors
  bool fused;              // column sums come with the row sums
  int64_t tile;            // columns
  int64_t row_parts;       // of a row, where there are fewer rows than threads
  int64_t column_parts;    // of a column, where there are fewer tiles than threads
  int64_t rows_of_thread;  // fused
  Scratch scratch;
  int64_t bytes;  // of the workspace
};

// The next `count` elements of so many bytes of the workspace.
FASTSSL_INLINE char* take(Plan& p, int64_t count, int64_t bytes) {
  char* at = (char*)p.workspace + p.bytes;
  p.bytes += (count * bytes + 63) / 64 * 64;
  return at;
}

Plan plan_of(const Sinkhorn& s) {
  Plan p{};
  (Sinkhorn&)p = s;
  const int64_t work = parts_of(s.samples * s.prototypes, LEAST_WORK);
  p.threads = (int)larger(1, smaller(s.threads, work));
  p.exponent = exponent_of(s.temp), p.width = whole_vectors(s.prototypes);
  p.fused = s.center && s.column_lse && s.samples >= 4 * p.threads;
  p.tile = smaller(TILE, larger(4 * LANES, whole_vectors(parts_of(s.prototypes, p.threads))));
  const int64_t tiles = parts_of(s.prototypes, p.tile);
  p.row_parts = smaller(parts_of(p.threads, larger(1, s.samples)), parts_of(s.prototypes, PIECE));
  p.column_parts = p.fused || tiles >= p.threads ? 1 : smaller(parts_of(p.threads, tiles), parts_of(s.samples, 64));
  p.column_parts = larger(1, p.column_parts);
  p.rows_of_thread = parts_of(s.samples, p.threads);
  Scratch& a = p.scratch;
  if (s.center) {
    a.row_level = (float*)take(p, s.samples, sizeof(float)), a.row_rest = (float*)take(p, s.samples, sizeof(float));
  }
  if (p.fused) {
    a.exponentials = (float*)take(p, p.threads * p.width, sizeof(float));
    a.levels = (float*)take(p, p.threads * parts_of(p.width, PIECE), sizeof(float));
    a.sums = (float*)take(p, p.threads * p.width, sizeof(float));
    if (p.rows_of_thread > BLOCK_ROWS) a.whole_sums = (double*)take(p, p.threads * p.width, sizeof(double));
  } else {
    a.parts = (double*)take(p, larger(s.samples * p.row_parts, s.prototypes * p.column_parts), sizeof(double));
  }
  return p;
}

int64_t workspace(const Sinkhorn& s) { return plan_of(s).bytes; }

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

// The sums of a tile of columns, each relative to a maximum of its own.
struct Columns {
  float max[TILE], before[TILE];  // the present one, and that of `whole`
  float sum[TILE];
  double whole[TILE];
};

// Adds n rows from b on. A maximum moves only where an exponent would be above the slack.
FASTSSL_INLINE void add_rows_as(ElementType type, bool whole, bool plain, int n, const Plan& p, int64_t b, int64_t k0,
                                int64_t count, Columns& c) {
  const Exponent e = p.exponent;
  const char* rows[GROUP];
  float level[GROUP] = {}, rest[GROUP] = {};
  for (int r = 0; r < n; ++r) {
    rows[r] = row_at(p, b + r);
    if (!plain) level[r] = p.scratch.row_level[b + r], rest[r] = p.scratch.row_rest[b + r];
  }
  for (int64_t i = 0; i < count; i += LANES) {
    const int64_t k = k0 + i, left = whole ? LANES : count - i;
    const vfloat center = plain ? vfloat{} : load_some(TYPE_FLOAT32, p.center + k, left);
    vfloat x[GROUP], most = splat(NOTHING);
    for (int r = 0; r < n; ++r) {
      x[r] = load_some(type, element(type, rows[r], k), left);
      __builtin_prefetch(element(type, rows[r], k + GROUP * p.row), 0, 2);
      if (!plain) x[r] = x[r] - center - level[r];
      most = maximum(most, x[r]);
    }
    vfloat max = load(c.max + i), sum = load(c.sum + i);
    if (any(most > max + e.slack)) {
      const vfloat risen = maximum(max, most);
      sum *= exponential(max - risen, e);
      max = risen;
      store(c.max + i, max);
    }
    for (int r = 0; r < n; ++r) {
      const vfloat y = exponential(x[r] - max, e);
      sum += plain ? y : y * rest[r];
    }
    store(c.sum + i, sum);
  }
}

FASTSSL_INLINE void add_rows(const Plan& p, bool plain, int n, int64_t b, int64_t k0, int64_t count, Columns& c) {
  const bool whole = count % LANES == 0;
  if (p.type == TYPE_FLOAT32 && whole && plain) return add_rows_as(TYPE_FLOAT32, true, true, n, p, b, k0, count, c);
  if (p.type == TYPE_BFLOAT16 && whole && plain) return add_rows_as(TYPE_BFLOAT16, true, true, n, p, b, k0, count, c);
  add_rows_as(p.type, false, plain, n, p, b, k0, count, c);
}

void add_group(const Plan& p, bool plain, int64_t b, int64_t k0, int64_t count, Columns& c) {
  if (plain) return add_rows(p, true, GROUP, b, k0, count, c);
  add_rows(p, false, GROUP, b, k0, count, c);
}

void add_one(const Plan& p, bool plain, int64_t b, int64_t k0, int64_t count, Columns& c) {
  add_rows(p, plain, 1, b, k0, count, c);
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

// From sums to log-sum-exps: (level + offset)/temp + log(sum). The sums, in whole vectors, become their logarithms.
void finish(const Plan& p, float* sums, const float* levels, const float* offsets, int64_t count, double* out) {
  const double inverse = p.exponent.inverse;
  for (int64_t i = 0; i < count; i += LANES) store(sums + i, logarithm(load(sums + i)));
  if (offsets) {
    for (int64_t i = 0; i < count; ++i) out[i] = ((double)levels[i] + offsets[i]) * inverse + sums[i];
  } else {
    for (int64_t i = 0; i < count; ++i) out[i] = levels[i] * inverse + sums[i];
  }
}

// Writes log-sum-exps of at most TILE columns over the rows [b0, b1). `plain`: of the logits, else of the centered ones
// less their rows' log-sum-exps, to which the center is given back.
void sum_columns(const Plan& p, bool plain, int64_t k0, int64_t k1, int64_t b0, int64_t b1, double* out) {
  const int64_t count = k1 - k0;
  const bool long_run = b1 - b0 > RUN;
  Columns c;
  for (int64_t i = 0; i < whole_vectors(count); ++i) c.max[i] = NOTHING, c.sum[i] = 0;
  for (int64_t i = 0; long_run && i < count; ++i) c.before[i] = NOTHING, c.whole[i] = 0;
  for (int64_t run = b0; run < b1; run += RUN) {
    const int64_t end = smaller(run + RUN, b1);
    int64_t b = run;
    for (; b + GROUP <= end; b += GROUP) add_group(p, plain, b, k0, count, c);
    for (; b < end; ++b) add_one(p, plain, b, k0, count, c);
    if (long_run) settle(p, count, c);
  }
  for (int64_t i = 0; long_run && i < count; ++i) c.sum[i] = (float)c.whole[i];
  finish(p, c.sum, c.max, plain ? 0 : p.center + k0, count, out);
}

// The log-sum-exps of all columns on logarithms. For all threads of a parallel region.
void sum_all_columns(const Plan& p) {
  const int64_t parts = p.column_parts, tiles = parts_of(p.prototypes, p.tile), length = parts_of(p.samples, parts);
#pragma omp for schedule(static)
  for (int64_t i = 0; i < tiles * parts; ++i) {
    const int64_t k = i / parts * p.tile, part = i % parts, b = smaller(part * length, p.samples);
    double* out = (parts == 1 ? p.column_lse : p.scratch.parts + part * p.prototypes) + k;
    sum_columns(p, !p.center, k, smaller(k + p.tile, p.prototypes), b, smaller(b + length, p.samples), out);
  }
  if (parts == 1) return;
#pragma omp for schedule(static)
  for (int64_t k = 0; k < p.prototypes; ++k) p.column_lse[k] = log_sum(p.scratch.parts + k, parts, p.prototypes);
}
