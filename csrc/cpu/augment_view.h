// Augmentation for one instruction set. Included by augment.cpp inside a namespace of its own, after simd.h.
//
// A view is made by one thread, row by row, in float32 rows of one channel each, [height][channels][padded width]:
//   1. resize a row, apply the colour steps up to the contrast, add to its mean, keep the row;
//   2. where there is a contrast, the other colour steps on all rows; blur along the rows; then, as soon as the rows
//      below have come, blur down the columns, solarize, normalise, convert and store.
// Only the state goes back and forth between the caches; every step works on rows that are in the first one. Mirrors
// are in the tables of the columns and the order of the rows, rotations in where a row is stored.

#include "../common/color.h"
#include "augment_rows.h"
#include "elements.h"  // before the rows, which use it

// Memory of one thread.
struct Scratch {
  float* next;
  float* floats(int64_t count) {
    float* p = next;
    next += padded(count);
    return p;
  }
  int* ints(int64_t count) { return reinterpret_cast<int*>(floats(count)); }
};

struct View {
  const Augment* call;
  SourceImage image;
  AugmentParams params;
  AugmentOutput out;
  void* target;    // of this sample
  int64_t stride;  // floats between rows of one channel
  Columns columns;
  Axis rows;
  Blur across, down;
  float* state;        // [height, channels, stride]
  float* source_rows;  // [channels, padded(image width) + MARGIN], and the same interleaved
  float* interleaved;
  float* wide;        // a row with its reflections
  float* finished;    // [channels, stride]
  int* ring;          // uint8: rows after the first pass, [rows.taps, channels, stride]
  int ring_next;      // the first source row that is not in it
  int before, steps;  // jitter steps up to the contrast, and all
};

FASTSSL_INLINE float* channel_row(const View& v, float* rows, int c) { return rows + c * v.stride; }

const uint8_t* source_row(const View& v, int y) {
  return v.image.pixels + (v.params.top + y) * v.image.row + v.params.left * v.image.column;
}

// Row y of the resized crop, one channel after another.
void resize_float(const View& v, int y, float* out) {
  const int channels = v.call->channels, taps = v.rows.count[y], width = v.params.width;
  const int64_t length = v.image.width + MARGIN;
  const float* weights = v.rows.weight + y * (int64_t)v.rows.taps;
  const uint8_t** lines = reinterpret_cast<const uint8_t**>(v.wide);
  const bool planar = v.image.column == 1;
  for (int c = 0; c < (planar ? channels : 1); ++c) {
    for (int t = 0; t < taps; ++t) lines[t] = source_row(v, v.rows.first[y] + t) + c * v.image.channel;
    weigh_rows_of(lines, weights, taps, planar ? width : (int64_t)channels * width,
                  planar ? v.source_rows + c * length : v.interleaved);
  }
  if (!planar)
    for (int64_t x = 0; x < width; x += LANES) {
      const Triple t = split_channels(v.interleaved + 3 * x);
      store(v.source_rows + x, t.a), store(v.source_rows + length + x, t.b), store(v.source_rows + 2 * length + x, t.c);
    }
  for (int c = 0; c < channels; ++c) {
    float* row = v.source_rows + c * length;
    // What permutations may read beyond the crop has weight 0, but must not be a NaN left in memory.
    for (int64_t x = width; x < width + MARGIN; ++x) row[x] = 0;
    resize_columns(v.columns, row, channel_row(v, out, c));
  }
}

void resize_uint8(View& v, int y, float* out) {
  const int channels = v.call->channels, first = v.rows.first[y], end = first + v.rows.count[y];
  for (int source = v.ring_next > first ? v.ring_next : first; source < end; ++source) {
    const uint8_t* bytes = source_row(v, source);
    int* line = reinterpret_cast<int*>(v.interleaved);
    for (int c = 0; c < channels; ++c) {
      for (int x = 0; x < v.params.width; ++x) line[x] = bytes[c * v.image.channel + x * v.image.column];
      for (int x = v.params.width; x < v.params.width + MARGIN; ++x) line[x] = 0;
      resize_columns(v.columns, line, v.ring + ((source % v.rows.taps) * channels + c) * v.stride);
    }
    v.ring_next = source + 1;
  }
  const int* weights = v.rows.integer + y * (int64_t)v.rows.taps;
  for (int c = 0; c < channels; ++c)
    for (int64_t x = 0; x < v.out.width; x += LANES) {
      vint sum{};
      for (int source = first; source < end; ++source)
        sum += load(v.ring + ((source % v.rows.taps) * channels + c) * v.stride + x) * weights[source - first];
      store(channel_row(v, out, c) + x, to_float(to_byte(sum, v.rows.bits)));
    }
}

// One colour step on a row of pixels.
FASTSSL_INLINE Pixel apply(Pixel p, int step, float factor, float mean, bool uint8) {
  if (step == BRIGHTNESS) return brightness(p, factor, uint8);
  if (step == CONTRAST) return blend(p, splat(mean), factor, uint8);
  if (step == SATURATION) return saturation(p, factor, uint8);
  return hue(p, factor, uint8);
}

enum { GRAY = HUE + 1 };

#define FASTSSL_FOR_PIXELS(work)                                       \
  for (int64_t x = 0; x < v.out.width; x += LANES) {                   \
    const Pixel p = {load(r + x), load(g + x), load(b + x)}, q = work; \
    store(r + x, q.r), store(g + x, q.g), store(b + x, q.b);           \
  }

FASTSSL_INLINE void step_row(const View& v, float* rows, int step, float mean, bool uint8) {
  const float factor = step == GRAY ? 0.f : v.params.factor[step];
  if (v.call->channels == 1) {
    if (step != BRIGHTNESS && step != CONTRAST) return;
    for (int64_t x = 0; x < v.out.width; x += LANES) {
      const vfloat value = load(rows + x);
      store(rows + x, step == BRIGHTNESS ? settle(value * factor, uint8) : blend(value, splat(mean), factor, uint8));
    }
    return;
  }
  float *r = rows, *g = channel_row(v, rows, 1), *b = channel_row(v, rows, 2);
  if (step == BRIGHTNESS) FASTSSL_FOR_PIXELS(apply(p, BRIGHTNESS, factor, mean, uint8))
  if (step == CONTRAST) FASTSSL_FOR_PIXELS(apply(p, CONTRAST, factor, mean, uint8))
  if (step == SATURATION) FASTSSL_FOR_PIXELS(apply(p, SATURATION, factor, mean, uint8))
  if (step == HUE) FASTSSL_FOR_PIXELS(apply(p, HUE, factor, mean, uint8))
  if (step == GRAY) FASTSSL_FOR_PIXELS(grayscale(p, uint8))
}

// The jitter steps [first, end) of the order.
void jitter_row(const View& v, float* rows, int first, int end, float mean) {
  for (int i = first; i < end; ++i) {
    const int step = v.params.order[i];
    if (!jitters(v.params, step)) continue;
    if (v.call->uint8) {
      step_row(v, rows, step, mean, true);
    } else {
      step_row(v, rows, step, mean, false);
    }
  }
}

// The sum of the grey values of a row.
double gray_sum(const View& v, float* rows) {
  vfloat sum{};
  double total = 0;
  const bool uint8 = v.call->uint8;
  for (int64_t x = 0; x < v.out.width; x += LANES) {
    const vfloat r = load(rows + x);
    const vfloat gray =
        v.call->channels == 1
            ? r
            : gray_value({r, load(channel_row(v, rows, 1) + x), load(channel_row(v, rows, 2) + x)}, uint8);
    if (x + LANES <= v.out.width) {
      sum += gray;
    } else {
      for (int64_t i = x; i < v.out.width; ++i) total += gray[i - x];
    }
  }
  for (int i = 0; i < LANES; ++i) total += sum[i];
  return total;
}

#include "augment_store.h"

// Rows [0, y] of the state have all colour steps: blur along row y, and store the rows whose neighbours are there.
void finish_rows(View& v, int y, int& stored) {
  const int height = v.out.height, channels = v.call->channels;
  const bool blurred = v.params.sigma > 0;
  float* rows = v.state + y * channels * v.stride;
  if (!blurred) {
    store_row(v, rows, y);
    return;
  }
  for (int c = 0; c < channels; ++c) blur_row(v.across, channel_row(v, rows, c), v.out.width, v.wide);
  for (; stored < height && (y == height - 1 || stored + v.down.radius <= y); ++stored) {
    for (int c = 0; c < channels; ++c) {
      float* out = channel_row(v, v.finished, c);
      const float** lines = reinterpret_cast<const float**>(v.wide);
      blur_column(v.down, v.state + c * v.stride, channels * v.stride, height, stored, v.out.width, lines, out);
      if (v.call->uint8)  // to the nearest, ties to even
        for (int64_t x = 0; x < v.out.width; x += LANES) store(out + x, (load(out + x) + ROUND) - ROUND);
    }
    store_row(v, v.finished, stored);
  }
}

void make_view(View& v) {
  const int height = v.out.height, channels = v.call->channels;
  const int64_t row_size = channels * v.stride;
  const bool contrast = v.before < v.steps;
  double sum = 0;
  int stored = 0;
  for (int i = 0; i < height; ++i) {
    const int y = v.params.vflip ? height - 1 - i : i;
    float* rows = v.state + y * row_size;
    if (v.call->uint8) {
      resize_uint8(v, i, rows);
    } else {
      resize_float(v, i, rows);
    }
    jitter_row(v, rows, 0, v.before, 0);
    if (contrast) sum += gray_sum(v, rows);
  }
  const float mean = v.call->uint8 ? (float)sum / (float)((double)height * v.out.width)
                                   : (float)(sum / ((double)height * v.out.width));
  for (int y = 0; y < height; ++y) {
    float* rows = v.state + y * row_size;
    jitter_row(v, rows, v.before, v.steps, mean);
    if (v.params.gray && v.call->uint8) step_row(v, rows, GRAY, 0, true);
    if (v.params.gray && !v.call->uint8) step_row(v, rows, GRAY, 0, false);
    finish_rows(v, y, stored);
  }
}

int64_t max_of(int64_t a, int64_t b) { return a > b ? a : b; }

struct Sizes {
  int64_t height, width, taps_x, taps_y;  // the largest of all views
};

Sizes sizes(const Augment& a) {
  Sizes s = {1, 1, 1, 1};
  for (int v = 0; v < a.views; ++v) {
    const AugmentOutput& o = a.outputs[v];
    s.height = max_of(s.height, o.height), s.width = max_of(s.width, o.width);
    s.taps_x = max_of(s.taps_x, taps_of(a.width, o.width, a.bicubic));
    s.taps_y = max_of(s.taps_y, taps_of(a.height, o.height, a.bicubic));
  }
  return s;
}

// Lay out the memory of a thread; counts it where `scratch` starts at null.
void lay_out(View& v, Scratch& scratch, const Augment& a) {
  const Sizes s = sizes(a);
  const int64_t width = padded(s.width), line = a.width + MARGIN, radius = max_of(s.height, s.width);
  Columns& c = v.columns;
  c.first = scratch.ints(s.width), c.count = scratch.ints(s.width);
  c.weight = scratch.floats(s.taps_x * width), c.integer = scratch.ints(s.taps_x * width);
  c.place = scratch.ints(s.taps_x * width), c.base = scratch.ints(width / LANES);
  Axis& r = v.rows;
  r.first = scratch.ints(s.height), r.count = scratch.ints(s.height);
  r.weight = scratch.floats(s.taps_y * s.height), r.integer = scratch.ints(s.taps_y * s.height);
  v.across.weight = scratch.floats(radius), v.down.weight = scratch.floats(radius);
  v.source_rows = scratch.floats(a.channels * line);
  v.interleaved = scratch.floats(CHANNELS * line);
  v.wide = scratch.floats(max_of(3 * width, max_of(2 * s.taps_y, 4 * (radius + 1))));
  v.finished = scratch.floats(a.channels * width);
  v.ring = scratch.ints(a.uint8 ? s.taps_y * a.channels * width : 0);
  v.state = scratch.floats(s.height * a.channels * width);
}

int64_t workspace(const Augment& a) {
  View v;
  Scratch scratch = {nullptr};
  lay_out(v, scratch, a);
  return scratch.next - (float*)nullptr;
}

SourceImage image_of(const Augment& a, int64_t i) {
  if (a.extents == nullptr)
    return {a.pixels + i * a.image_stride, a.channel_stride, a.row_stride, a.column_stride, a.height, a.width};
  const int64_t* e = a.extents + 3 * i;
  return {a.pixels + e[0], 1, a.channels * e[2], a.channels, (int)e[1], (int)e[2]};
}

void augment_one(View& v, int64_t sample, int view) {
  const Augment& a = *v.call;
  v.image = image_of(a, sample);
  v.params = clamped(a.params[sample * a.views + view], v.image.height, v.image.width);
  v.out = a.outputs[view];
  v.target = element(a.type, v.out.data, sample * v.out.sample);
  v.stride = padded(v.out.width);
  if (v.out.height != v.out.width) v.params.turns &= 2;
  const AugmentParams& p = v.params;

  Axis& columns = v.columns;
  columns.in = p.width, columns.out = v.out.width, columns.taps = taps_of(p.width, v.out.width, a.bicubic);
  columns.output_stride = 1, columns.tap_stride = v.stride;
  v.rows.in = p.height, v.rows.out = v.out.height, v.rows.taps = taps_of(p.height, v.out.height, a.bicubic);
  v.rows.output_stride = v.rows.taps, v.rows.tap_stride = 1;
  if (a.uint8) {
    fill_integer_windows(v.columns, a.bicubic, p.hflip);
    fill_integer_windows(v.rows, a.bicubic, false);
  } else {
    fill_windows(v.columns, a.bicubic, p.hflip, 1.f);
    fill_windows(v.rows, a.bicubic, false, (float)(1.0 / 255));
  }
  fill_places(v.columns);
  v.ring_next = 0;

  v.steps = 4;
  v.before = 4;
  if (jitters(p, CONTRAST))
    for (int i = 0; i < 4; ++i)
      if (p.order[i] == CONTRAST) v.before = i;
  if (p.sigma > 0) {
    fill_blur(v.across, p.sigma, a.blur_kernel, v.out.width);
    fill_blur(v.down, p.sigma, a.blur_kernel, v.out.height);
  }
  make_view(v);
}

// A sample's views one after another, so that its pixels are still near.
void augment(const Augment& a) {
  const int64_t items = a.n * a.views, size = workspace(a);
#pragma omp parallel num_threads(a.threads) if (a.threads > 1)
  {
    View v;
    v.call = &a;
    Scratch scratch = {a.workspace + omp_get_thread_num() * size};
    lay_out(v, scratch, a);
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < items; ++i) augment_one(v, i / a.views, (int)(i % a.views));
  }
}

const AugmentKernels kernels = {augment, workspace};
