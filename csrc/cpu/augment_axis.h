// The two axes of a resize: windows and weights, scalar code that is compiled once, for the baseline.
#pragma once

#include "../common/resize.h"

namespace fastssl {
namespace {

// The outputs of one axis: a window of samples each, and its weights, taps apart by `tap_stride`.
struct Axis {
  int in, out, taps;  // taps: room for them
  int most;           // the largest count
  int64_t output_stride, tap_stride;
  int* first;     // [out]
  int* count;     // [out]
  float* weight;  // [out, taps] in those strides, 0 beyond the window's count
  int* integer;   // the same for uint8 images, over 2^bits
  int bits;
};

int taps_of(int in, int out, bool bicubic) { return max_taps(resize_axis<double>(in, out, bicubic)); }

// A mirrored axis gives its outputs in reverse. Weights are multiplied by `factor`.
void fill_windows(Axis& axis, bool bicubic, bool mirror, float factor) {
  const ResizeAxis<float> resize = resize_axis<float>(axis.in, axis.out, bicubic);
  axis.most = 0;
  for (int i = 0; i < axis.out; ++i) {
    const int output = mirror ? axis.out - 1 - i : i;
    const Window window = resize_window(resize, output);
    float* w = axis.weight + i * axis.output_stride;
    float sum = 0;
    for (int t = 0; t < window.count; ++t)
      sum += w[t * axis.tap_stride] = resize_weight(resize, output, window.first + t);
    const float scale = factor / sum;
    for (int t = 0; t < window.count; ++t) w[t * axis.tap_stride] *= scale;
    for (int t = window.count; t < axis.taps; ++t) w[t * axis.tap_stride] = 0;
    axis.first[i] = window.first, axis.count[i] = window.count;
    axis.most = max_of(axis.most, window.count);
  }
}

void fill_integer_windows(Axis& axis, bool bicubic, bool mirror) {
  const ResizeAxis<double> resize = resize_axis<double>(axis.in, axis.out, bicubic);
  double largest = 0;
  axis.most = 0;
  for (int round = 0; round < 2; ++round) {  // the largest weight decides the bits of all
    axis.bits = weight_bits(largest);
    for (int i = 0; i < axis.out; ++i) {
      const int output = mirror ? axis.out - 1 - i : i;
      const Window window = resize_window(resize, output);
      double sum = 0;
      for (int t = 0; t < window.count; ++t) sum += resize_weight(resize, output, window.first + t);
      for (int t = 0; t < axis.taps; ++t) {
        const double w = t < window.count ? resize_weight(resize, output, window.first + t) / sum : 0;
        largest = w > largest ? w : largest;
        axis.integer[i * axis.output_stride + t * axis.tap_stride] = integer_weight(w, axis.bits);
      }
      axis.first[i] = window.first, axis.count[i] = window.count;
      axis.most = max_of(axis.most, window.count);
    }
  }
}

}  // namespace
}  // namespace fastssl
