// What a SimCLR view should cost: 224 x 224 x 3, bicubic, cut from a photograph of 500 x 375, with the recipe's
// probabilities. Multiply-adds are counted from the code, instructions estimated. Nothing of it has been measured: the
// kernel has been compiled and its stages run on a host, but it has not run on a GPU.
//
//   bytes   crop 0.30 MB, view 0.30 MB in bfloat16 or 0.60 MB in float32: 0.13 to 0.19 us at 4.8 TB/s
//   chip    8 blocks of 28 rows, 115504 bytes each, two to a multiprocessor: at most 33 views at a time on 132 of them
//   resize  rows 224 x 954 bytes x 5.7 taps = 1.2 M, columns 150 K values x 5.7 taps = 0.86 M multiply-adds
//   colour  50 K pixels x about 70 instructions where all steps fire, of which hue is 45: 2.8 M
//   blur    2 x 150 K values x 19 taps, in half of the views: 2.8 M multiply-adds. A thread makes 4 neighbours at once:
//           an input is loaded once for all of them. 0.5 MB of a blurred view come from other blocks' shared memory.
//   all     with loads, conversions, addresses and stores about 18 M instructions of threads, or 0.56 M of warps, and
//           0.13 M passes of shared memory
//
// 132 multiprocessors at 1.75 GHz issue 924 G warp instructions a second at best: 0.6 us a view; their shared memories
// take as long. So instructions and shared memory should bind it, not the device's memory. With 24 warps and some
// dozens of barriers it will hardly issue at more than half the rate: 0.8 M views a second is what to expect of an
// H200, 1.6 M the most.
#include "augment_kernel.h"
#include "launch.h"

namespace fastssl {
namespace {

typedef void (*Kernel)(AugmentCall);

Kernel kernel_of(const AugmentCall& call) {
  if (call.layout.on_chip) return call.uint8 ? augment_kernel<true, true> : augment_kernel<false, true>;
  return call.uint8 ? augment_kernel<true, false> : augment_kernel<false, false>;
}

int64_t clusters_of(const AugmentCall& call) { return call.n * call.count; }

}  // namespace

bool augment_plan(AugmentCall& call) {
  call.layout = choose_layout(call);
  return shared_bytes(call.layout) <= MOST_BYTES;
}

int64_t augment_workspace(const AugmentCall& call) {
  const int64_t clusters = clusters_of(call);
  if (call.layout.on_chip) return 0;
  return (clusters < WORKSPACE_CLUSTERS ? clusters : WORKSPACE_CLUSTERS) * call.layout.blocks * call.layout.state;
}

cudaError_t augment(const AugmentCall& whole_call, cudaStream_t stream) {
  AugmentCall call = whole_call;
  const Kernel kernel = kernel_of(call);
  const int64_t bytes = shared_bytes(call.layout), clusters = clusters_of(call);
  const cudaError_t error =
      cudaFuncSetAttribute((const void*)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
  if (error != cudaSuccess) return error;

  cudaLaunchAttribute cluster;
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = call.layout.blocks, cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
  cudaLaunchConfig_t config = {};
  config.blockDim = dim3(call.layout.rows * call.layout.columns > 2048 ? MOST_THREADS : MOST_THREADS / 2);
  config.dynamicSmemBytes = bytes;
  config.stream = stream;
  config.attrs = &cluster, config.numAttrs = 1;
  // A grid has at most 2^31 - 1 blocks.
  const int64_t most = call.layout.on_chip ? 1 << 24 : WORKSPACE_CLUSTERS;
  for (int64_t first = 0; first < clusters; first += most) {
    call.first_cluster = first;
    config.gridDim = dim3((unsigned)((clusters - first < most ? clusters - first : most) * call.layout.blocks));
    const cudaError_t launched = cudaLaunchKernelEx(&config, kernel, call);
    if (launched != cudaSuccess) return launched;
  }
  return cudaSuccess;
}

cudaError_t augment_loads() {
  cudaFuncAttributes attributes;
  return cudaFuncGetAttributes(&attributes, (const void*)augment_kernel<false, true>);
}

}  // namespace fastssl
