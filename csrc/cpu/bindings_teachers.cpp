// Teachers and students as torch.ops.fastssl_cpp.
#include <optional>
#include <tuple>

#include "bindings.h"
#include "sinkhorn.h"

namespace fastssl {
namespace {

using std::optional;

std::tuple<Tensor, Tensor> sinkhorn_pass(const Tensor& logits, const optional<Tensor>& center, const Tensor& temp,
                                         bool columns) {
  // One row alone may have any strides; so may rows of one element.
  const Tensor x = logits.size(1) > 1 && logits.stride(1) != 1 ? logits.contiguous() : logits;
  const auto middle = center ? optional<Tensor>(center->contiguous()) : center;
  const SinkhornKernels& kernels = sinkhorn_kernels(capability());
  Sinkhorn s{};
  s.logits = x.const_data_ptr(), s.type = element_type(x.scalar_type()), s.row = x.stride(0);
  s.samples = x.size(0), s.prototypes = x.size(1);
  s.center = middle ? middle->const_data_ptr<float>() : nullptr;
  s.temp = temp.item<double>(), s.threads = threads();
  Tensor row_lse = fresh({s.samples}, at::kDouble), column_lse = fresh({columns ? s.prototypes : 0}, at::kDouble);
  s.row_lse = row_lse.mutable_data_ptr<double>();
  s.column_lse = columns ? column_lse.mutable_data_ptr<double>() : nullptr;
  const Tensor space = fresh({kernels.workspace(s)}, at::kByte);
  s.workspace = space.mutable_data_ptr();
  kernels.pass(s);
  return {row_lse, column_lse};
}

}  // namespace
}  // namespace fastssl

TORCH_LIBRARY_FRAGMENT(fastssl_cpp, m) {
  m.def("sinkhorn_pass(Tensor logits, Tensor? center, Tensor temp, bool columns) -> (Tensor, Tensor)",
        fastssl::sinkhorn_pass);
}
