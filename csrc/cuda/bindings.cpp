// The CUDA kernels as torch.ops.fastssl_cuda: the only CUDA file that includes torch headers.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <Python.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "launch.h"

// An empty module: importing it runs the static registrations below.
extern "C" __attribute__((visibility("default"))) PyObject* PyInit__CUDA(void) {
  static PyModuleDef module = {
      PyModuleDef_HEAD_INIT, "_CUDA", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&module);
}

namespace fastssl {
namespace {

using at::Tensor;

void check(cudaError_t error, const char* op) {
  TORCH_CHECK(error == cudaSuccess, op, ": CUDA says: ", cudaGetErrorString(error));
}

// Why the kernels cannot run on the current device; empty if they can.
std::string refuses() {
  const cudaError_t error = augment_loads();
  if (error == cudaSuccess) return "";
  cudaGetLastError();  // it has been reported: the next call is not to find it
  return cudaGetErrorString(error);
}

Tensor sample_params_fwd(const Tensor& seed, const Tensor& ids, const Tensor& heights, const Tensor& widths,
                         at::ArrayRef<double> table) {
  const c10::cuda::CUDAGuard guard(ids.device());
  const int views = static_cast<int>(table.size() / 28);
  const Tensor contiguous_ids = ids.contiguous();
  Tensor params = at::empty({ids.size(0), views, 12}, ids.options().dtype(at::kInt));
  SampleParamsCall call{};
  if (seed.is_cuda()) {
    call.seed = seed.const_data_ptr<int64_t>();
  } else {
    call.host_seed = *seed.const_data_ptr<int64_t>();
  }
  call.ids = contiguous_ids.const_data_ptr<int64_t>();
  call.heights = heights.const_data_ptr<int64_t>(), call.widths = widths.const_data_ptr<int64_t>();
  call.heights_stride = heights.stride(0), call.widths_stride = widths.stride(0);
  call.n = ids.size(0), call.views = views;
  call.params = reinterpret_cast<AugmentParams*>(params.mutable_data_ptr<int>());
  for (int first = 0; first < views; first += MOST_RECIPES) {
    call.first = first, call.count = std::min<int>(views - first, MOST_RECIPES);
    const ViewRecipe* recipes = reinterpret_cast<const ViewRecipe*>(table.data()) + first;
    std::copy(recipes, recipes + call.count, call.recipes);
    check(sample_params(call, c10::cuda::getCurrentCUDAStream()), "sample_params");
  }
  return params;
}

std::vector<Tensor> augment_fwd(const Tensor& images, const std::optional<Tensor>& extents, const Tensor& params,
                                at::IntArrayRef heights, at::IntArrayRef widths, at::IntArrayRef counts, bool bicubic,
                                int64_t blur_kernel, at::ArrayRef<double> mean, at::ArrayRef<double> std,
                                at::ScalarType dtype, bool channels_last, bool uint8) {
  const c10::cuda::CUDAGuard guard(images.device());
  const int64_t n = params.size(0), channels = static_cast<int64_t>(mean.size());
  const Tensor records = params.contiguous();
  Tensor pixels = images;
  AugmentCall call{};
  if (extents) {
    call.extents = extents->const_data_ptr<int64_t>();
  } else {
    // A row's bytes are contiguous, one channel after another or interleaved.
    const bool planar = pixels.stride(3) == 1;
    const bool interleaved = pixels.stride(1) == 1 && pixels.stride(3) == channels;
    if (!planar && !interleaved) pixels = pixels.contiguous();
    call.image_stride = pixels.stride(0), call.channel_stride = pixels.stride(1);
    call.row_stride = pixels.stride(2), call.column_stride = pixels.stride(3);
    call.height = static_cast<int>(pixels.size(2)), call.width = static_cast<int>(pixels.size(3));
  }
  call.pixels = pixels.const_data_ptr<uint8_t>();
  call.params = reinterpret_cast<const AugmentParams*>(records.const_data_ptr<int>());
  call.n = n, call.views = static_cast<int>(params.size(1)), call.channels = static_cast<int>(channels);
  call.bicubic = bicubic, call.uint8 = uint8, call.channels_last = channels_last;
  call.blur_kernel = static_cast<int>(std::min<int64_t>(blur_kernel, 1 << 30));
  for (int64_t c = 0; c < channels; ++c) {
    call.mean[c] = static_cast<float>(mean[c]), call.scale[c] = static_cast<float>(1 / std[c]);
  }
  call.type = dtype == at::kFloat ? TYPE_FLOAT32 : dtype == at::kHalf ? TYPE_FLOAT16 : TYPE_BFLOAT16;

  std::vector<Tensor> views;
  for (size_t g = 0; g < counts.size(); ++g) {
    const int64_t h = heights[g], w = widths[g], count = counts[g], c = channels;
    const auto options = images.options().dtype(dtype);
    views.push_back(channels_last ? at::empty({count, n, h, w, c}, options).permute({0, 1, 4, 2, 3})
                                  : at::empty({count, n, c, h, w}, options));
    const Tensor& out = views.back();
    const int first = call.first + call.count;
    call.groups[call.group_count++] = {out.mutable_data_ptr(),  static_cast<int>(h), static_cast<int>(w), first,
                                       static_cast<int>(count), out.stride(0),       out.stride(1)};
    call.count += static_cast<int>(count);
    if (call.group_count < MAX_GROUPS && g + 1 < counts.size()) continue;
    TORCH_CHECK(augment_plan(call), "augment: the CUDA kernel takes views up to about 1600 pixels a side, got ",
                *std::max_element(widths.begin(), widths.end()), " x ",
                *std::max_element(heights.begin(), heights.end()),
                "; fastssl.use_backend(\"triton\") makes larger ones");
    const Tensor workspace = at::empty({augment_workspace(call)}, images.options().dtype(at::kFloat));
    call.workspace = workspace.mutable_data_ptr<float>();
    check(augment(call, c10::cuda::getCurrentCUDAStream()), "augment");
    call.first += call.count, call.count = call.group_count = 0;
  }
  return views;
}

}  // namespace
}  // namespace fastssl

TORCH_LIBRARY(fastssl_cuda, m) {
  m.def("refuses() -> str", fastssl::refuses);
  m.def("sample_params_fwd(Tensor seed, Tensor ids, Tensor heights, Tensor widths, float[] table) -> Tensor");
  m.def(
      "augment_fwd(Tensor pixels, Tensor? extents, Tensor params, int[] heights, int[] widths, int[] counts,"
      " bool bicubic, int blur_kernel, float[] mean, float[] std, ScalarType dtype, bool channels_last, bool uint8)"
      " -> Tensor[]");
}

TORCH_LIBRARY_IMPL(fastssl_cuda, CUDA, m) {
  m.impl("sample_params_fwd", fastssl::sample_params_fwd);
  m.impl("augment_fwd", fastssl::augment_fwd);
}
