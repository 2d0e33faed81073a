// The draws of masks and of grids of patches: functions of (seed, sample id, view) alone, bit for bit the same on every
// device.
#pragma once

#include "draws.h"

namespace fastssl {

// Who draws, and where a block of Philox words of a purpose comes from.
struct Draw {
  uint64_t seed;
  int64_t id;
  uint32_t view;
};

struct Box {
  int32_t start, top, left, frames, height, width;
};

// A grid of rows x columns patches of height x width.
struct PatchGrid {
  int64_t image_height, image_width;
  int32_t rows, columns, height, width;
  int64_t gap, jitter;
};

struct PatchPlace {
  int64_t top, left;
  uint32_t gate;  // below which the patch keeps one channel
  int64_t kept;   // channel
};

namespace {

enum { PURPOSE_RANDOM = 64, PURPOSE_MULTIBLOCK, PURPOSE_BLOCKWISE, PURPOSE_TEXT, PURPOSE_PATCHES, PURPOSE_NOISE };
enum { BLOCKWISE_ATTEMPTS = 256, BLOCKWISE_FAILURES = 10 };

FASTSSL_HD Words words_of(const Draw& d, uint32_t purpose, uint32_t block) {
  return philox(d.seed, (uint32_t)d.id, (uint32_t)((uint64_t)d.id >> 32), d.view, purpose + 256 * block);
}

FASTSSL_HD int32_t clamp_of(double x, int32_t low, int32_t high) {
  return x < low ? low : x > high ? high : (int32_t)x;
}

// Uniform over the places of a part in a whole.
FASTSSL_HD int32_t place_of(uint32_t word, int32_t whole, int32_t part) {
  return (int32_t)floor_of(exact_mul(uniform(word), (double)(whole - part + 1)));
}

// Uniform over `count` cases.
FASTSSL_HD int64_t case_of(uint32_t word, int64_t count) { return (int64_t)(word * (uint64_t)count >> 32); }

// Where the grid's origin moves a cell, and the patch in it.
FASTSSL_HD int64_t corner_of(uint32_t origin, uint32_t move, int64_t cell, int64_t cells, int64_t side, int64_t whole,
                             const PatchGrid& g) {
  const int64_t slack = whole - cells * (side + g.gap) + g.gap - 2 * g.jitter;
  return cell * (side + g.gap) + case_of(origin, slack + 1) + case_of(move, 2 * g.jitter + 1);
}

FASTSSL_HD PatchPlace patch_place(const Draw& d, const PatchGrid& g, uint32_t patch, int64_t channels) {
  const Words origin = words_of(d, PURPOSE_PATCHES, 0), move = words_of(d, PURPOSE_PATCHES, patch + 1);
  const int64_t row = patch / (uint32_t)g.columns, column = patch % (uint32_t)g.columns;
  return {corner_of(origin.w[0], move.w[0], row, g.rows, g.height, g.image_height, g),
          corner_of(origin.w[1], move.w[1], column, g.columns, g.width, g.image_width, g), move.w[2],
          case_of(move.w[3], channels)};
}

// `table`: low and high of the scale, the aspect ratio and the temporal scale.
FASTSSL_HD Box multiblock(const Draw& d, uint32_t block, const double* table, bool shared_size, int32_t frames,
                          int32_t height, int32_t width) {
  const Draw everyone = {d.seed, -1, d.view};
  const Words size =
      shared_size ? words_of(everyone, PURPOSE_MULTIBLOCK, 0) : words_of(d, PURPOSE_MULTIBLOCK, 2 * block);
  const double tokens = (double)height * width;
  const double area = floor_of(exact_mul(tokens, between(table[0], table[1], uniform(size.w[0]))));
  const double ratio = between(table[2], table[3], uniform(size.w[1]));
  Box b;
  b.height = clamp_of(round_half_up(exact_sqrt(exact_mul(area, ratio))), 1, height);
  b.width = clamp_of(round_half_up(exact_sqrt(exact_div(area, ratio))), 1, width);
  b.frames = clamp_of(floor_of(exact_mul((double)frames, between(table[4], table[5], uniform(size.w[2])))), 1, frames);
  const Words place = words_of(d, PURPOSE_MULTIBLOCK, 2 * block + 1);
  b.top = place_of(place.w[0], height, b.height);
  b.left = place_of(place.w[1], width, b.width);
  b.start = place_of(place.w[2], frames, b.frames);
  return b;
}

// The rectangle of one attempt; of height 0 if it does not lie in the grid.
FASTSSL_HD Box blockwise(const Draw& d, uint32_t attempt, int32_t least, int32_t room, double log_low, double log_high,
                         int32_t height, int32_t width) {
  const Words w = words_of(d, PURPOSE_BLOCKWISE, attempt);
  const double area = between((double)least, (double)room, uniform(w.w[0]));
  const double ratio = exact_exp(between(log_low, log_high, uniform(w.w[1])));
  const double h = round_half_up(exact_sqrt(exact_mul(area, ratio)));
  const double v = round_half_up(exact_sqrt(exact_div(area, ratio)));
  Box b = {0, 0, 0, 1, 0, 0};
  // A grid of one row or column has no smaller side.
  if (h >= 1 && h <= max_of(1, height - 1) && v >= 1 && v <= max_of(1, width - 1)) {
    b.height = (int32_t)h, b.width = (int32_t)v;
    b.top = place_of(w.w[2], height, b.height);
    b.left = place_of(w.w[3], width, b.width);
  }
  return b;
}

}  // namespace
}  // namespace fastssl
