// One view made by the blocks of a cluster, each of which holds some of its rows. Its stages, a block each:
//   resize_stage  resize, colour steps up to the contrast, sum of the grey values             -> state
//   [the cluster waits, if there is a contrast]
//   colour_stage  the other colour steps; blur along the rows -> state, or, if no blur, store
//   [the cluster waits, if there is a blur]
//   down_stage    blur down the columns, over the state of the neighbours; store
// Mirrors are in the windows of the resize, rotations in where a pixel is stored. See augment_resize.h for `Block`,
// which besides what is said there gives state(rank) and partial(rank), the memory of any block of the cluster.
#pragma once

#include "augment_resize.h"

namespace fastssl {
namespace {

#define FASTSSL_INLINE FASTSSL_DEVICE
#include "../common/color.h"
#undef FASTSSL_INLINE

struct alignas(16) Quad {
  float v[RUN];
};

struct View {
  Crop crop;
  int height, width, channels;
  int rows, first_row, row_count;  // of a block, and this block's
  bool hflip, vflip, gray;
  unsigned order;  // a nibble a jitter step
  float brightness, contrast, saturation, hue, sigma, threshold;
  int before;                            // jitter steps up to the contrast; 4 where there is none
  char* out;                             // the first pixel of the state
  int out_channel, out_row, out_column;  // strides in elements, rotation included

  FASTSSL_DEVICE bool contrasts() const { return before < 4; }
  FASTSSL_DEVICE bool blurs() const { return sigma > 0; }
  FASTSSL_DEVICE int row_size() const { return channels * row_pitch(width); }
};

// The view that a cluster makes, `cluster` counting from the first of the call, and the rows of block `rank`.
FASTSSL_DEVICE View view_of(const AugmentCall& call, int64_t cluster, int rank) {
  const int64_t sample = cluster / call.count;
  const int view = call.first + (int)(cluster - sample * call.count);
  int g = 0;
  while (view >= call.groups[g].first + call.groups[g].count) ++g;
  const AugmentGroup& group = call.groups[g];

  View v;
  const uint8_t* image = call.pixels;
  int image_height = call.height, image_width = call.width;
  if (call.extents) {
    const int64_t* extent = call.extents + 3 * sample;
    image += extent[0], image_height = (int)extent[1], image_width = (int)extent[2];
    v.crop.channel = 1, v.crop.row = (int64_t)call.channels * image_width, v.crop.column = call.channels;
  } else {
    image += sample * call.image_stride;
    v.crop.channel = call.channel_stride, v.crop.row = call.row_stride, v.crop.column = (int)call.column_stride;
  }
  const AugmentParams p = clamped(call.params[sample * call.views + view], image_height, image_width);
  v.crop.pixels = image + p.top * v.crop.row + (int64_t)p.left * v.crop.column;
  v.crop.height = p.height, v.crop.width = p.width;

  v.height = group.height, v.width = group.width, v.channels = call.channels;
  v.rows = (group.height + call.layout.blocks - 1) / call.layout.blocks;
  v.first_row = min_of(rank * v.rows, v.height);
  v.row_count = min_of(v.rows, v.height - v.first_row);
  v.hflip = p.hflip != 0, v.vflip = p.vflip != 0, v.gray = p.gray != 0 && call.channels == 3;
  v.order = (p.order[0] & 3) | (p.order[1] & 3) << 4 | (p.order[2] & 3) << 8 | (p.order[3] & 3) << 12;
  v.brightness = p.factor[BRIGHTNESS], v.contrast = p.factor[CONTRAST];
  v.saturation = p.factor[SATURATION], v.hue = p.factor[HUE];
  v.sigma = p.sigma, v.threshold = p.threshold;
  v.before = 4;
  for (int i = 0; i < 4; ++i)
    if ((v.order >> 4 * i & 15) == CONTRAST && v.contrast != 1.f) v.before = i;

  const int row = call.channels_last ? group.width * call.channels : group.width;
  const int column = call.channels_last ? call.channels : 1;
  const int last_row = (group.height - 1) * row, last_column = (group.width - 1) * column;
  const int turns = p.turns & (group.height == group.width ? 3 : 2);
  // A quarter turn counter-clockwise takes (y, x) to (width - 1 - x, y).
  int start = 0;
  v.out_row = row, v.out_column = column;
  if (turns == 1) start = last_row, v.out_row = column, v.out_column = -row;
  if (turns == 2) start = last_row + last_column, v.out_row = -row, v.out_column = -column;
  if (turns == 3) start = last_column, v.out_row = -column, v.out_column = row;
  v.out_channel = call.channels_last ? 1 : group.height * group.width;
  v.out = (char*)group.data + (call.type == TYPE_FLOAT32 ? 4 : 2) *
                                  ((view - group.first) * group.view_stride + sample * group.sample_stride + start);
  return v;
}

// The jitter steps [first, end) of the order.
template <bool UINT8>
FASTSSL_DEVICE Pixel jitter(const View& v, Pixel p, int first, int end, float mean) {
  const bool rgb = v.channels == 3;
#pragma unroll 1
  for (int i = first; i < end; ++i) {
    const unsigned step = v.order >> 4 * i & 15;
    if (step == BRIGHTNESS && v.brightness != 1.f) p = brightness(p, v.brightness, UINT8);
    if (step == CONTRAST && v.contrast != 1.f) p = blend(p, mean, v.contrast, UINT8);
    if (step == SATURATION && v.saturation != 1.f && rgb) p = saturation(p, v.saturation, UINT8);
    if (step == HUE && v.hue != 0.f && rgb) p = hue(p, v.hue, UINT8);
  }
  return p;
}

FASTSSL_DEVICE Pixel load_pixel(const View& v, const float* state, int row, int column) {
  const float* at = state + row * v.row_size() + column;
  if (v.channels == 1) return {at[0], 0.f, 0.f};
  return {at[0], at[row_pitch(v.width)], at[2 * row_pitch(v.width)]};
}

template <bool UINT8, class Block>
FASTSSL_DEVICE void resize_stage(Block& block, const AugmentCall& call, const View& v) {
  const AugmentMemory& m = block.memory();
  const auto columns =
      fill_axis<UINT8>(block, m.columns, v.crop.width, v.width, call.bicubic, v.hflip, 0, v.width, 1.f);
  const auto rows = fill_axis<UINT8>(block, m.rows, v.crop.height, v.height, call.bicubic, v.vflip, v.first_row,
                                     v.row_count, (float)(1.0 / 255));
  float* state = block.state();
  const int pitch = row_pitch(v.width);
  const auto emit = [&](int row, int column, const float* sum, bool add, bool last) {
    float* at = state + row * v.row_size() + column;
    Pixel p = {sum[0], sum[1], sum[2]};
    if (add) {
      const Pixel q = load_pixel(v, state, row, column);
      p = {p.r + q.r, p.g + q.g, p.b + q.b};
    }
    if (last) p = jitter<UINT8>(v, p, 0, v.before, 0.f);
    at[0] = p.r;
    if (v.channels == 3) at[pitch] = p.g, at[2 * pitch] = p.b;
  };
  if constexpr (UINT8) {
    resize_uint8(block, v.crop, rows, columns, v.channels, emit);
  } else {
    resize_float(block, v.crop, rows, columns, v.channels, call.layout.buffer, emit);
  }
  if (v.contrasts())
    *m.partial = block.sum(v.row_count, v.width, [&](int row, int column) {
      const Pixel p = load_pixel(v, state, row, column);
      return v.channels == 1 ? p.r : gray_value(p, UINT8);
    });
}

// The mean grey value of the view, added up in the same order by all.
template <bool UINT8, class Block>
FASTSSL_DEVICE float mean_gray(Block& block, const AugmentCall& call, const View& v) {
  if (!v.contrasts()) return 0.f;
  double sum = 0;
#pragma unroll 1
  for (int rank = 0; rank < call.layout.blocks; ++rank) sum += *block.partial(rank);
  const double pixels = (double)v.height * v.width;
  return UINT8 ? (float)sum / (float)pixels : (float)(sum / pixels);
}

template <bool UINT8>
FASTSSL_DEVICE void store(const AugmentCall& call, const View& v, int channel, int row, int column, float x) {
  if (v.threshold < infinity()) x = solarize(x, v.threshold, UINT8);
  if (UINT8) x *= (float)(1.0 / 255.0);
  x = (x - call.mean[channel]) * call.scale[channel];
  const int at = channel * v.out_channel + (v.first_row + row) * v.out_row + column * v.out_column;
  if (call.type == TYPE_FLOAT32) {
    reinterpret_cast<float*>(v.out)[at] = x;
  } else {
    reinterpret_cast<uint16_t*>(v.out)[at] = call.type == TYPE_FLOAT16 ? half_bits(x) : bfloat_bits(x);
  }
}

// A Gaussian along one axis. Weight j of the array is that of the tap j - (RUN - 1) - reach: zeros on either side let a
// thread make RUN neighbouring outputs from the same inputs, and read these RUN at a time.
struct Gaussian {
  int radius, reach;  // reach: the radius, a multiple of RUN
  const float* weights;
};

template <class Block>
FASTSSL_DEVICE Gaussian fill_gaussian(Block& block, float sigma, int kernel, int side, float* weights) {
  const double wide = -floor_of(-5.0 * (double)sigma);  // what lies beyond carries less than 6e-7
  int radius = wide < side - 1 ? (int)wide : side - 1;
  if (kernel > 0) radius = min_of(radius, kernel / 2);
  const Gaussian gaussian = {radius, whole(radius), weights};
  const auto bell = [&](int tap) {
    const float t = (float)tap / sigma;
    return exponential(-0.5f * t * t);
  };
  block.each(1, 2 * gaussian.reach + 2 * RUN, [&](int, int j) {
    const int tap = j - (RUN - 1) - gaussian.reach;
    float weight = 0;
    if (tap >= -radius && tap <= radius) {
      float sum = 0;
      for (int i = radius; i > 0; --i) sum += 2 * bell(i);
      weight = bell(tap) / (sum + 1);
    }
    weights[j] = weight;
  });
  return gaussian;
}

// RUN neighbouring outputs; load(i) gives inputs RUN * i .. RUN * i + RUN - 1, counted from `reach` before the first.
template <class Load>
FASTSSL_DEVICE Quad convolve(const Gaussian& gaussian, Load load) {
  Quad sum = {{0, 0, 0, 0}};
  const Quad* weights = reinterpret_cast<const Quad*>(gaussian.weights);
  Quad low = weights[0];
  for (int i = 0; i < 2 * gaussian.reach / RUN + 1; ++i) {
    const Quad high = weights[i + 1], in = load(i);
#pragma unroll
    for (int k = 0; k < RUN; ++k)
#pragma unroll
      for (int j = 0; j < RUN; ++j) {
        const int at = k - j + RUN - 1;
        sum.v[j] += in.v[k] * (at < RUN ? low.v[at] : high.v[at - RUN]);
      }
    low = high;
  }
  return sum;
}

// Reflected into [0, side). What lies beyond the reflection has no weight.
FASTSSL_DEVICE int reflect(int i, int side) {
  i = i < 0 ? -i : i;
  i = i < side ? i : 2 * (side - 1) - i;
  return min_of(max_of(i, 0), side - 1);
}

template <bool UINT8, class Block>
FASTSSL_DEVICE void colour_stage(Block& block, const AugmentCall& call, const View& v) {
  float* state = block.state();
  const float mean = mean_gray<UINT8>(block, call, v);
  const auto finished = [&](int row, int column) {
    const Pixel p = jitter<UINT8>(v, load_pixel(v, state, row, column), v.before, 4, mean);
    return v.gray ? grayscale(p, UINT8) : p;
  };
  if (!v.blurs()) {
    block.each(v.row_count, v.width, [&](int row, int column) {
      const Pixel p = finished(row, column);
      store<UINT8>(call, v, 0, row, column, p.r);
      if (v.channels == 3) store<UINT8>(call, v, 1, row, column, p.g), store<UINT8>(call, v, 2, row, column, p.b);
    });
    return;
  }
  float* buffer = block.memory().buffer;
  const Gaussian gaussian = fill_gaussian(block, v.sigma, call.blur_kernel, v.width, block.memory().across);
  const int pitch = row_pitch(v.width), length = pitch + 2 * gaussian.reach;
  const int group = max_of(call.layout.buffer / (v.channels * length), 1);
  for (int y = 0; y < v.row_count; y += group) {
    const int rows = min_of(group, v.row_count - y);
    block.each(rows, length, [&](int i, int at) {
      const Pixel p = finished(y + i, reflect(at - gaussian.reach, v.width));
      float* out = buffer + i * v.channels * length + at;
      out[0] = p.r;
      if (v.channels == 3) out[length] = p.g, out[2 * length] = p.b;
    });
    block.each(rows * v.channels, pitch / RUN, [&](int line, int run) {
      const Quad* in = reinterpret_cast<const Quad*>(buffer + line * length) + run;
      reinterpret_cast<Quad*>(state + y * v.row_size() + line * pitch)[run] =
          convolve(gaussian, [&](int i) { return in[i]; });
    });
  }
}

template <bool UINT8, class Block>
FASTSSL_DEVICE void down_stage(Block& block, const AugmentCall& call, const View& v) {
  const AugmentMemory& m = block.memory();
  const Gaussian gaussian = fill_gaussian(block, v.sigma, call.blur_kernel, v.height, m.down);
  const int pitch = row_pitch(v.width);
  block.each(1, whole(v.row_count) + 2 * gaussian.reach, [&](int, int i) {
    const int row = reflect(v.first_row + i - gaussian.reach, v.height), rank = row / v.rows;
    m.lines[i] = block.state(rank) + (row - rank * v.rows) * v.row_size();
  });
  block.each((v.row_count + RUN - 1) / RUN * v.channels, v.width, [&](int item, int column) {
    const int run = v.channels == 3 ? item / 3 : item, channel = item - run * v.channels;
    const float* const* lines = m.lines + RUN * run;
    const int at = channel * pitch + column;
    const Quad sum = convolve(gaussian, [&](int i) {
      Quad in;
      for (int k = 0; k < RUN; ++k) in.v[k] = lines[RUN * i + k][at];
      return in;
    });
    for (int j = 0; j < RUN; ++j)
      if (RUN * run + j < v.row_count)
        store<UINT8>(call, v, channel, RUN * run + j, column, UINT8 ? nearest(sum.v[j]) : sum.v[j]);
  });
}

}  // namespace
}  // namespace fastssl
