// The parameters of augmented views on the CPU.
#pragma once

#include <cstdint>

#include "../common/augment_params.h"

namespace fastssl {

// `table` holds 28 numbers a view; strides in elements; `params` is [n, views].
void sample_params(int64_t seed, const int64_t* ids, const int64_t* heights, int64_t height_stride,
                   const int64_t* widths, int64_t width_stride, const double* table, int64_t n, int views, int threads,
                   AugmentParams* params);

}  // namespace fastssl
