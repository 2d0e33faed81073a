// The augmentation kernel: a cluster of thread blocks makes a view. Needs compute capability 9.0.
#pragma once

#include "augment_view.h"

namespace fastssl {
namespace {

enum { MOST_THREADS = 384 };

FASTSSL_DEVICE int cluster_rank() {
  int rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

// All writes before it are seen by the whole cluster after it.
FASTSSL_DEVICE void cluster_wait() {
  asm volatile("barrier.cluster.arrive.release.aligned;\n\tbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// The place in the shared memory of another block of the cluster that `p` is in this one's.
template <class T>
FASTSSL_DEVICE T* at_rank(T* p, int rank) {
  uint64_t there;
  asm("mapa.u64 %0, %1, %2;" : "=l"(there) : "l"(p), "r"(rank));
  return reinterpret_cast<T*>(there);
}

struct TakeShared {
  char* next;
  template <class T>
  FASTSSL_HD T* take(int count) {
    T* part = reinterpret_cast<T*>(next);
    next += (count * (int)sizeof(T) + 15) / 16 * 16;
    return part;
  }
};

template <bool ON_CHIP>
class DeviceBlock {
 public:
  FASTSSL_DEVICE DeviceBlock(const AugmentCall& call, char* shared, int64_t cluster, int rank) {
    TakeShared taker = {shared};
    take_memory(memory_, taker, call.layout);
    workspace_ = call.workspace + cluster * call.layout.blocks * call.layout.state;
    size_ = call.layout.state, rank_ = rank;
  }

  FASTSSL_DEVICE const AugmentMemory& memory() const { return memory_; }
  FASTSSL_DEVICE const double* partial(int rank) const { return at_rank(memory_.partial, rank); }
  FASTSSL_DEVICE float* state() const { return ON_CHIP ? memory_.state : workspace_ + (int64_t)rank_ * size_; }
  FASTSSL_DEVICE float* state(int rank) const {
    return ON_CHIP ? at_rank(memory_.state, rank) : workspace_ + (int64_t)rank * size_;
  }

  template <class F>
  FASTSSL_DEVICE void each(int rows, int columns, F f) {
    visit(rows, columns, f);
    __syncthreads();
  }

  template <class F>
  FASTSSL_DEVICE double sum(int rows, int columns, F f) {
    double mine = 0;
    visit(rows, columns, [&](int row, int column) { mine += f(row, column); });
    return reduce(mine, [](double a, double b) { return a + b; });
  }

  template <class F>
  FASTSSL_DEVICE double largest(int rows, int columns, F f) {
    double mine = 0;
    visit(rows, columns, [&](int row, int column) { mine = fmax(mine, f(row, column)); });
    return reduce(mine, [](double a, double b) { return fmax(a, b); });
  }

 private:
  // All places of a grid, with no division but the first.
  template <class F>
  FASTSSL_DEVICE void visit(int rows, int columns, F f) {
    const int threads = blockDim.x, step = threads / columns, rest = threads - step * columns;
    int row = threadIdx.x / columns, column = threadIdx.x - row * columns;
#pragma unroll 1
    while (row < rows) {
      f(row, column);
      row += step, column += rest;
      if (column >= columns) column -= columns, ++row;
    }
  }

  template <class Op>
  FASTSSL_DEVICE double reduce(double mine, Op op) {
    for (int lanes = 16; lanes > 0; lanes /= 2) mine = op(mine, __shfl_xor_sync(~0u, mine, lanes));
    if (threadIdx.x % 32 == 0) memory_.reduction[threadIdx.x / 32] = mine;
    __syncthreads();
    double all = 0;
    for (int warp = 0; warp < blockDim.x / 32; ++warp) all = op(all, memory_.reduction[warp]);
    __syncthreads();
    return all;
  }

  AugmentMemory memory_;
  float* workspace_;
  int size_, rank_;
};

}  // namespace

template <bool UINT8, bool ON_CHIP>
__global__ void __launch_bounds__(MOST_THREADS, 2) augment_kernel(const __grid_constant__ AugmentCall call) {
  extern __shared__ __align__(16) char shared[];
  const int rank = cluster_rank();
  const int64_t cluster = blockIdx.x / call.layout.blocks;
  const View v = view_of(call, call.first_cluster + cluster, rank);
  DeviceBlock<ON_CHIP> block(call, shared, cluster, rank);
  resize_stage<UINT8>(block, call, v);
  if (v.contrasts()) cluster_wait();
  colour_stage<UINT8>(block, call, v);
  if (v.blurs()) {
    cluster_wait();
    down_stage<UINT8>(block, call, v);
  }
  // No block may end while another still reads its memory.
  if (v.contrasts() || v.blurs()) cluster_wait();
}

}  // namespace fastssl
