// Images as patches on the CPU.
#pragma once

#include "tokens.h"

namespace fastssl {

// Images [n, channels, frames, height, width], cut into patches of frames x height x width; strides in elements.
struct Patches {
  const void* images;
  ElementType type;
  int64_t sample, channel, frame, row, column;  // strides
  int channels;
  int frames, height, width;  // of a patch
  int grid_frames, grid_height, grid_width;
  bool channels_last;  // elements of a patch are (t, p, q, c), else (c, t, p, q)
  bool plain;          // the values are taken as they are
  const float* scale;  // [size] in the order of the elements, as the shift
  const float* shift;

  int64_t size() const { return (int64_t)channels * frames * height * width; }
  int64_t tokens() const { return (int64_t)grid_frames * grid_height * grid_width; }
};

}  // namespace fastssl
