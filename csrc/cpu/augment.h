// Augmentation on the CPU: torch-free kernels over raw pointers. One view a thread; the maths is in augment_view.h.
#pragma once

#include <cstdint>

#include "../common/augment_params.h"

namespace fastssl {

// One image of a batch. Pixels are planar (column 1) or interleaved (channel 1, column `channels`).
struct SourceImage {
  const uint8_t* pixels;
  int64_t channel, row, column;  // strides in bytes
  int height, width;
};

// Where one view of all samples goes; strides in elements.
struct AugmentOutput {
  void* data;
  int height, width;
  int64_t sample, channel, row, column;
};

struct Augment {
  int64_t n;
  int channels;
  const uint8_t* pixels;
  const int64_t* extents;  // [n, 3] offset, height, width; or null, and then:
  int64_t image_stride, channel_stride, row_stride, column_stride;
  int height, width;            // of every image, or the largest of the extents
  const AugmentParams* params;  // [n, views]
  int views;
  const AugmentOutput* outputs;  // [views]
  bool bicubic, uint8;
  int blur_kernel;  // taps along an axis, 0 for as many as the Gaussian needs
  float mean[3], std[3];
  ElementType type;
  int threads;
  float* workspace;  // [threads * augment_workspace]
};

struct AugmentKernels {
  void (*augment)(const Augment&);
  int64_t (*workspace)(const Augment&);  // floats a thread
};

// `capability` is what at::get_cpu_capability() says: "AVX512", "AVX2" or anything else for the baseline.
const AugmentKernels& augment_kernels(const char* capability);

}  // namespace fastssl
