// Antialiased resize along one axis: which samples weigh on an output, and how much. The arithmetic is PyTorch's own:
// float32 centres for float images (they alone decide 1e-5 of a weight), float64 and integer weights for uint8 ones.
#pragma once

#include "portable.h"

namespace fastssl {
namespace {

struct Window {
  int first, count;
};

template <typename real>
struct ResizeAxis {
  int in, out;
  bool bicubic;
  real scale, inverse, support;
};

template <typename real>
FASTSSL_HD ResizeAxis<real> resize_axis(int in, int out, bool bicubic) {
  ResizeAxis<real> axis = {in, out, bicubic, (real)in / (real)out, 1, 0};
  const real stretch = axis.scale >= 1 ? axis.scale : 1;
  axis.inverse = (real)1 / stretch;
  axis.support = (bicubic ? 2 : 1) * stretch;
  return axis;
}

// No output of the axis has more taps.
template <typename real>
FASTSSL_HD int max_taps(const ResizeAxis<real>& axis) {
  const int taps = 2 * ((int)axis.support + 1) + 1;
  return min_of(taps, axis.in);
}

template <typename real>
FASTSSL_HD real resize_center(const ResizeAxis<real>& axis, int i) {
  return exact_mul(axis.scale, (real)i + (real)0.5);
}

template <typename real>
FASTSSL_HD Window resize_window(const ResizeAxis<real>& axis, int i) {
  const real center = resize_center(axis, i);
  const int first = max_of((int)((double)(real)(center - axis.support) + 0.5), 0);
  const int end = min_of((int)((double)(real)(center + axis.support) + 0.5), axis.in);
  return {first, end - first};
}

template <typename real>
FASTSSL_HD real cubic_weight(real x) {  // Keys, a = -0.5
  const real a = (real)-0.5;
  x = x < 0 ? -x : x;
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}

// Of sample j on output i, before the weights of an output are divided by their sum.
template <typename real>
FASTSSL_HD real resize_weight(const ResizeAxis<real>& axis, int i, int j) {
  const real offset = (real)j - resize_center(axis, i);
  const real x = (offset + (real)0.5) * axis.inverse;
  if (axis.bicubic) return cubic_weight(x);
  const real w = 1 - (x < 0 ? -x : x);
  return w > 0 ? w : 0;
}

// For uint8 images the weights of an axis are integers over 2^bits: as many bits as keep the largest below 2^15.
FASTSSL_HD int weight_bits(double largest) {
  int bits = 0;
  while (bits < 22 && (int)(0.5 + largest * (double)(1 << (bits + 1))) < (1 << 15)) ++bits;
  return bits;
}

FASTSSL_HD int integer_weight(double weight, int bits) {
  return (int)((weight < 0 ? -0.5 : 0.5) + weight * (double)(1 << bits));
}

}  // namespace
}  // namespace fastssl
