// What the bindings share. They are the only CPU files that include torch headers.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <string.h>
#include <torch/library.h>

#include <string>

#include "../common/portable.h"
#include "pages.h"

namespace fastssl {
namespace {

using at::Tensor;

inline int threads() { return at::in_parallel_region() ? 1 : at::get_num_threads(); }

inline const char* capability() {
  static const std::string name = at::get_cpu_capability();
  return name.c_str();
}

inline ElementType element_type(at::ScalarType dtype) {
  return dtype == at::kFloat      ? TYPE_FLOAT32
         : dtype == at::kHalf     ? TYPE_FLOAT16
         : dtype == at::kBFloat16 ? TYPE_BFLOAT16
                                  : TYPE_UINT8;
}

// The allocator of large results: storages behave as ever, also when they are resized.
struct PageAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    Pages* pages = take_pages(bytes);
    TORCH_CHECK_WITH(OutOfMemoryError, pages, "fastssl: not enough memory for a result of ", bytes, " bytes");
    return {pages->data, pages, [](void* p) { return_pages(static_cast<Pages*>(p)); }, c10::Device(c10::kCPU)};
  }
  void copy_data(void* to, const void* from, size_t bytes) const override { memcpy(to, from, bytes); }
};

// An uninitialised tensor, contiguous.
inline Tensor fresh(at::IntArrayRef shape, at::ScalarType dtype) {
  static PageAllocator* allocator = new PageAllocator;  // outlives every tensor
  const size_t bytes = c10::multiply_integers(shape) * c10::elementSize(dtype);
  if (bytes < size_t{4} << 20) return at::empty(shape, at::TensorOptions().dtype(dtype));
  c10::Storage storage(c10::Storage::use_byte_size_t(), bytes, allocator->allocate(bytes), allocator, true);
  Tensor t = at::detail::make_tensor<c10::TensorImpl>(std::move(storage), c10::DispatchKeySet(c10::DispatchKey::CPU),
                                                      c10::scalarTypeToTypeMeta(dtype));
  t.unsafeGetTensorImpl()->set_sizes_contiguous(shape);
  return t;
}

}  // namespace
}  // namespace fastssl
