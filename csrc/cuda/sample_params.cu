#include "launch.h"
#include "sample_params.h"

namespace fastssl {
namespace {

enum { THREADS = 128 };

__global__ void __launch_bounds__(THREADS) sample_params_kernel(const __grid_constant__ SampleParamsCall call) {
  const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
  if (i < call.n * call.count) draw_params(call, i);
}

}  // namespace

cudaError_t sample_params(const SampleParamsCall& call, cudaStream_t stream) {
  sample_params_kernel<<<(unsigned)((call.n * call.count + THREADS - 1) / THREADS), THREADS, 0, stream>>>(call);
  return cudaGetLastError();
}

}  // namespace fastssl
