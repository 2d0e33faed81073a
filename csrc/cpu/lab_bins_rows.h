// Colours as Lab and as bins, a row of pixels at a time. Included by lab_bins.cpp, once per instruction set.
//
// A squared distance is kept as the bits of a float, whose order is theirs as integers. Its last SLOT_BITS do not
// count; in a cell they are the slot, so that one sort of integers gives the nearest bins, of equal ones the first.
// clang-format off
#include "token_rows.h"
// clang-format on

constexpr int SLOT_BITS = 4;
constexpr int SLOT = (1 << SLOT_BITS) - 1;
constexpr int BEYOND = 0x7fffffff;  // no distance
static_assert(SLOT + 1 == SLOTS, "a slot fits its bits");

#if FASTSSL_LANES == 16
FASTSSL_INLINE vint lesser(vint a, vint b) { return (vint)_mm512_min_epi32((__m512i)a, (__m512i)b); }
FASTSSL_INLINE vint greater(vint a, vint b) { return (vint)_mm512_max_epi32((__m512i)a, (__m512i)b); }
FASTSSL_INLINE bool all(vmask mask) { return _mm512_movepi32_mask((__m512i)mask) == 0xffff; }
#elif FASTSSL_LANES == 8
FASTSSL_INLINE vint lesser(vint a, vint b) { return (vint)_mm256_min_epi32((__m256i)a, (__m256i)b); }
FASTSSL_INLINE vint greater(vint a, vint b) { return (vint)_mm256_max_epi32((__m256i)a, (__m256i)b); }
FASTSSL_INLINE bool all(vmask mask) { return _mm256_movemask_ps((__m256)mask) == 0xff; }
#else
FASTSSL_INLINE vint lesser(vint a, vint b) { return a < b ? a : b; }
FASTSSL_INLINE vint greater(vint a, vint b) { return a < b ? b : a; }
FASTSSL_INLINE bool all(vmask mask) { return (mask[0] & mask[1] & mask[2] & mask[3]) != 0; }
#endif

// A row of an image, and what is made of it. `whole` numbers, whole vectors of them, are as long as a row or longer.
struct Row {
  float* light[3];  // of red, green and blue
  float* lab[3];
  float *a, *b;  // of every stride-th pixel
  int* square;   // [neighbors, whole]
  int* index;    // [neighbors, whole]
  int64_t whole;
};

Row new_row(const LabBins& l) {
  Row r;
  r.whole = (l.width + LANES - 1) / LANES * LANES;
  float* memory = (float*)calloc((size_t)(r.whole * (8 + 2 * l.neighbors)), sizeof(float));
  for (int c = 0; c < 3; ++c) r.light[c] = memory + c * r.whole, r.lab[c] = memory + (3 + c) * r.whole;
  r.a = memory + 6 * r.whole, r.b = r.a + r.whole;
  r.square = (int*)(r.b + r.whole), r.index = r.square + l.neighbors * r.whole;
  return r;
}

// x^(-1/n) = r (1 - h)^(-1/n) with h = 1 - x r^n, of which |h| < 0.16 in the beginning and < 0.0003 here. x > 0.
FASTSSL_INLINE vfloat rough_root3(vfloat x) {
  const vfloat r = (vfloat)(1419900954 - to_int(to_float((vint)x) * (1.f / 3)));
  const vfloat h = 1.f - x * r * (r * r);
  return r + r * h * (1.f / 3 + h * (2.f / 9 + h * (14.f / 81)));
}

FASTSSL_INLINE vfloat rough_root5(vfloat x) {
  const vfloat r = (vfloat)(1277905859 - to_int(to_float((vint)x) * (1.f / 5)));
  const vfloat h = 1.f - x * r * ((r * r) * (r * r));
  return r + r * h * (1.f / 5 + h * (3.f / 25 + h * (11.f / 125)));
}

// The last steps are taken on the results, y = x r^2 and x r, with which their own roundings almost cancel.
FASTSSL_INLINE vfloat cube_root(vfloat x) {
  const vfloat r = rough_root3(x), y = x * (r * r);
  return y + y * ((1.f - y * r) * (2.f / 3));
}

// ((x + 0.055) / 1.055)^2.4, and the straight line below.
FASTSSL_INLINE vfloat light_of(vfloat x) {
  const vfloat u = x * (float)(1 / 1.055) + (float)(0.055 / 1.055), r = rough_root5(u), y = u * r;
  const vfloat power = y + y * ((1.f - y * ((r * r) * (r * r))) * (1.f / 5));  // u^0.8
  return select(x <= 0.04045f, x * (float)(1 / 12.92), power * power * power);
}

void look_up(float* out, const uint8_t* from, int64_t step, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    unsigned value = from[i * step];
    asm("" : "+r"(value));  // taken out of a vector again, as compilers would have it, a number takes longer
    out[i] = CURVE.light[value];
  }
}

void load_light(const LabBins& l, const Row& r, int64_t n, int64_t y) {
  for (int c = 0; c < 3; ++c) {
    const char* in = element(l.type, l.images, n * l.sample + c * l.channel + y * l.row);
    float* out = r.light[c];
    if (l.type == TYPE_UINT8) {
      look_up(out, (const uint8_t*)in, l.column, l.width);
      continue;
    }
    const vfloat scale = splat(l.scale[c]), shift = splat(l.shift[c]);
    for (int64_t x = 0; x < l.width; x += LANES) {
      const int64_t left = smaller(LANES, l.width - x);
      if (l.column == 1) {
        store(out + x, load_some(l.type, element(l.type, in, x), left));
      } else {
        for (int64_t i = x; i < x + left; ++i) out[i] = load_some(l.type, element(l.type, in, i * l.column), 1)[0];
      }
      store(out + x, light_of(load(out + x) * scale + shift));
    }
  }
}

FASTSSL_INLINE vfloat root_of(vfloat t) {
  return select(t > 0.008856f, cube_root(t), t * 7.787f + (float)(16.0 / 116));
}

// D65, 2 degrees: rows of the matrix are divided by X, Y and Z of white.
void make_lab(const Row& r) {
  for (int64_t i = 0; i < r.whole; i += LANES) {
    const vfloat red = load(r.light[0] + i), green = load(r.light[1] + i), blue = load(r.light[2] + i);
    const vfloat x = root_of(red * (float)(0.412453 / 0.95047) + green * (float)(0.357580 / 0.95047) +
                             blue * (float)(0.180423 / 0.95047));
    const vfloat y = root_of(red * 0.212671f + green * 0.715160f + blue * 0.072169f);
    const vfloat z = root_of(red * (float)(0.019334 / 1.08883) + green * (float)(0.119193 / 1.08883) +
                             blue * (float)(0.950227 / 1.08883));
    store(r.lab[0] + i, y * 116.f - 16.f);
    store(r.lab[1] + i, (x - y) * 500.f);
    store(r.lab[2] + i, (y - z) * 200.f);
  }
}

// The pairs that Batcher's odd-even merge sort compares.
struct Network {
  int count, low[64], high[64];
};

constexpr Network network_of() {
  Network net{};
  for (int p = 1; p < SLOTS; p *= 2)
    for (int k = p; k >= 1; k /= 2)
      for (int j = k % p; j + k < SLOTS; j += 2 * k)
        for (int i = 0; i < k && i + j + k < SLOTS; ++i)
          if ((i + j) / (2 * p) == (i + j + k) / (2 * p)) net.low[net.count] = i + j, net.high[net.count++] = i + j + k;
  return net;
}

constexpr Network NETWORK = network_of();

struct Swaps {
  alignas(64) int low[4][LANES], high[4][LANES];
};

constexpr Swaps swaps() {
  Swaps s{};
  for (int step = 0; 1 << step < LANES; ++step)
    for (int i = 0; i < LANES; ++i) {
      const int half = 1 << step;
      s.low[step][i] = i & half ? LANES + i - half : i;
      s.high[step][i] = i & half ? LANES + i : i + half;
    }
  return s;
}

constexpr Swaps SWAPS = swaps();

// Of as many vectors as lanes: element i of vector j becomes element j of vector i.
FASTSSL_INLINE void transpose(vint* x) {
#pragma GCC unroll 4
  for (int step = 0; 1 << step < LANES; ++step)
#pragma GCC unroll 16
    for (int i = 0; i < LANES; ++i) {
      const int half = 1 << step;
      if (i & half) continue;
      const vfloat a = (vfloat)x[i], b = (vfloat)x[i + half];
      x[i] = (vint)permute(a, b, load(SWAPS.low[step]));
      x[i + half] = (vint)permute(a, b, load(SWAPS.high[step]));
    }
}

// The nearest bins of points in these cells.
FASTSSL_INLINE void nearest_of_cells(const LabBins& l, const Row& r, int64_t at, const Cell* const* cell) {
  vint key[SLOTS];
#pragma GCC unroll 16
  for (int first = 0; first < SLOTS; first += LANES) {
    vint slot;
    for (int i = 0; i < LANES; ++i) slot[i] = first + i;
#pragma GCC unroll 16
    for (int i = 0; i < LANES; ++i) {
      const vfloat a = r.a[at + i] - load(cell[i]->a + first), b = r.b[at + i] - load(cell[i]->b + first);
      key[first + i] = ((vint)(a * a + b * b) & ~SLOT) | slot;
    }
    transpose(key + first);
  }
#pragma GCC unroll 64
  for (int i = 0; i < NETWORK.count; ++i) {
    const vint low = key[NETWORK.low[i]], high = key[NETWORK.high[i]];
    key[NETWORK.low[i]] = lesser(low, high), key[NETWORK.high[i]] = greater(low, high);
  }
  // What is left out is half a slot on average.
  for (int64_t k = 0; k < l.neighbors; ++k) store(r.square + k * r.whole + at, (key[k] & ~SLOT) + SLOTS / 2);
#if FASTSSL_LANES == 16
  transpose(key);
#pragma GCC unroll 16
  for (int i = 0; i < LANES; ++i)
    key[i] = (vint)_mm512_permutexvar_epi32((__m512i)key[i], (__m512i)load(cell[i]->index));
  transpose(key);
  for (int64_t k = 0; k < l.neighbors; ++k) store(r.index + k * r.whole + at, key[k]);
#else
  for (int64_t k = 0; k < l.neighbors; ++k)
    for (int i = 0; i < LANES; ++i) r.index[k * r.whole + at + i] = cell[i]->index[key[k][i] & SLOT];
#endif
}

// Those of any points, from all bins, one after the other.
void nearest_of_all(const LabBins& l, const Row& r, int64_t at) {
  const vfloat a = load(r.a + at), b = load(r.b + at);
  for (int64_t k = 0; k < l.neighbors; ++k) {
    store(r.square + k * r.whole + at, vint{} + BEYOND);
    store(r.index + k * r.whole + at, vint{});
  }
  vint last = vint{} + (BEYOND & ~SLOT);
  for (int64_t q = 0; q < l.count; ++q) {
    const vfloat away_a = a - l.bins[2 * q], away_b = b - l.bins[2 * q + 1];
    vint key = (vint)(away_a * away_a + away_b * away_b), number = vint{} + (int)q;
    if (all((key & ~SLOT) >= last)) continue;
    for (int64_t k = 0; k < l.neighbors; ++k) {
      int *square = r.square + k * r.whole + at, *index = r.index + k * r.whole + at;
      const vint other = load(square), of_other = load(index);
      const vmask nearer = (key & ~SLOT) < (other & ~SLOT);
      store(square, nearer ? key : other), store(index, nearer ? number : of_other);
      key = nearer ? other : key, number = nearer ? of_other : number;
    }
    last = load(r.square + (l.neighbors - 1) * r.whole + at) & ~SLOT;
  }
}

FASTSSL_INLINE void nearest(const LabBins& l, const Row& r, int64_t at) {
  const vfloat a = (load(r.a + at) - FIRST_A) * (1 / CELL), b = (load(r.b + at) - FIRST_B) * (1 / CELL);
  const vmask inside = (a >= 0.f) & (b >= 0.f) & (a < (float)CELLS_A) & (b < (float)CELLS_B);
  if (!l.cells || !all(inside)) return nearest_of_all(l, r, at);
  alignas(64) int number[LANES];
  store(number, to_int(a) * CELLS_B + to_int(b));
  const Cell* cell[LANES];
  int least = 0;
  for (int i = 0; i < LANES; ++i) cell[i] = l.cells + number[i], least |= cell[i]->index[0];
  if (least < 0) return nearest_of_all(l, r, at);
  nearest_of_cells(l, r, at, cell);
}

// From squares of distances to weights, in place.
FASTSSL_INLINE void weigh(const LabBins& l, const Row& r, int64_t at) {
  const float falloff = (float)LOG2_E * l.falloff;
  const vfloat least = (vfloat)load(r.square + at);
  vfloat sum{};
  for (int64_t k = 0; k < l.neighbors; ++k) {
    int* square = r.square + k * r.whole + at;
    const vfloat e = exp2_nonpositive((least - (vfloat)load(square)) * falloff);
    store(square, (vint)e);
    sum += e;
  }
  const vfloat inverse = 1.f / sum;
  for (int64_t k = 0; k < l.neighbors; ++k) {
    int* square = r.square + k * r.whole + at;
    store(square, (vint)((vfloat)load(square) * inverse));
  }
}

void encode(const LabBins& l) {
  const int64_t height = (l.height + l.stride - 1) / l.stride, width = (l.width + l.stride - 1) / l.stride;
  const int64_t bytes = l.width * (int64_t)sizeof(float), coded = width * (int64_t)sizeof(float);
  const bool stream = l.n * 3 * l.height * bytes >= STREAM_BYTES;
  const bool stream_codes = l.n * l.neighbors * height * coded >= STREAM_BYTES;
#pragma omp parallel num_threads(l.threads) if (l.threads > 1)
  {
    const Row r = new_row(l);
#pragma omp for schedule(static)
    for (int64_t line = 0; line < l.n * l.height; ++line) {
      const int64_t n = line / l.height, y = line % l.height;
      load_light(l, r, n, y);
      make_lab(r);
      for (int64_t c = 0; c < 3; ++c)
        copy_bytes((char*)(l.lab + ((n * 3 + c) * l.height + y) * l.width), (const char*)r.lab[c], bytes, stream);
      if (y % l.stride) continue;
      for (int64_t x = 0; x < width; ++x) r.a[x] = r.lab[1][x * l.stride], r.b[x] = r.lab[2][x * l.stride];
      for (int64_t x = 0; x < width; x += LANES) nearest(l, r, x), weigh(l, r, x);
      for (int64_t k = 0; k < l.neighbors; ++k) {
        const int64_t at = ((n * l.neighbors + k) * height + y / l.stride) * width;
        copy_bytes((char*)(l.index + at), (const char*)(r.index + k * r.whole), coded, stream_codes);
        copy_bytes((char*)(l.weight + at), (const char*)(r.square + k * r.whole), coded, stream_codes);
      }
    }
    free(r.light[0]);
    finish_streams();
  }
}

constexpr LabKernels kernels = {encode};
