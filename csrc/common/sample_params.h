// The draws of one augmented view: a function of (seed, sample id, view) alone, bit for bit the same on every device.
// Distributions of torchvision's RandomResizedCrop, ColorJitter and the rest; float64, nothing fused.
#pragma once

#include "augment_params.h"
#include "draws.h"

namespace fastssl {

// One view of a recipe, in the order of fastssl.functional._recipe.TABLE.
struct ViewRecipe {
  double scale_low, scale_high, log_ratio_low, log_ratio_high, ratio_low, ratio_high;
  double hflip_p, vflip_p, rotate_p, jitter_p;
  double each_p[4];
  double bounds[4][2];
  double gray_p, blur_p, sigma_low, sigma_high, solarize_p, threshold;
};
static_assert(sizeof(ViewRecipe) == 28 * sizeof(double), "a view has 28 numbers");

namespace {

enum { CROP_TRIES = 10, BLOCK_FLIPS = CROP_TRIES, BLOCK_GATES, BLOCK_EACH, BLOCK_FACTORS, BLOCK_REST };

FASTSSL_HD AugmentParams sample_params(const ViewRecipe& recipe, uint64_t seed, int64_t id, uint32_t view,
                                       int64_t image_height, int64_t image_width) {
  const uint32_t low = (uint32_t)id, high = (uint32_t)((uint64_t)id >> 32);
  const double rows = (double)image_height, columns = (double)image_width, area = rows * columns;
  AugmentParams p;

  // Fallback of the crop: the largest central one within the ratios.
  const double image_ratio = exact_div(columns, rows);
  double h = image_ratio < recipe.ratio_low ? round_half_up(exact_div(columns, recipe.ratio_low)) : rows;
  double w = image_ratio > recipe.ratio_high ? round_half_up(exact_mul(rows, recipe.ratio_high)) : columns;
  h = h < rows ? h : rows, w = w < columns ? w : columns;
  double top = floor_of((rows - h) * 0.5), left = floor_of((columns - w) * 0.5);
  for (uint32_t block = 0; block < CROP_TRIES; ++block) {
    const Words u = philox(seed, low, high, view, block);
    const double target = exact_mul(area, between(recipe.scale_low, recipe.scale_high, uniform(u.w[0])));
    const double ratio = exact_exp(between(recipe.log_ratio_low, recipe.log_ratio_high, uniform(u.w[1])));
    const double try_w = round_half_up(exact_sqrt(exact_mul(target, ratio)));
    const double try_h = round_half_up(exact_sqrt(exact_div(target, ratio)));
    if (try_w > 0 && try_w <= columns && try_h > 0 && try_h <= rows) {
      h = try_h, w = try_w;
      top = floor_of(exact_mul(uniform(u.w[2]), rows - h + 1));
      left = floor_of(exact_mul(uniform(u.w[3]), columns - w + 1));
      break;
    }
  }
  p.top = (int32_t)top, p.left = (int32_t)left, p.height = (int32_t)h, p.width = (int32_t)w;

  const Words flips = philox(seed, low, high, view, BLOCK_FLIPS), gates = philox(seed, low, high, view, BLOCK_GATES);
  p.hflip = uniform(flips.w[0]) < recipe.hflip_p;
  p.vflip = uniform(flips.w[1]) < recipe.vflip_p;
  p.turns = uniform(flips.w[2]) < recipe.rotate_p ? (uint8_t)(1 + (int)(uniform(flips.w[3]) * 3)) : 0;
  p.gray = uniform(gates.w[2]) < recipe.gray_p;

  // The permutation of that index in lexical order.
  int index = (int)(((uint64_t)gates.w[1] * 24) >> 32);
  const int digits[4] = {index / 6, index / 2 % 3, index % 2, 0};
  unsigned unused = 0x3210;  // a nibble each, the least first
  for (int i = 0; i < 4; ++i) {
    const int at = 4 * digits[i];
    p.order[i] = (uint8_t)(unused >> at & 15);
    unused = (unused & ((1u << at) - 1)) | (unused >> (at + 4) << at);
  }

  const bool jitter = uniform(gates.w[0]) < recipe.jitter_p;
  const Words each = philox(seed, low, high, view, BLOCK_EACH), factor = philox(seed, low, high, view, BLOCK_FACTORS);
  for (int step = 0; step < 4; ++step) {
    const bool on = jitter && uniform(each.w[step]) < recipe.each_p[step];
    const double drawn = between(recipe.bounds[step][0], recipe.bounds[step][1], uniform(factor.w[step]));
    p.factor[step] = on ? (float)drawn : step == HUE ? 0.f : 1.f;
  }
  const Words rest = philox(seed, low, high, view, BLOCK_REST);
  p.sigma = uniform(gates.w[3]) < recipe.blur_p
                ? (float)between(recipe.sigma_low, recipe.sigma_high, uniform(rest.w[0]))
                : 0.f;
  p.threshold = uniform(rest.w[1]) < recipe.solarize_p ? (float)recipe.threshold : infinity();
  return p;
}

}  // namespace
}  // namespace fastssl
