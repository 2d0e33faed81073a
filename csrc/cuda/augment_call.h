// One launch of the augmentation kernel: what it is told, by value, and how it lies on the chip. No torch, no CUDA API.
#pragma once

#include "../common/augment_params.h"
#include "../common/portable.h"

namespace fastssl {

// Views of one size, which follow one another; strides in elements.
struct AugmentGroup {
  void* data;
  int height, width;
  int first, count;  // views
  int64_t view_stride, sample_stride;
};

enum { MAX_GROUPS = 24 };

// How the blocks of a cluster share a view. Sizes are the largest of all views of a launch.
struct AugmentLayout {
  int blocks;                              // of a cluster
  int rows;                                // of a view in one block
  int columns;                             // of a view
  int across, down, lines, buffer, state;  // elements of these parts of AugmentMemory
  bool on_chip;                            // or the state is in global memory
};

struct AugmentCall {
  const uint8_t* pixels;
  const int64_t* extents;  // [n, 3] offset, height, width; or null, and then these strides, in bytes:
  int64_t image_stride, channel_stride, row_stride, column_stride;
  int height, width;            // of every image, where there are no extents
  const AugmentParams* params;  // [n, views]
  int64_t n;
  int views, channels;
  int first, count;  // the views of this launch
  AugmentGroup groups[MAX_GROUPS];
  int group_count;
  bool bicubic, uint8, channels_last;
  int blur_kernel;  // taps along an axis, 0 for as many as the Gaussian needs
  float mean[3], scale[3];
  ElementType type;
  AugmentLayout layout;
  float* workspace;       // the state, where it is not on the chip: [clusters of a launch, blocks, layout.state]
  int64_t first_cluster;  // which of the n * count views is the first of this launch
};
static_assert(sizeof(AugmentCall) <= 4096, "kernel parameters");

enum {
  TABLE_TAPS = 12,      // weights of an output of a resize that has no more are kept in a table
  RUN = 4,              // outputs of a blur that a thread makes at once
  LEAST_BUFFER = 4096,  // floats: several rows of a source or of a view at a time
  MOST_BYTES = 232448,  // of shared memory in a block
  HALF_BYTES = 115712,  // in each of two blocks that share a multiprocessor
  MOST_BLOCKS = 8,      // of a cluster, on every device that has clusters
  REDUCTION = 32,       // warps of a block at most
  // Views at a time where the state is in global memory, which bounds it.
  WORKSPACE_CLUSTERS = 32
};

// Shared memory of a block.
struct AugmentMemory {
  struct Axis {
    double* sum;         // of the weights of an output
    int *first, *count;  // its window
    float* weight;       // [TABLE_TAPS, outputs], float or int
  } columns, rows;
  double *partial, *reduction;
  const float** lines;   // where the rows are that the second pass of a blur reads
  float *across, *down;  // weights of the two passes
  float* buffer;
  float* state;  // [rows, channels, row_pitch]
};

namespace {

FASTSSL_HD int whole(int x) { return (x + RUN - 1) / RUN * RUN; }

// Floats from a row of one channel to the next.
FASTSSL_HD int row_pitch(int width) { return whole(width); }

// Have `taker.take<T>(count)` give every part of a block's memory.
template <class Taker>
FASTSSL_HD void take_memory(AugmentMemory& m, Taker& taker, const AugmentLayout& l) {
  m.buffer = taker.template take<float>(l.buffer);
  m.state = taker.template take<float>(l.on_chip ? l.state : 0);
  m.across = taker.template take<float>(l.across);
  m.down = taker.template take<float>(l.down);
  AugmentMemory::Axis* axes[2] = {&m.columns, &m.rows};
  for (int i = 0; i < 2; ++i) {
    const int outputs = i ? l.rows : l.columns;
    axes[i]->sum = taker.template take<double>(outputs);
    axes[i]->first = taker.template take<int>(outputs);
    axes[i]->count = taker.template take<int>(outputs);
    axes[i]->weight = taker.template take<float>(outputs * TABLE_TAPS);
  }
  m.partial = taker.template take<double>(1);
  m.reduction = taker.template take<double>(REDUCTION);
  m.lines = taker.template take<const float*>(l.lines);
}

struct CountBytes {
  int64_t bytes;
  template <class T>
  FASTSSL_HD T* take(int64_t count) {
    bytes += (count * (int64_t)sizeof(T) + 15) / 16 * 16;
    return nullptr;
  }
};

inline int64_t shared_bytes(const AugmentLayout& layout) {
  AugmentMemory memory;
  CountBytes count = {0};
  take_memory(memory, count, layout);
  return count.bytes;
}

inline AugmentLayout layout_of(const AugmentCall& call, int blocks, bool on_chip) {
  AugmentLayout l = {};
  l.blocks = blocks, l.on_chip = on_chip;
  int tallest = 1;
  for (int g = 0; g < call.group_count; ++g) {
    const int height = call.groups[g].height, width = call.groups[g].width;
    const int rows = (height + blocks - 1) / blocks;
    tallest = max_of(tallest, height);
    l.rows = max_of(l.rows, rows), l.columns = max_of(l.columns, width);
    l.state = max_of(l.state, rows * call.channels * row_pitch(width));
  }
  // A radius is less than a side; the second pass reads whole runs of rows.
  l.across = 2 * whole(l.columns) + 2 * RUN, l.down = 2 * whole(tallest) + 2 * RUN;
  l.lines = whole(l.rows) + 2 * whole(tallest);
  l.buffer = max_of(LEAST_BUFFER, call.channels * 3 * whole(l.columns));
  return l;
}

// The fewest blocks of which two fit on a multiprocessor, so that one works while the other waits at a barrier; else
// the most blocks; else the state is in global memory.
inline AugmentLayout choose_layout(const AugmentCall& call) {
  for (int blocks = 1; blocks <= MOST_BLOCKS; blocks *= 2) {
    const AugmentLayout layout = layout_of(call, blocks, true);
    if (shared_bytes(layout) <= HALF_BYTES) return layout;
  }
  const AugmentLayout layout = layout_of(call, MOST_BLOCKS, true);
  return shared_bytes(layout) <= MOST_BYTES ? layout : layout_of(call, MOST_BLOCKS, false);
}

}  // namespace
}  // namespace fastssl
