// Teachers and students as torch.ops.fastssl_cpp.
#include <optional>
#include <tuple>

#include "bindings.h"
#include "sinkhorn.h"

namespace fastssl {
namespace {

using std::optional;

// The same rows with their elements side by side.
Tensor with_plain_rows(const Tensor& x) { return x.size(1) > 1 && x.stride(1) != 1 ? x.contiguous() : x; }

// Of rows that outlive it.
Sinkhorn sinkhorn_of(const Tensor& x, const Tensor& temp) {
  return {x.const_data_ptr(), element_type(x.scalar_type()), x.stride(0), x.size(0),
          x.size(1),          temp.item<double>(),           threads(),   nullptr};
}

std::tuple<Tensor, Tensor> sinkhorn_pass(const Tensor& logits, const optional<Tensor>& center, const Tensor& temp,
                                         bool columns) {
  const Tensor x = with_plain_rows(logits);
  const optional<Tensor> middle = center ? center->contiguous() : center;
  const SinkhornKernels& kernels = sinkhorn_kernels(capability());
  Tensor row_lse = fresh({x.size(0)}, at::kDouble), column_lse = fresh({columns ? x.size(1) : 0}, at::kDouble);
  SinkhornPass s{};
  s.problem = sinkhorn_of(x, temp);
  s.center = middle ? middle->const_data_ptr<float>() : nullptr;
  s.row_lse = row_lse.mutable_data_ptr<double>();
  s.column_lse = columns ? column_lse.mutable_data_ptr<double>() : nullptr;
  const Tensor workspace = fresh({kernels.pass_workspace(s)}, at::kByte);
  s.problem.workspace = workspace.mutable_data_ptr();
  kernels.pass(s);
  return {row_lse, column_lse};
}

Tensor sinkhorn_fwd(const Tensor& logits, int64_t iterations, const Tensor& temp) {
  const Tensor x = with_plain_rows(logits);
  const SinkhornKernels& kernels = sinkhorn_kernels(capability());
  Tensor center = fresh({x.size(1)}, at::kFloat);
  SinkhornFit s{sinkhorn_of(x, temp), iterations, center.mutable_data_ptr<float>()};
  const Tensor workspace = fresh({kernels.fit_workspace(s)}, at::kByte);
  s.problem.workspace = workspace.mutable_data_ptr();
  kernels.fit(s);
  return center;
}

}  // namespace
}  // namespace fastssl

TORCH_LIBRARY_FRAGMENT(fastssl_cpp, m) {
  m.def("sinkhorn_fwd(Tensor logits, int iterations, Tensor temp) -> Tensor", fastssl::sinkhorn_fwd);
  m.def("sinkhorn_pass(Tensor logits, Tensor? center, Tensor temp, bool columns) -> (Tensor, Tensor)",
        fastssl::sinkhorn_pass);
}
