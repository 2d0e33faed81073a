// What the bindings share. They are the only CPU files that include torch headers.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <string>

#include "../common/portable.h"

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

// Ask for large pages where results come in fresh memory: with 4 KiB ones, the first touch of each page costs more than
// what is written to it.
inline void prefer_large_pages(const Tensor& t) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  const uintptr_t page = 4096, begin = (reinterpret_cast<uintptr_t>(t.data_ptr()) + page - 1) / page * page;
  const uintptr_t end = reinterpret_cast<uintptr_t>(t.data_ptr()) + t.nbytes();
  if (t.nbytes() >= (size_t{4} << 20)) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)t;
#endif
}

}  // namespace
}  // namespace fastssl
