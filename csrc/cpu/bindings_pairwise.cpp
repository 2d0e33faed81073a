// Sums over all pairs of rows as torch.ops.fastssl_cpp.
#include <optional>
#include <tuple>

#include "bindings.h"
#include "pairwise_logsumexp.h"
#include "pairwise_softplus.h"

namespace fastssl {
namespace {

using std::optional;

Pairs pairs_of(const Tensor& x, const optional<Tensor>& y, const Tensor& scale, const optional<Tensor>& row_ids,
               const optional<Tensor>& col_ids, bool bounded) {
  Pairs p{};
  p.x = x.const_data_ptr<float>(), p.y = y ? y->const_data_ptr<float>() : nullptr;
  p.m = x.size(0), p.n = y ? y->size(0) : x.size(0), p.d = x.size(1);
  const optional<Tensor>& other = y ? col_ids : row_ids;
  p.row_ids = row_ids ? row_ids->const_data_ptr<int>() : nullptr;
  p.col_ids = other ? other->const_data_ptr<int>() : nullptr;
  p.scale = scale.item<double>(), p.bounded = bounded, p.threads = threads();
  return p;
}

Tensor workspace(int64_t bytes) { return fresh({bytes}, at::kByte); }

// Rows of gradients or of means; none where they are not needed.
Tensor rows_like(const Tensor& x, bool need) { return fresh({need ? x.size(0) : 0, x.size(1)}, at::kFloat); }
float* data_if(const Tensor& x, bool need) { return need ? x.mutable_data_ptr<float>() : nullptr; }

std::tuple<Tensor, Tensor, Tensor> pairwise_logsumexp_fwd(const Tensor& x, const optional<Tensor>& y,
                                                          const Tensor& scale, const optional<Tensor>& row_ids,
                                                          const optional<Tensor>& col_ids, at::ScalarType, bool bounded,
                                                          bool columns, bool attend) {
  const LogsumexpKernels& kernels = logsumexp_kernels(capability());
  LogsumexpForward a{};
  a.pairs = pairs_of(x, y, scale, row_ids, col_ids, bounded), a.columns = columns;
  Tensor row_lse = fresh({a.pairs.m}, at::kDouble), col_lse = fresh({columns ? a.pairs.n : 0}, at::kDouble);
  Tensor mean = rows_like(x, attend);
  a.row_lse = row_lse.mutable_data_ptr<double>(), a.col_lse = col_lse.mutable_data_ptr<double>();
  a.mean = data_if(mean, attend);
  const Tensor space = workspace(kernels.forward_workspace(a));
  a.workspace = space.mutable_data_ptr();
  kernels.forward(a);
  return {row_lse, col_lse, mean};
}

std::tuple<Tensor, Tensor, Tensor> pairwise_logsumexp_bwd(
    const optional<Tensor>& grad_row, const optional<Tensor>& grad_col, const Tensor& x, const optional<Tensor>& y,
    const Tensor& scale, const optional<Tensor>& row_ids, const optional<Tensor>& col_ids, const Tensor& row_lse,
    const optional<Tensor>& col_lse, at::ScalarType, bool bounded, bool need_x, bool need_y) {
  const LogsumexpKernels& kernels = logsumexp_kernels(capability());
  LogsumexpBackward a{};
  a.pairs = pairs_of(x, y, scale, row_ids, col_ids, bounded);
  need_y = need_y && y;
  Tensor grad_x = rows_like(x, need_x), grad_y = rows_like(y ? *y : x, need_y), grad_scale = fresh({}, at::kDouble);
  a.grad_row = grad_row ? grad_row->const_data_ptr<float>() : nullptr;
  a.grad_col = grad_col ? grad_col->const_data_ptr<float>() : nullptr;
  a.row_lse = row_lse.const_data_ptr<double>(), a.col_lse = col_lse ? col_lse->const_data_ptr<double>() : nullptr;
  a.grad_x = data_if(grad_x, need_x), a.grad_y = data_if(grad_y, need_y);
  a.grad_scale = grad_scale.mutable_data_ptr<double>();
  const Tensor space = workspace(kernels.backward_workspace(a));
  a.workspace = space.mutable_data_ptr();
  kernels.backward(a);
  return {grad_x, grad_y, grad_scale};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> pairwise_softplus_fwd(const Tensor& x, const Tensor& y,
                                                                         const Tensor& scale, const Tensor& bias,
                                                                         const Tensor& row_ids, const Tensor& col_ids,
                                                                         at::ScalarType, bool only_same, bool need_x,
                                                                         bool need_y) {
  const SoftplusKernels& kernels = softplus_kernels(capability());
  Softplus a{};
  a.pairs = pairs_of(x, y, scale, row_ids, col_ids, true), a.bias = bias.const_data_ptr<float>();
  a.only_same = only_same;
  Tensor total = fresh({}, at::kDouble), grad_x = rows_like(x, need_x), grad_y = rows_like(y, need_y);
  Tensor grad_scale = fresh({}, at::kDouble), grad_bias = fresh({a.pairs.m}, at::kFloat);
  a.total = total.mutable_data_ptr<double>(), a.grad_scale = grad_scale.mutable_data_ptr<double>();
  a.grad_x = data_if(grad_x, need_x), a.grad_y = data_if(grad_y, need_y);
  a.grad_bias = grad_bias.mutable_data_ptr<float>();
  const Tensor space = workspace(kernels.workspace(a));
  a.workspace = space.mutable_data_ptr();
  kernels.forward(a);
  return {total, grad_x, grad_y, grad_scale, grad_bias};
}

}  // namespace
}  // namespace fastssl

TORCH_LIBRARY_FRAGMENT(fastssl_cpp, m) {
  m.def(
      "pairwise_logsumexp_fwd(Tensor x, Tensor? y, Tensor scale, Tensor? row_ids, Tensor? col_ids, ScalarType products,"
      " bool bounded, bool columns, bool attend) -> (Tensor, Tensor, Tensor)",
      fastssl::pairwise_logsumexp_fwd);
  m.def(
      "pairwise_logsumexp_bwd(Tensor? grad_row, Tensor? grad_col, Tensor x, Tensor? y, Tensor scale, Tensor? row_ids,"
      " Tensor? col_ids, Tensor row_lse, Tensor? col_lse, ScalarType products, bool bounded, bool need_x, bool need_y)"
      " -> (Tensor, Tensor, Tensor)",
      fastssl::pairwise_logsumexp_bwd);
  m.def(
      "pairwise_softplus_fwd(Tensor x, Tensor y, Tensor scale, Tensor bias, Tensor row_ids, Tensor col_ids,"
      " ScalarType products, bool only_same, bool need_x, bool need_y) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
      fastssl::pairwise_softplus_fwd);
}
