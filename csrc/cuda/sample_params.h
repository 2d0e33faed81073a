// Draws the parameters of augmented views; torch-free.
#pragma once

#include "../common/sample_params.h"

namespace fastssl {

enum { MOST_RECIPES = 16 };

// One launch: views [first, first + count) of n samples.
struct SampleParamsCall {
  const int64_t* seed;  // on the device; or null, and then this one
  int64_t host_seed;
  const int64_t *ids, *heights, *widths;  // [n]; strides in elements
  int64_t heights_stride, widths_stride, n;
  int first, count, views;
  ViewRecipe recipes[MOST_RECIPES];  // of the views from `first` on
  AugmentParams* params;             // [n, views]
};
static_assert(sizeof(SampleParamsCall) <= 4096, "kernel parameters");

namespace {

// Item i of n * count.
FASTSSL_HD void draw_params(const SampleParamsCall& call, int64_t i) {
  const int64_t sample = i / call.count;
  const int view = (int)(i - sample * call.count);
  const int64_t seed = call.seed ? *call.seed : call.host_seed;
  call.params[sample * call.views + call.first + view] =
      sample_params(call.recipes[view], (uint64_t)seed, call.ids[sample], (uint32_t)(call.first + view),
                    call.heights[sample * call.heights_stride], call.widths[sample * call.widths_stride]);
}

}  // namespace
}  // namespace fastssl
