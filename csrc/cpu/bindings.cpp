// The CPU kernels as torch.ops.fastssl_cpp: the only CPU file that includes torch headers.
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <Python.h>
#include <torch/library.h>

#include <string>
#include <tuple>

#include "ntxent.h"

// An empty module: importing it runs the static registrations below.
extern "C" __attribute__((visibility("default"))) PyObject* PyInit__C(void) {
  static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&module);
}

namespace fastssl {
namespace {

using at::Tensor;

int threads() { return at::in_parallel_region() ? 1 : at::get_num_threads(); }

const NTXentKernels& kernels() {
  static const std::string capability = at::get_cpu_capability();
  return ntxent_kernels(capability.c_str());
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> ntxent_fwd(const Tensor& z0, const Tensor& z1,
                                                              const Tensor& temperature) {
  const Tensor a = z0.to(at::kFloat).contiguous(), b = z1.to(at::kFloat).contiguous();
  const int64_t n = a.size(0), d = a.size(1);
  const auto options = a.options();
  Tensor loss = at::empty({}, options), zn = at::empty({2 * n, d}, options), inv_norm = at::empty({2 * n}, options);
  Tensor lse = at::empty({2 * n}, options.dtype(at::kDouble)), nll = at::empty({2 * n}, options);
  Tensor workspace = at::empty({kernels().forward_workspace(n, d)}, options);
  kernels().forward({a.const_data_ptr<float>(), b.const_data_ptr<float>(), n, d, temperature.item<double>(), threads(),
                     workspace.mutable_data_ptr<float>(), zn.mutable_data_ptr<float>(),
                     inv_norm.mutable_data_ptr<float>(), lse.mutable_data_ptr<double>(), nll.mutable_data_ptr<float>(),
                     loss.mutable_data_ptr<float>()});
  return {loss, zn, inv_norm, lse, nll};
}

std::tuple<Tensor, Tensor, Tensor> ntxent_bwd(const Tensor& grad, const Tensor& z0, const Tensor& z1,
                                              const Tensor& temperature, const Tensor& zn, const Tensor& inv_norm,
                                              const Tensor& lse, const Tensor& nll) {
  const int64_t n = z0.size(0), d = z0.size(1);
  const auto options = zn.options();
  Tensor grad_z0 = at::empty({n, d}, options), grad_z1 = at::empty({n, d}, options);
  Tensor workspace = at::empty({kernels().backward_workspace(n, d)}, options);
  double grad_tau = 0;
  kernels().backward({zn.const_data_ptr<float>(), inv_norm.const_data_ptr<float>(), lse.const_data_ptr<double>(),
                      nll.const_data_ptr<float>(), n, d, temperature.item<double>(), grad.item<double>(), threads(),
                      workspace.mutable_data_ptr<float>(), grad_z0.mutable_data_ptr<float>(),
                      grad_z1.mutable_data_ptr<float>(), &grad_tau});
  return {grad_z0.to(z0.scalar_type()), grad_z1.to(z1.scalar_type()),
          at::empty({}, temperature.options()).fill_(grad_tau)};
}

}  // namespace
}  // namespace fastssl

TORCH_LIBRARY(fastssl_cpp, m) {
  m.def("ntxent_fwd(Tensor z0, Tensor z1, Tensor temperature) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "ntxent_bwd(Tensor grad, Tensor z0, Tensor z1, Tensor temperature, Tensor zn, Tensor inv_norm, Tensor lse,"
      " Tensor nll) -> (Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(fastssl_cpp, CPU, m) {
  m.impl("ntxent_fwd", fastssl::ntxent_fwd);
  m.impl("ntxent_bwd", fastssl::ntxent_bwd);
}
