#include "launch.h"

#include "augment_kernel.h"

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
