// The loss and the augmentation as torch.ops.fastssl_cpp.
#include "bindings.h"

#include <Python.h>

#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

#include "augment.h"
#include "ntxent.h"
#include "sample_params.h"

// An empty module: importing it runs the static registrations below.
extern "C" __attribute__((visibility("default"))) PyObject* PyInit__C(void) {
  static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&module);
}

namespace fastssl {
namespace {

const NTXentKernels& kernels() { return ntxent_kernels(capability()); }

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> ntxent_fwd(const Tensor& z0, const Tensor& z1,
                                                              const Tensor& temperature) {
  const Tensor a = z0.to(at::kFloat).contiguous(), b = z1.to(at::kFloat).contiguous();
  const int64_t n = a.size(0), d = a.size(1);
  const auto options = a.options();
  Tensor loss = at::empty({}, options), zn = at::empty({2 * n, d}, options), inv_norm = at::empty({2 * n}, options);
  Tensor lse = at::empty({2 * n}, options.dtype(at::kDouble)), nll = at::empty({2 * n}, options);
  Tensor workspace = fresh({kernels().forward_workspace(n, d, threads())}, at::kByte);
  kernels().forward({a.const_data_ptr<float>(), b.const_data_ptr<float>(), n, d, temperature.item<double>(), threads(),
                     workspace.mutable_data_ptr(), zn.mutable_data_ptr<float>(), inv_norm.mutable_data_ptr<float>(),
                     lse.mutable_data_ptr<double>(), nll.mutable_data_ptr<float>(), loss.mutable_data_ptr<float>()});
  return {loss, zn, inv_norm, lse, nll};
}

std::tuple<Tensor, Tensor, Tensor> ntxent_bwd(const Tensor& grad, const Tensor& z0, const Tensor& z1,
                                              const Tensor& temperature, const Tensor& zn, const Tensor& inv_norm,
                                              const Tensor& lse, const Tensor& nll) {
  const int64_t n = z0.size(0), d = z0.size(1);
  const auto options = zn.options();
  Tensor grad_z0 = at::empty({n, d}, options), grad_z1 = at::empty({n, d}, options);
  Tensor workspace = fresh({kernels().backward_workspace(n, d, threads())}, at::kByte);
  double grad_tau = 0;
  kernels().backward({zn.const_data_ptr<float>(), inv_norm.const_data_ptr<float>(), lse.const_data_ptr<double>(),
                      nll.const_data_ptr<float>(), n, d, temperature.item<double>(), grad.item<double>(), threads(),
                      workspace.mutable_data_ptr(), grad_z0.mutable_data_ptr<float>(),
                      grad_z1.mutable_data_ptr<float>(), &grad_tau});
  return {grad_z0.to(z0.scalar_type()), grad_z1.to(z1.scalar_type()),
          at::empty({}, temperature.options()).fill_(grad_tau)};
}

Tensor sample_params_fwd(const Tensor& seed, const Tensor& ids, const Tensor& heights, const Tensor& widths,
                         at::ArrayRef<double> table) {
  const int64_t n = ids.size(0), views = static_cast<int64_t>(table.size()) / 28;
  const Tensor contiguous_ids = ids.contiguous();
  Tensor params = at::empty({n, views, 12}, ids.options().dtype(at::kInt));
  sample_params(seed.item<int64_t>(), contiguous_ids.const_data_ptr<int64_t>(), heights.const_data_ptr<int64_t>(),
                heights.stride(0), widths.const_data_ptr<int64_t>(), widths.stride(0), table.data(), n,
                static_cast<int>(views), threads(), reinterpret_cast<AugmentParams*>(params.mutable_data_ptr<int>()));
  return params;
}

std::vector<Tensor> augment_fwd(const Tensor& images, const std::optional<Tensor>& extents, const Tensor& params,
                                at::IntArrayRef heights, at::IntArrayRef widths, at::IntArrayRef counts, bool bicubic,
                                int64_t blur_kernel, at::ArrayRef<double> mean, at::ArrayRef<double> std,
                                at::ScalarType dtype, bool channels_last, bool uint8) {
  const int64_t n = params.size(0), views = params.size(1), channels = static_cast<int64_t>(mean.size());
  Tensor pixels = images;
  Augment a{};
  if (extents) {
    const Tensor largest = extents->amax({0});
    a.extents = extents->const_data_ptr<int64_t>();
    a.height = static_cast<int>(largest[1].item<int64_t>()), a.width = static_cast<int>(largest[2].item<int64_t>());
  } else {
    const bool planar = pixels.stride(3) == 1;
    const bool interleaved = pixels.stride(1) == 1 && pixels.stride(3) == channels && channels == 3;
    if (!planar && !interleaved) pixels = pixels.contiguous();
    a.image_stride = pixels.stride(0), a.channel_stride = pixels.stride(1);
    a.row_stride = pixels.stride(2), a.column_stride = pixels.stride(3);
    a.height = static_cast<int>(pixels.size(2)), a.width = static_cast<int>(pixels.size(3));
  }
  std::vector<Tensor> groups;
  std::vector<AugmentOutput> outputs;
  for (size_t g = 0; g < counts.size(); ++g) {
    const int64_t h = heights[g], w = widths[g], c = channels;
    groups.push_back(channels_last ? fresh({counts[g], n, h, w, c}, dtype).permute({0, 1, 4, 2, 3})
                                   : fresh({counts[g], n, c, h, w}, dtype));
    const Tensor& out = groups.back();
    for (int64_t v = 0; v < counts[g]; ++v)
      outputs.push_back({static_cast<char*>(out.mutable_data_ptr()) + v * out.stride(0) * out.element_size(),
                         static_cast<int>(h), static_cast<int>(w), out.stride(1), out.stride(2), out.stride(3),
                         out.stride(4)});
  }
  const Tensor records = params.contiguous();
  a.n = n, a.channels = static_cast<int>(channels), a.views = static_cast<int>(views);
  a.pixels = pixels.const_data_ptr<uint8_t>();
  a.params = reinterpret_cast<const AugmentParams*>(records.const_data_ptr<int>());
  a.outputs = outputs.data();
  a.bicubic = bicubic, a.uint8 = uint8, a.blur_kernel = static_cast<int>(blur_kernel);
  for (int64_t c = 0; c < channels; ++c) a.mean[c] = static_cast<float>(mean[c]), a.std[c] = static_cast<float>(std[c]);
  a.type = element_type(dtype);
  a.threads = static_cast<int>(std::min<int64_t>(threads(), n * views));
  const AugmentKernels& kernels = augment_kernels(capability());
  Tensor workspace = at::empty({a.threads * kernels.workspace(a)}, pixels.options().dtype(at::kFloat));
  a.workspace = workspace.mutable_data_ptr<float>();
  kernels.augment(a);
  return groups;
}

}  // namespace
}  // namespace fastssl

TORCH_LIBRARY(fastssl_cpp, m) {
  m.def("ntxent_fwd(Tensor z0, Tensor z1, Tensor temperature) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "ntxent_bwd(Tensor grad, Tensor z0, Tensor z1, Tensor temperature, Tensor zn, Tensor inv_norm, Tensor lse,"
      " Tensor nll) -> (Tensor, Tensor, Tensor)");
  m.def("sample_params_fwd(Tensor seed, Tensor ids, Tensor heights, Tensor widths, float[] table) -> Tensor");
  m.def(
      "augment_fwd(Tensor pixels, Tensor? extents, Tensor params, int[] heights, int[] widths, int[] counts,"
      " bool bicubic, int blur_kernel, float[] mean, float[] std, ScalarType dtype, bool channels_last, bool uint8)"
      " -> Tensor[]");
}

TORCH_LIBRARY_IMPL(fastssl_cpp, CPU, m) {
  m.impl("ntxent_fwd", fastssl::ntxent_fwd);
  m.impl("ntxent_bwd", fastssl::ntxent_bwd);
  m.impl("sample_params_fwd", fastssl::sample_params_fwd);
  m.impl("augment_fwd", fastssl::augment_fwd);
}
