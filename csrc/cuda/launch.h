// The launchers of the CUDA kernels; torch-free.
#pragma once

#include <cuda_runtime_api.h>

#include "augment_call.h"
#include "sample_params.h"

namespace fastssl {

cudaError_t sample_params(const SampleParamsCall& call, cudaStream_t stream);

// Lays a launch out. False: a view is too wide for any layout.
bool augment_plan(AugmentCall& call);

// Floats of `workspace` that a call needs which has its layout; 0 where the state is on the chip.
int64_t augment_workspace(const AugmentCall& call);

cudaError_t augment(const AugmentCall& call, cudaStream_t stream);

// An error where this build has no code for the current device.
cudaError_t augment_loads();

}  // namespace fastssl
