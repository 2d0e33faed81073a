// Random rows, ids and scales through the sums over all pairs of rows, in memory of exactly the right size, for the
// sanitizers to watch.
#include <math.h>

#include "../csrc/cpu/ntxent.h"
#include "../csrc/cpu/pairwise_logsumexp.h"
#include "../csrc/cpu/pairwise_softplus.h"
#include "fuzz.h"

using namespace fastssl;

// Numbers of about this size, or any bits.
static void fill(Memory<float>& m, float size) {
  m.randomize();
  if (size == 0) return;
  for (int64_t i = 0; i < m.count; ++i) m.data[i] = size * ((float)below(2001) - 1000) / 1000;
}

static void fill(Memory<double>& m) {
  for (int64_t i = 0; i < m.count; ++i)
    m.data[i] = one_in(8) ? one_of<double>({-INFINITY, INFINITY, NAN, 1e300}) : below(200) - 50;
}

// Rows of any numbers: of one block in three, any bits, and so NaN and infinity.
struct Problem {
  explicit Problem(bool with_y)
      : m(one_in(3) ? 1 + below(400) : 1 + below(40)),
        n(!with_y     ? m
          : one_in(3) ? 1 + below(700)
                      : 1 + below(40)),
        d(one_in(3) ? 1 + below(300) : 1 + below(40)),
        x(m * d, below(3)),
        y(with_y ? n * d : 0, below(3)),
        row_ids(m, below(3)),
        col_ids(with_y ? n : 0, below(3)),
        pairs{x.data, y.data, m, n, d, 0, 0, 0, false, 0} {
    const float size = one_of<float>({0, 0.1f, 1, 100});
    fill(x, size), fill(y, size);
    const int labels = one_of<int>({1, 4, 1000});
    for (int64_t i = 0; i < m; ++i) row_ids.data[i] = below(labels);
    for (int64_t j = 0; j < col_ids.count; ++j) col_ids.data[j] = below(labels);
    if (!one_in(3)) pairs.row_ids = row_ids.data, pairs.col_ids = with_y ? col_ids.data : row_ids.data;
    pairs.scale = one_of<double>({0, 1, -1, 20, -200, 1e-30, 1e30, INFINITY, NAN});
    pairs.bounded = one_in(3);
  }
  const int64_t m, n, d;
  Memory<float> x, y;
  Memory<int32_t> row_ids, col_ids;
  Pairs pairs;
};

// Twice with the same number of threads, over different bytes.
static void again(const char* what, const std::vector<int64_t>& bytes, const std::function<void(void* const*)>& call) {
  twice(what, bytes, [&](void* const* out, int) { call(out); });
}

static void logsumexp_forward(const char* set) {
  const bool with_y = !one_in(3), columns = with_y && one_in(2), attend = with_y && !columns && one_in(2);
  Problem p(with_y);
  p.pairs.threads = 1 + below(5);
  again("forward", {p.m * 8, columns ? p.n * 8 : 0, attend ? p.m * p.d * 4 : 0}, [&](void* const* out) {
    LogsumexpForward a{p.pairs, columns, nullptr, (double*)out[0], (double*)out[1], (float*)out[2]};
    Memory<char> workspace(logsumexp_kernels(set).forward_workspace(a));
    workspace.randomize();
    a.workspace = workspace.data;
    logsumexp_kernels(set).forward(a);
  });
}

static void logsumexp_backward(const char* set) {
  const bool with_y = !one_in(3), rows = !with_y || !one_in(3), columns = with_y && (!rows || one_in(2));
  const bool need_x = !one_in(3), need_y = with_y && one_in(2);
  Problem p(with_y);
  p.pairs.threads = 1 + below(5);
  Memory<float> grad_row(rows ? p.m : 0), grad_col(columns ? p.n : 0);
  fill(grad_row, one_of<float>({0, 1e-8f, 1, 65536})), fill(grad_col, one_of<float>({0, 1, 65536}));
  Memory<double> row_lse(p.m), col_lse(columns ? p.n : 0);
  fill(row_lse), fill(col_lse);
  again("backward", {need_x ? p.m * p.d * 4 : 0, need_y ? p.n * p.d * 4 : 0, 8}, [&](void* const* out) {
    LogsumexpBackward a{p.pairs, grad_row.data,  grad_col.data,  row_lse.data,   col_lse.data,
                        nullptr, (float*)out[0], (float*)out[1], (double*)out[2]};
    Memory<char> workspace(logsumexp_kernels(set).backward_workspace(a));
    workspace.randomize();
    a.workspace = workspace.data;
    logsumexp_kernels(set).backward(a);
  });
}

static void softplus(const char* set) {
  const bool need_x = one_in(2), need_y = one_in(2);
  Problem p(true);
  p.pairs.threads = 1 + below(5);
  Memory<float> bias(p.m, below(3));
  fill(bias, one_of<float>({0, 1, 100}));
  const bool only_same = one_in(2);
  again("softplus", {8, need_x ? p.m * p.d * 4 : 0, need_y ? p.n * p.d * 4 : 0, 8, p.m * 4}, [&](void* const* out) {
    Softplus a{p.pairs,        bias.data,      only_same,       nullptr,       (double*)out[0],
               (float*)out[1], (float*)out[2], (double*)out[3], (float*)out[4]};
    Memory<char> workspace(softplus_kernels(set).workspace(a));
    workspace.randomize();
    a.workspace = workspace.data;
    softplus_kernels(set).forward(a);
  });
}

static void ntxent(const char* set) {
  const int64_t n = one_in(3) ? 1 + below(200) : 1 + below(20), m = 2 * n, d = 1 + below(one_in(3) ? 300 : 40);
  const int threads = 1 + below(5);
  const double tau = one_of<double>({0.005, 0.1, 1});
  Memory<float> z0(n * d, below(3)), z1(n * d, below(3));
  const float size = one_of<float>({0, 1, 1e-20f});
  fill(z0, size), fill(z1, size);
  again("ntxent", {m * d * 4, m * 4, m * 8, m * 4, 4, n * d * 4, n * d * 4, 8}, [&](void* const* out) {
    const NTXentKernels& kernels = ntxent_kernels(set);
    float *zn = (float*)out[0], *inv_norm = (float*)out[1], *nll = (float*)out[3], *loss = (float*)out[4];
    double* lse = (double*)out[2];
    Memory<char> first(kernels.forward_workspace(n, d, threads)), second(kernels.backward_workspace(n, d, threads));
    first.randomize(), second.randomize();
    kernels.forward({z0.data, z1.data, n, d, tau, threads, first.data, zn, inv_norm, lse, nll, loss});
    kernels.backward({zn, inv_norm, lse, nll, n, d, tau, 1.7, threads, second.data, (float*)out[5], (float*)out[6],
                      (double*)out[7]});
  });
}

int main(int, char** arguments) {
  run_rounds_per_set(arguments, [](const char* set) {
    for (auto kernel : {logsumexp_forward, logsumexp_backward, softplus, ntxent}) kernel(set);
  });
}
