// The parameters of one sample in one view: 48 bytes, the record of fastssl.functional.AugmentParams.
#pragma once

#include "portable.h"

namespace fastssl {

enum JitterStep { BRIGHTNESS, CONTRAST, SATURATION, HUE };

struct AugmentParams {
  int32_t top, left, height, width;  // crop, in pixels of the image
  uint8_t hflip, vflip, turns, gray;
  uint8_t order[4];  // of the jitter steps
  float factor[4];   // by JitterStep; neutral 1, 1, 1, 0
  float sigma;       // of the blur in pixels of the view; neutral 0
  float threshold;   // of solarize, 1 being white; neutral inf
};
static_assert(sizeof(AugmentParams) == 48, "the record has 12 words");

namespace {

FASTSSL_HD bool jitters(const AugmentParams& p, int step) { return p.factor[step] != (step == HUE ? 0.f : 1.f); }

// A crop of at least one pixel inside an image: what a kernel that cannot refuse parameters makes of them.
FASTSSL_HD AugmentParams clamped(AugmentParams p, int image_height, int image_width) {
  p.height = min_of(max_of(p.height, 1), image_height);
  p.width = min_of(max_of(p.width, 1), image_width);
  p.top = min_of(max_of(p.top, 0), image_height - p.height);
  p.left = min_of(max_of(p.left, 0), image_width - p.width);
  return p;
}

}  // namespace
}  // namespace fastssl
