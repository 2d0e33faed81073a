// Rows of a view for one instruction set: resize and blur. Included by augment_view.h, after simd.h.
//
// A row is whole vectors of floats, zero beyond its width. Float images are resized down the columns first: that pass
// reads bytes in whatever order the channels lie, and it leaves fewer rows to the other. uint8 images go the other way
// round, in integers and rounded between the passes, as PyTorch does it.

constexpr int CHANNELS = 3;        // at most
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
      for (int t = 0; t < c.taps; ++t)
        c.place[t * width + i] = i < end && t < c.count[i] ? c.first[i] + t - low : 0;
  }
  for (int t = 0; t < c.taps; ++t)
    for (int64_t i = c.out; i < width; ++i) c.weight[t * width + i] = 0, c.integer[t * width + i] = 0;
}

FASTSSL_INLINE vfloat permute(vfloat low, vfloat high, vint place) {
#ifdef __clang__
  vfloat out{};
  for (int i = 0; i < LANES; ++i) out[i] = place[i] < LANES ? low[place[i]] : high[place[i] - LANES];
  return out;
#else
  return __builtin_shuffle(low, high, place);
#endif
}

// One row of a float image to `c.out` columns.
void resize_columns(const Columns& c, const float* row, float* out) {
  const int64_t width = padded(c.out);
  for (int64_t x = 0; x < width; x += LANES) {
    vfloat sum{};
    if (c.near) {
      const float* at = row + c.base[x / LANES];
      const vfloat low = load(at), high = load(at + LANES);
      for (int t = 0; t < c.taps; ++t)
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

// The same for integers in [0, 255], rounded to such.
void resize_columns(const Columns& c, const int* row, int* out) {
  const int64_t width = padded(c.out);
  for (int64_t i = 0; i < width; ++i) {
    int sum = 1 << (c.bits - 1);
    for (int t = 0; i < c.out && t < c.count[i]; ++t) sum += row[c.first[i] + t] * c.integer[t * width + i];
    const int value = sum >> c.bits;
    out[i] = value < 0 ? 0 : value > 255 ? 255 : value;
  }
}

// out[x] = sum of weights times bytes, over `taps` rows; no byte beyond `length` is read.
void weigh_rows(const uint8_t* const* rows, const float* weights, int taps, int64_t length, float* out) {
  int64_t x = 0;
  for (; x + LANES <= length; x += LANES) {
    vfloat sum = to_float(load(rows[0] + x)) * weights[0];
    for (int t = 1; t < taps; ++t) sum += to_float(load(rows[t] + x)) * weights[t];
    store(out + x, sum);
  }
  for (; x < length; ++x) {
    float sum = 0;
    for (int t = 0; t < taps; ++t) sum += (float)rows[t][x] * weights[t];
    out[x] = sum;
  }
}

struct Triple {
  vfloat a, b, c;
};

// From r g b r g b ... to three vectors, and back.
FASTSSL_INLINE Triple split_channels(const float* in) {
  vint first{}, second{};
  Triple out;
  vfloat* planes[CHANNELS] = {&out.a, &out.b, &out.c};
  const vfloat x = load(in), y = load(in + LANES), z = load(in + 2 * LANES);
  for (int k = 0; k < CHANNELS; ++k) {
    for (int i = 0; i < LANES; ++i) {
      const int at = 3 * i + k;
      first[i] = at < 2 * LANES ? at : 0;
      second[i] = at < 2 * LANES ? i : at - LANES;
    }
    *planes[k] = permute(permute(x, y, first), z, second);
  }
  return out;
}

FASTSSL_INLINE void join_channels(Triple p, float* out) {
  vint first{}, second{};
  for (int k = 0; k < CHANNELS; ++k) {
    for (int i = 0; i < LANES; ++i) {
      const int at = k * LANES + i;
      first[i] = at % 3 == 1 ? LANES + at / 3 : at / 3;
      second[i] = at % 3 == 2 ? LANES + at / 3 : i;
    }
    store(out + k * LANES, permute(permute(p.a, p.b, first), p.c, second));
  }
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

// Row y of a column blur over `height` rows that are `stride` apart.
void blur_column(const Blur& blur, const float* rows, int64_t stride, int height, int y, int width, float* out) {
  for (int64_t x = 0; x < width; x += LANES) store(out + x, load(rows + y * stride + x) * blur.weight[0]);
  for (int j = 1; j <= blur.radius; ++j) {
    const int above = y - j < 0 ? j - y : y - j;
    const int below = y + j >= height ? 2 * (height - 1) - y - j : y + j;
    const float *a = rows + above * stride, *b = rows + below * stride;
    for (int64_t x = 0; x < width; x += LANES)
      store(out + x, load(out + x) + (load(a + x) + load(b + x)) * blur.weight[j]);
  }
}
