// What the classic pretexts are made of, as torch.ops.fastssl_cpp.
#include <algorithm>
#include <optional>
#include <tuple>

#include "bindings.h"
#include "extract_patches.h"
#include "lab_bins.h"
#include "sparse_cross_entropy.h"

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

std::tuple<Tensor, Tensor, Tensor> lab_bins_fwd(const Tensor& images, const Tensor& bins, int64_t neighbors,
                                                double sigma, int64_t stride, at::ArrayRef<double> scale,
                                                at::ArrayRef<double> shift) {
  const int64_t n = images.size(0), height = images.size(2), width = images.size(3);
  const Tensor points = bins.contiguous();
  const auto cells = cells_of(points.const_data_ptr<float>(), points.size(0), neighbors, threads());
  const at::DimVector shape = {n, neighbors, (height + stride - 1) / stride, (width + stride - 1) / stride};
  Tensor lab = fresh(images.sizes(), at::kFloat), index = fresh(shape, at::kInt), weight = fresh(shape, at::kFloat);
  LabBins l{images.const_data_ptr(), element_type(images.scalar_type()),
            images.stride(0),        images.stride(1),
            images.stride(2),        images.stride(3)};
  l.n = n, l.height = height, l.width = width, l.stride = stride;
  for (int c = 0; c < 3; ++c) l.scale[c] = static_cast<float>(scale[c]), l.shift[c] = static_cast<float>(shift[c]);
  l.bins = points.const_data_ptr<float>(), l.count = points.size(0), l.neighbors = neighbors;
  l.falloff = static_cast<float>(std::min(0.5 / sigma / sigma, 1e30));
  l.cells = cells.get(), l.threads = threads();
  l.lab = lab.mutable_data_ptr<float>();
  l.index = index.mutable_data_ptr<int32_t>(), l.weight = weight.mutable_data_ptr<float>();
  lab_kernels(capability()).encode(l);
  return {lab, index, weight};
}

// Of tensors that outlive it.
SparseTargets sparse_targets(const Tensor& logits, const Tensor& index, const Tensor& weight, bool along_rows) {
  SparseTargets t{};
  t.logits = logits.const_data_ptr(), t.type = element_type(logits.scalar_type()), t.along_rows = along_rows;
  t.sample = logits.stride(0), t.row = logits.stride(1), t.place = logits.stride(2);
  t.index = index.const_data_ptr(), t.wide = index.scalar_type() == at::kLong;
  t.index_sample = index.stride(0), t.index_row = index.stride(1), t.index_place = index.stride(2);
  t.weight = weight.const_data_ptr<float>();
  t.weight_sample = weight.stride(0), t.weight_row = weight.stride(1), t.weight_place = weight.stride(2);
  t.n = logits.size(0), t.classes = logits.size(1), t.places = logits.size(2), t.count = index.size(1);
  t.threads = threads();
  return t;
}

// As the logits are, without gaps; not a view, as the backward pass writes into it.
Tensor empty_gradient(const Tensor& logits, bool along_rows) {
  const int64_t classes = logits.size(1), places = logits.size(2);
  Tensor grad = fresh(logits.sizes(), logits.scalar_type());
  if (along_rows)
    grad.unsafeGetTensorImpl()->set_sizes_and_strides(logits.sizes(), {classes * places, int64_t{1}, classes});
  return grad;
}

std::tuple<Tensor, Tensor, Tensor> sparse_cross_entropy_fwd(const Tensor& logits, const Tensor& index,
                                                            const Tensor& weight, bool along_rows, double share,
                                                            bool early) {
  SparseForward f{sparse_targets(logits, index, weight, along_rows)};
  const SparseTargets& t = f.targets;
  Tensor losses = fresh({t.n, t.places}, at::kFloat), lse = fresh({t.n, t.places}, at::kDouble);
  Tensor grad = early ? empty_gradient(logits, along_rows) : fresh({0}, logits.scalar_type());
  f.targets.lse = lse.mutable_data_ptr<double>(), f.losses = losses.mutable_data_ptr<float>();
  f.share = static_cast<float>(share), f.grad = early ? grad.mutable_data_ptr() : nullptr;
  sparse_kernels(capability()).forward(f);
  return {losses, lse, grad};
}

std::tuple<Tensor, Tensor> sparse_cross_entropy_bwd(const Tensor& upstream, const Tensor& logits, const Tensor& index,
                                                    const Tensor& weight, const Tensor& lse, bool along_rows,
                                                    bool of_logits, bool of_weight) {
  SparseBackward b{sparse_targets(logits, index, weight, along_rows)};
  const SparseTargets& t = b.targets;
  const Tensor levels = lse.contiguous();
  Tensor grad = of_logits ? empty_gradient(logits, along_rows) : fresh({0}, logits.scalar_type());
  Tensor grad_weight = of_weight ? fresh({t.n, t.count, t.places}, at::kFloat) : fresh({0}, at::kFloat);
  b.targets.lse = const_cast<double*>(levels.const_data_ptr<double>());
  b.upstream = upstream.const_data_ptr<float>();
  b.upstream_sample = upstream.stride(0), b.upstream_place = upstream.stride(1);
  b.grad = of_logits ? grad.mutable_data_ptr() : nullptr;
  b.grad_weight = of_weight ? grad_weight.mutable_data_ptr<float>() : nullptr;
  sparse_kernels(capability()).backward(b);
  return {grad, grad_weight};
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
  m.def(
      "lab_bins_fwd(Tensor images, Tensor bins, int neighbors, float sigma, int stride, float[] scale, float[] shift)"
      " -> (Tensor, Tensor, Tensor)",
      fastssl::lab_bins_fwd);
  m.def(
      "sparse_cross_entropy_fwd(Tensor logits, Tensor index, Tensor weight, bool along_rows, float share, bool early)"
      " -> (Tensor, Tensor, Tensor)",
      fastssl::sparse_cross_entropy_fwd);
  m.def(
      "sparse_cross_entropy_bwd(Tensor upstream, Tensor logits, Tensor index, Tensor weight, Tensor lse,"
      " bool along_rows, bool of_logits, bool of_weight) -> (Tensor, Tensor)",
      fastssl::sparse_cross_entropy_bwd);
}
