// The resize of one view by one block. `Block` gives: each(rows, columns, f), which calls f(row, column) for all of
// them, by all threads, and ends with a barrier; sum and largest of f(row, column); memory(); and on the device it is
// the thread block itself, in the tests a loop on the host.
#pragma once

#include "../common/resize.h"
#include "augment_call.h"
#include "scalars.h"

namespace fastssl {
namespace {

template <bool UINT8>
struct AxisTypes {
  typedef float real, weight;
};
template <>
struct AxisTypes<true> {
  typedef double real;
  typedef int weight;
};

// One axis of a resize: windows and weights of the outputs [begin, begin + outputs), in shared memory.
template <bool UINT8>
struct ViewAxis {
  typedef typename AxisTypes<UINT8>::real real;
  typedef typename AxisTypes<UINT8>::weight Weight;

  ResizeAxis<real> resize;
  AugmentMemory::Axis table;
  int begin, outputs, bits;
  bool mirror, tabulated;
  float factor;

  FASTSSL_DEVICE int first(int i) const { return table.first[i]; }
  FASTSSL_DEVICE int count(int i) const { return table.count[i]; }
  FASTSSL_DEVICE int source(int i) const { return mirror ? resize.out - 1 - (begin + i) : begin + i; }

  FASTSSL_DEVICE real share(int i, int tap) const {
    return resize_weight(resize, source(i), first(i) + tap) / (real)table.sum[i];
  }
  FASTSSL_DEVICE Weight compute(int i, int tap) const {
    if constexpr (UINT8) {
      return integer_weight(share(i, tap), bits);
    } else {
      return share(i, tap) * factor;
    }
  }
  // Of sample first + tap on output i. Only a strong reduction has so many taps that the table does not hold them.
  FASTSSL_DEVICE Weight weight(int i, int tap) const {
    return tabulated ? reinterpret_cast<const Weight*>(table.weight)[tap * outputs + i] : compute(i, tap);
  }
};

// Float weights are multiplied by `factor`.
template <bool UINT8, class Block>
FASTSSL_DEVICE ViewAxis<UINT8> fill_axis(Block& block, const AugmentMemory::Axis& table, int in, int out, bool bicubic,
                                         bool mirror, int begin, int outputs, float factor) {
  typedef ViewAxis<UINT8> Axis;
  typedef typename Axis::real real;
  typedef typename Axis::Weight Weight;
  const ResizeAxis<real> resize = resize_axis<real>(in, out, bicubic);
  Axis axis = {resize, table, begin, outputs, 0, mirror, max_taps(resize) <= TABLE_TAPS, factor};
  if constexpr (UINT8) {  // the largest weight of the whole axis decides the bits of all
    axis.bits = weight_bits(block.largest(1, out, [&](int, int i) {
      const Window window = resize_window(resize, i);
      double sum = 0, most = 0;
      for (int t = 0; t < window.count; ++t) {
        const double w = resize_weight(resize, i, window.first + t);
        sum += w, most = w > most ? w : most;
      }
      return most / sum;
    }));
  }
  block.each(1, outputs, [&](int, int i) {
    const Window window = resize_window(resize, axis.source(i));
    real sum = 0;
    for (int t = 0; t < window.count; ++t) sum += resize_weight(resize, axis.source(i), window.first + t);
    table.sum[i] = sum, table.first[i] = window.first, table.count[i] = window.count;
    for (int t = 0; axis.tabulated && t < window.count; ++t)
      reinterpret_cast<Weight*>(table.weight)[t * outputs + i] = axis.compute(i, t);
  });
  return axis;
}

// The crop: bytes of a row are contiguous, planar (column 1) or interleaved (channel 1, column `channels`).
struct Crop {
  const uint8_t* pixels;
  int64_t channel, row;
  int column, height, width;
};

FASTSSL_DEVICE unsigned load_word(const uint8_t* p) { return *reinterpret_cast<const unsigned*>(p); }

// Float images. Rows first: a group of the block's rows is weighed into the buffer, bytes in the order in which they
// lie, four at a time; then the columns. A row longer than the buffer goes in pieces, which add up in `state`.
// `emit(row, column, sums, last)` takes the sums of the channels, complete or not.
template <class Block, class Emit>
FASTSSL_DEVICE void resize_float(Block& block, const Crop& crop, const ViewAxis<false>& rows,
                                 const ViewAxis<false>& columns, int channels, int capacity, Emit emit) {
  float* buffer = block.memory().buffer;
  const bool planar = crop.column == 1;
  const int planes = planar ? channels : 1;
  const int piece = min_of(crop.width, (capacity / channels - 2 * RUN) / RUN * RUN);
  const int pitch = whole(piece * crop.column + 3);  // floats of a row of the buffer
  const int group = max_of(capacity / (pitch * planes), 1);
  // Words can be read where all rows are aligned alike.
  const bool aligned = crop.row % 4 == 0 && (planes == 1 || crop.channel % 4 == 0);
  const int shift = aligned ? (int)(reinterpret_cast<uint64_t>(crop.pixels) & 3) : 0;
  for (int y = 0; y < rows.outputs; y += group)
    for (int x = 0; x < crop.width; x += piece) {
      const int height = min_of(group, rows.outputs - y), length = min_of(piece, crop.width - x) * crop.column;
      block.each(height * planes, (length + shift + 3) / 4, [&](int line, int quad) {
        const int i = planes == 1 ? line : line / 3, plane = line - i * planes, at = 4 * quad - shift;
        const int first = rows.first(y + i), taps = rows.count(y + i);
        const uint8_t* source =
            crop.pixels + (int64_t)first * crop.row + plane * crop.channel + (int64_t)x * crop.column + at;
        float sum[4] = {0, 0, 0, 0};
        if (aligned && at >= 0 && at + 4 <= length) {
          for (int t = 0; t < taps; ++t, source += crop.row) {
            const unsigned word = load_word(source);
            const float weight = rows.weight(y + i, t);
            for (int k = 0; k < 4; ++k) sum[k] += (float)(word >> 8 * k & 255) * weight;
          }
        } else {
          for (int t = 0; t < taps; ++t, source += crop.row) {
            const float weight = rows.weight(y + i, t);
            for (int k = 0; k < 4; ++k)
              if (at + k >= 0 && at + k < length) sum[k] += (float)source[k] * weight;
          }
        }
        float* out = buffer + line * pitch + 4 * quad;
        for (int k = 0; k < 4; ++k) out[k] = sum[k];
      });
      const int channel_step = planar ? pitch : 1, row_step = planes * pitch;
      block.each(height, columns.outputs, [&](int i, int column) {
        const int first = columns.first(column), begin = max_of(first, x);
        const int end = min_of(first + columns.count(column), min_of(x + piece, crop.width));
        const float* in = buffer + i * row_step + shift + (begin - x) * crop.column;
        float sum[3] = {0, 0, 0};
        for (int j = begin; j < end; ++j, in += crop.column) {
          const float weight = columns.weight(column, j - first);
          sum[0] += in[0] * weight;
          if (channels == 3) sum[1] += in[channel_step] * weight, sum[2] += in[2 * channel_step] * weight;
        }
        emit(y + i, column, sum, x > 0, x + piece >= crop.width);
      });
    }
}

FASTSSL_DEVICE int settled(int sum, int bits) { return min_of(max_of(sum >> bits, 0), 255); }

// uint8 images, as PyTorch does it: integers, columns first, rounded to bytes between the passes.
template <class Block, class Emit>
FASTSSL_DEVICE void resize_uint8(Block& block, const Crop& crop, const ViewAxis<true>& rows,
                                 const ViewAxis<true>& columns, int channels, Emit emit) {
  block.each(rows.outputs, columns.outputs, [&](int i, int column) {
    const int taps = columns.count(column), half = 1 << (columns.bits - 1), half_row = 1 << (rows.bits - 1);
    int sum[3] = {half_row, half_row, half_row};
    const uint8_t* line =
        crop.pixels + (int64_t)rows.first(i) * crop.row + (int64_t)columns.first(column) * crop.column;
    for (int s = 0; s < rows.count(i); ++s, line += crop.row) {
      int across[3] = {half, half, half};
      const uint8_t* in = line;
      for (int t = 0; t < taps; ++t, in += crop.column) {
        const int weight = columns.weight(column, t);
        across[0] += in[0] * weight;
        if (channels == 3) across[1] += in[crop.channel] * weight, across[2] += in[2 * crop.channel] * weight;
      }
      const int weight = rows.weight(i, s);
      for (int c = 0; c < 3; ++c) sum[c] += settled(across[c], columns.bits) * weight;
    }
    float value[3];
    for (int c = 0; c < 3; ++c) value[c] = (float)settled(sum[c], rows.bits);
    emit(i, column, value, false, true);
  });
}

}  // namespace
}  // namespace fastssl
