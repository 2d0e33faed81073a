// Teachers and students as torch.ops.fastssl_cpp.

#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

#include "bindings.h"
#include "dino_loss.h"
#include "sinkhorn.h"

namespace fastssl {
namespace {

using std::optional;

// Stacks [count, batch, width] as single views.
std::vector<ViewRows> rows_of(const std::vector<Tensor>& groups) {
  std::vector<ViewRows> views;
  for (const Tensor& group : groups)
    for (int64_t i = 0; i < group.size(0); ++i) {
      const char* data = static_cast<const char*>(group.const_data_ptr());
      views.push_back({data + i * group.stride(0) * group.element_size(), group.stride(1), group.size(1)});
    }
  return views;
}

int64_t largest_batch(const std::vector<ViewRows>& views) {
  int64_t most = 0;
  for (const ViewRows& view : views) most = std::max(most, view.batch);
  return most;
}

// What both passes are given: tensors whose rows have no gaps, which outlive it, center and weights in float32.
struct Dino {
  Dino(const std::vector<Tensor>& students, const std::vector<Tensor>& teachers, const optional<Tensor>& center,
       const Tensor& student_temp, const Tensor& teacher_temp, const optional<Tensor>& row_weights, bool skip_same_view,
       bool soft_targets)
      : student_rows(rows_of(students)), teacher_rows(rows_of(teachers)) {
    views.students = student_rows.data(), views.student_count = static_cast<int64_t>(student_rows.size());
    views.teachers = teacher_rows.data(), views.teacher_count = static_cast<int64_t>(teacher_rows.size());
    views.student_type = element_type(students[0].scalar_type());
    views.teacher_type = element_type(teachers[0].scalar_type());
    views.student_rows = largest_batch(student_rows), views.teacher_rows = largest_batch(teacher_rows);
    views.batch = std::max(views.student_rows, views.teacher_rows), views.width = students[0].size(2);
    views.center = center ? center->const_data_ptr<float>() : nullptr;
    views.shared_center = center && center->size(0) == 1;
    views.row_weights = row_weights ? row_weights->const_data_ptr<float>() : nullptr;
    views.student_temp = student_temp.item<double>(), views.teacher_temp = teacher_temp.item<double>();
    views.skip_same_view = skip_same_view, views.soft_targets = soft_targets;
    partial = fresh({views.batch}, at::kDouble);
    views.partial = partial.mutable_data_ptr<double>();
    views.threads = threads();
  }
  void use(const Tensor& student_lse, const Tensor& teacher_norm) {
    views.student_lse = student_lse.mutable_data_ptr<double>();
    views.teacher_norm = teacher_norm.mutable_data_ptr<double>();
  }
  std::vector<ViewRows> student_rows, teacher_rows;
  Tensor partial;
  DinoViews views{};
};

std::tuple<Tensor, Tensor, Tensor> dino_loss_fwd(const std::vector<Tensor>& students,
                                                 const std::vector<Tensor>& teachers, const optional<Tensor>& center,
                                                 const Tensor& student_temp, const Tensor& teacher_temp,
                                                 const optional<Tensor>& row_weights, bool skip_same_view,
                                                 bool soft_targets) {
  Dino d(students, teachers, center, student_temp, teacher_temp, row_weights, skip_same_view, soft_targets);
  const DinoViews& views = d.views;
  Tensor loss = fresh({}, at::kDouble), student_lse = fresh({views.student_count, views.student_rows}, at::kDouble);
  Tensor teacher_norm = fresh({views.teacher_count, views.teacher_rows}, at::kDouble);
  d.use(student_lse, teacher_norm);
  dino_kernels(capability()).forward({views, loss.mutable_data_ptr<double>()});
  return {loss, student_lse, teacher_norm};
}

std::tuple<std::vector<Tensor>, Tensor> dino_loss_bwd(const Tensor& grad, const std::vector<Tensor>& students,
                                                      const std::vector<Tensor>& teachers,
                                                      const optional<Tensor>& center, const Tensor& student_temp,
                                                      const Tensor& teacher_temp, const optional<Tensor>& row_weights,
                                                      const Tensor& student_lse, const Tensor& teacher_norm,
                                                      bool skip_same_view, bool soft_targets) {
  Dino d(students, teachers, center, student_temp, teacher_temp, row_weights, skip_same_view, soft_targets);
  const Tensor lse = student_lse.contiguous(), norm = teacher_norm.contiguous();
  d.use(lse, norm);
  std::vector<Tensor> grads;
  std::vector<void*> rows;
  for (const Tensor& group : students) {
    grads.push_back(fresh(group.sizes(), group.scalar_type()));
    char* data = static_cast<char*>(grads.back().mutable_data_ptr());
    for (int64_t i = 0; i < group.size(0); ++i)
      rows.push_back(data + i * group.size(1) * group.size(2) * group.element_size());
  }
  Tensor grad_temp = fresh({}, at::kDouble);
  dino_kernels(capability())
      .backward({d.views, grad.item<double>(), rows.data(), grad_temp.mutable_data_ptr<double>()});
  return {grads, grad_temp};
}

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
  m.def(
      "dino_loss_fwd(Tensor[] students, Tensor[] teachers, Tensor? center, Tensor student_temp, Tensor teacher_temp,"
      " Tensor? row_weights, bool skip_same_view, bool soft_targets) -> (Tensor, Tensor, Tensor)",
      fastssl::dino_loss_fwd);
  m.def(
      "dino_loss_bwd(Tensor grad, Tensor[] students, Tensor[] teachers, Tensor? center, Tensor student_temp,"
      " Tensor teacher_temp, Tensor? row_weights, Tensor student_lse, Tensor teacher_norm, bool skip_same_view,"
      " bool soft_targets) -> (Tensor[], Tensor)",
      fastssl::dino_loss_bwd);
  m.def("sinkhorn_fwd(Tensor logits, int iterations, Tensor temp) -> Tensor", fastssl::sinkhorn_fwd);
  m.def("sinkhorn_pass(Tensor logits, Tensor? center, Tensor temp, bool columns) -> (Tensor, Tensor)",
        fastssl::sinkhorn_pass);
}
