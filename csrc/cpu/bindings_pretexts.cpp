// What the classic pretexts are made of, as torch.ops.fastssl_cpp.
#include <optional>
#include <tuple>

#include "bindings.h"
#include "extract_patches.h"

namespace fastssl {
namespace {

using std::optional;

std::tuple<Tensor, Tensor> extract_patches_fwd(const Tensor& images, const Tensor& seed, const optional<Tensor>& ids,
                                               at::IntArrayRef patch, at::IntArrayRef grid, int64_t gap, int64_t jitter,
                                               bool standardize, double keep_channel_p, at::ArrayRef<double> scale,
                                               at::ArrayRef<double> shift, at::ScalarType dtype, int64_t view) {
  const int64_t n = images.size(0), channels = images.size(1), count = grid[0] * grid[1];
  const auto sample_ids = ids ? optional<Tensor>(ids->contiguous()) : ids;
  Tensor patches = fresh({n, count, channels, patch[0], patch[1]}, dtype), corners = fresh({n, count, 2}, at::kLong);
  ExtractPatches e{images.const_data_ptr(), element_type(images.scalar_type()),
                   images.stride(0),        images.stride(1),
                   images.stride(2),        images.stride(3)};
  e.n = n, e.channels = channels, e.threads = threads(), e.view = static_cast<uint32_t>(view);
  e.seed = static_cast<uint64_t>(seed.item<int64_t>());
  e.ids = sample_ids ? sample_ids->const_data_ptr<int64_t>() : nullptr;
  e.grid = {images.size(2),
            images.size(3),
            static_cast<int32_t>(grid[0]),
            static_cast<int32_t>(grid[1]),
            static_cast<int32_t>(patch[0]),
            static_cast<int32_t>(patch[1]),
            gap,
            jitter};
  e.standardize = standardize, e.keep = static_cast<int64_t>(keep_channel_p * 0x1p32);
  e.scale = scale.data(), e.shift = shift.data();
  e.out_type = element_type(dtype), e.patches = patches.mutable_data_ptr();
  e.corners = corners.mutable_data_ptr<int64_t>();
  extract_kernels(capability()).extract(e);
  return {patches, corners};
}

}  // namespace
}  // namespace fastssl

TORCH_LIBRARY_FRAGMENT(fastssl_cpp, m) {
  m.def(
      "extract_patches_fwd(Tensor images, Tensor seed, Tensor? sample_ids, int[] patch, int[] grid, int gap, int "
      "jitter,"
      " bool standardize, float keep_channel_p, float[] scale, float[] shift, ScalarType dtype, int view)"
      " -> (Tensor, Tensor)",
      fastssl::extract_patches_fwd);
}
