// Random logits, centers and temperatures through Sinkhorn-Knopp, in memory of exactly the right size,
// for the sanitizers to watch.
#include <math.h>

#include "../csrc/cpu/sinkhorn.h"
#include "fuzz.h"

using namespace fastssl;

static int64_t size_of(int often, int rarely) { return 1 + below(one_in(4) ? rarely : often); }

// Many samples or many prototypes, of any type and any distance of their rows; their bits are any, or small numbers.
struct Problem {
  explicit Problem(int64_t fewest)
      : type(one_of<ElementType>({TYPE_FLOAT32, TYPE_FLOAT16, TYPE_BFLOAT16})),
        bytes(type == TYPE_FLOAT32 ? 4 : 2),
        wide(one_in(2)),
        samples(fewest + (wide ? below(40) : size_of(300, 2500))),
        prototypes(wide ? size_of(300, 6000) : size_of(20, 90)),
        row(one_in(8) ? 0 : prototypes + (one_in(2) ? below(9) : 0)),
        count(samples ? (samples - 1) * row + prototypes : 0),
        logits(count * bytes, (int)bytes * below(3)) {
    logits.randomize();
    for (int64_t i = 0; !wild && i < count; ++i) logits.data[(i + 1) * bytes - 1] &= 0xbf;
    const double temp = one_of<double>({0.04, 1, 30, 1e-30, 1e30});
    call = {logits.data, type, row, samples, prototypes, temp, 1 + below(5), nullptr};
  }
  const ElementType type;
  const int64_t bytes;
  const bool wide, wild = one_in(3);
  const int64_t samples, prototypes, row, count;
  Memory<char> logits;
  Sinkhorn call;
};

static void pass(const char* set) {
  const Problem p(0);
  Memory<float> center(one_in(3) ? 0 : p.prototypes, below(3));
  for (int64_t k = 0; k < center.count; ++k)
    center.data[k] = p.wild && one_in(9) ? one_of<float>({INFINITY, -INFINITY, NAN, 1e38f}) : (float)below(100) - 50;
  const bool columns = !one_in(4);
  twice("pass", {p.samples * 8, columns ? p.prototypes * 8 : 0}, [&](void* const* out, int) {
    SinkhornPass s{p.call, center.data, (double*)out[0], (double*)out[1]};
    Memory<char> workspace(sinkhorn_kernels(set).pass_workspace(s));
    workspace.randomize();
    s.problem.workspace = workspace.data;
    sinkhorn_kernels(set).pass(s);
  });
}

static void fit(const char* set) {
  const Problem p(1);
  const int iterations = 1 + below(4);
  twice("fit", {p.prototypes * 4}, [&](void* const* out, int) {
    SinkhornFit s{p.call, iterations, (float*)out[0]};
    Memory<char> workspace(sinkhorn_kernels(set).fit_workspace(s));
    workspace.randomize();
    s.problem.workspace = workspace.data;
    sinkhorn_kernels(set).fit(s);
  });
}

int main(int, char** arguments) {
  run_rounds_per_set(arguments, [](const char* set) { pass(set), fit(set); });
}
