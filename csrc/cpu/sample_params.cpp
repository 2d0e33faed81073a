// The draws of augmented views. Compiled for the baseline: nothing here may be fused, see ../common/portable.h.
#ifdef __clang__
#pragma STDC FP_CONTRACT OFF
#else
#pragma GCC optimize("fp-contract=off")
#endif

#include "sample_params.h"

#include "../common/sample_params.h"

namespace fastssl {

void sample_params(int64_t seed, const int64_t* ids, const int64_t* heights, int64_t height_stride,
                   const int64_t* widths, int64_t width_stride, const double* table, int64_t n, int views, int threads,
                   AugmentParams* params) {
  const ViewRecipe* recipes = reinterpret_cast<const ViewRecipe*>(table);
  // A view takes about a microsecond: not worth waking a thread for a few.
#pragma omp parallel for num_threads(threads) if (threads > 1 && n * views >= 256) schedule(static)
  for (int64_t i = 0; i < n; ++i)
    for (int v = 0; v < views; ++v)
      params[i * views + v] = sample_params(recipes[v], (uint64_t)seed, ids[i], (uint32_t)v, heights[i * height_stride],
                                            widths[i * width_stride]);
}

}  // namespace fastssl
