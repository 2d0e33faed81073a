// Rows of a view for one instruction set: resize and blur. Included by augment_view.h, after simd.h.
//
// A row is whole vectors of floats, zero beyond its width. Float images are resized down the columns first: that pass
// reads bytes in whatever order the channels lie, and it leaves fewer rows to the other. uint8 images go the other way
// round, in integers and rounded between the passes, as PyTorch does it.

constexpr int MARGIN = 2 * LANES;  // floats that may be read beyond a row of the source

int64_t padded(int64_t width) { return (width + LANES - 1) / LANES * LANES; }

// The columns of a resize: besides windows and weights, the place of every tap in two neighbouring vectors.
struct Columns : Axis {
  bool near;   // two vectors hold all taps of a vector of outputs
  int* base;   // [padded(out) / LANES]
  int* place;  // [taps, padded(out)]
};

void fill_places(Columns& c) {
  const int64_t width = padded(c.out);
  c.near = LANES >= 8;
  for (int64_t x = 0; x < width; x += LANES) {
    const int64_t end = x + LANES < c.out ? x + LANES : c.out;
    int low = c.first[x], high = 0;
    for (int64_t i = x; i < end; ++i) {
      low = c.first[i] < low ? c.first[i] : low;
      const int last = c.first[i] + c.count[i];
      high = last > high ? last : high;
    }
    c.base[x / LANES] = low;
    c.near = c.near && high - low <= 2 * LANES;
    for (int64_t i = x; i < x + LANES; ++i)
      for (int t = 0; t < c.taps; ++t) c.place[t * width + i] = i < end && t < c.count[i] ? c.first[i] + t - low : 0;
  }
  for (int t = 0; t < c.taps; ++t)
    for (int64_t i = c.out; i < width; ++i) c.weight[t * width + i] = 0, c.integer[t * width + i] = 0;
}

// One row of a float image to `c.out` columns.
void resize_columns(const Columns& c, const float* row, float* out) {
  const int64_t width = padded(c.out);
  for (int64_t x = 0; x < width; x += LANES) {
    vfloat sum{};
    if (c.near) {
      const float* at = row + c.base[x / LANES];
      const vfloat low = load(at), high = load(at + LANES);
      for (int t = 0; t < c.most; ++t)
        sum += permute(low, high, load(c.place + t * width + x)) * load(c.weight + t * width + x);
    } else {
      alignas(64) float value[LANES] = {};
      for (int64_t i = x; i < x + LANES && i < c.out; ++i)
        for (int t = 0; t < c.count[i]; ++t) value[i - x] += row[c.first[i] + t] * c.weight[t * width + i];
      sum = load(value);
    }
    store(out + x, sum);
  }
}

// A sum of integer weights over 2^bits times bytes, rounded and clamped to a byte.
FASTSSL_INLINE vint to_byte(vint sum, int bits) {
  const vint value = (sum + (1 << (bits - 1))) >> bits;
  return value < 0 ? vint{} : value > 255 ? vint{} + 255 : value;
}

// The same for integers in [0, 255], rounded to such.
void resize_columns(const Columns& c, const int* row, int* out) {
  const int64_t width = padded(c.out);
  for (int64_t x = 0; x < width; x += LANES) {
    vint sum{};
    if (c.near) {
      const int* at = row + c.base[x / LANES];
      const vfloat low = (vfloat)load(at), high = (vfloat)load(at + LANES);
      for (int t = 0; t < c.most; ++t)
        sum += (vint)permute(low, high, load(c.place + t * width + x)) * load(c.integer + t * width + x);
    } else {
      alignas(64) int value[LANES] = {};
      for (int64_t i = x; i < x + LANES && i < c.out; ++i)
        for (int t = 0; t < c.count[i]; ++t) value[i - x] += row[c.first[i] + t] * c.integer[t * width + i];
      sum = load(value);
    }
    store(out + x, to_byte(sum, c.bits));
  }
}

// The sum of weights times `count` bytes at x, over `taps` rows.
FASTSSL_INLINE vfloat weigh(const uint8_t* const* rows, const float* weights, int taps, int64_t x, int64_t count) {
  vfloat sum = to_float(load_bytes(rows[0] + x, count)) * weights[0];
  for (int t = 1; t < taps; ++t) sum = multiply_add(to_float(load_bytes(rows[t] + x, count)), splat(weights[t]), sum);
  return sum;
}

// Of all bytes of rows; no byte beyond `length` is read.
FASTSSL_INLINE void weigh_rows(const uint8_t* const* rows, const float* weights, int taps, int64_t length, float* out) {
  int64_t x = 0;
  for (; x + LANES <= length; x += LANES) store(out + x, weigh(rows, weights, taps, x, LANES));
  if (x < length) store(out + x, weigh(rows, weights, taps, x, length - x));
}

// The same with the commonest numbers of taps as constants.
void weigh_rows_of(const uint8_t* const* rows, const float* weights, int taps, int64_t length, float* out) {
  if (taps == 1) return weigh_rows(rows, weights, 1, length, out);
  if (taps == 2) return weigh_rows(rows, weights, 2, length, out);
  if (taps == 3) return weigh_rows(rows, weights, 3, length, out);
  if (taps == 4) return weigh_rows(rows, weights, 4, length, out);
  weigh_rows(rows, weights, taps, length, out);
}

// The Gaussian of one view along one axis: weights of the taps 0 .. radius on either side.
struct Blur {
  int radius;
  float* weight;
};

void fill_blur(Blur& blur, float sigma, int kernel, int side) {
  const double reach = __builtin_ceil(5.0 * sigma);  // what lies beyond carries less than 6e-7
  int radius = reach < side - 1 ? (int)reach : side - 1;
  if (kernel > 0 && radius > kernel / 2) radius = kernel / 2;
  double sum = 0;
  for (int j = 0; j <= radius; ++j) sum += (j ? 2 : 1) * __builtin_exp(-0.5 * j * j / ((double)sigma * sigma));
  for (int j = 0; j <= radius; ++j)
    blur.weight[j] = (float)(__builtin_exp(-0.5 * j * j / ((double)sigma * sigma)) / sum);
  blur.radius = radius;
}

// Along a row, in place; `wide` holds it with its reflections, `radius` and a margin more.
void blur_row(const Blur& blur, float* row, int width, float* wide) {
  const int r = blur.radius;
  float* middle = wide + r;
  for (int64_t x = 0; x < padded(width); x += LANES) store(middle + x, load(row + x));
  for (int j = 1; j <= r; ++j) middle[-j] = middle[j], middle[width - 1 + j] = middle[width - 1 - j];
  for (int64_t x = 0; x < width; x += LANES) {
    vfloat sum = load(middle + x) * blur.weight[0];
    for (int j = 1; j <= r; ++j) sum += (load(middle + x - j) + load(middle + x + j)) * blur.weight[j];
    store(row + x, sum);
  }
}

// Row y of a blur down `height` rows that are `stride` apart; `lines` has room for two pointers a tap.
void blur_column(const Blur& blur, const float* rows, int64_t stride, int height, int y, int width, const float** lines,
                 float* out) {
  const float** below = lines + blur.radius + 1;
  for (int j = 0; j <= blur.radius; ++j) {
    lines[j] = rows + (y - j < 0 ? j - y : y - j) * stride;
    below[j] = rows + (y + j >= height ? 2 * (height - 1) - y - j : y + j) * stride;
  }
  for (int64_t x = 0; x < width; x += LANES) {
    vfloat sum = load(lines[0] + x) * blur.weight[0];
    for (int j = 1; j <= blur.radius; ++j) sum += (load(lines[j] + x) + load(below[j] + x)) * blur.weight[j];
    store(out + x, sum);
  }
}
