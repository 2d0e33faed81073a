// Random logits, centers and temperatures through an iteration of Sinkhorn-Knopp, in memory of exactly the right size,
// for the sanitizers to watch.
#include <math.h>

#include "../csrc/cpu/sinkhorn.h"
#include "fuzz.h"

using namespace fastssl;

static int64_t size_of(int often, int rarely) { return 1 + below(one_in(4) ? rarely : often); }

// Many samples or many prototypes, of any type and any distance of their rows; their bits are any, or small numbers.
static void pass(const char* set) {
  const ElementType type = one_of<ElementType>({TYPE_FLOAT32, TYPE_FLOAT16, TYPE_BFLOAT16});
  const bool wide = one_in(2), wild = one_in(3), centered = !one_in(3), columns = !one_in(4);
  const int64_t bytes = type == TYPE_FLOAT32 ? 4 : 2;
  const int64_t samples = wide ? below(40) : size_of(300, 2500),
                prototypes = wide ? size_of(300, 6000) : size_of(20, 90);
  const int64_t row = one_in(8) ? 0 : prototypes + (one_in(2) ? below(9) : 0);
  const int64_t count = samples ? (samples - 1) * row + prototypes : 0;
  Memory<char> logits(count * bytes, (int)bytes * below(3));
  logits.randomize();
  for (int64_t i = 0; !wild && i < count; ++i) logits.data[(i + 1) * bytes - 1] &= 0xbf;
  Memory<float> center(centered ? prototypes : 0, below(3));
  for (int64_t k = 0; k < center.count; ++k)
    center.data[k] = wild && one_in(9) ? one_of<float>({INFINITY, -INFINITY, NAN, 1e38f}) : (float)below(100) - 50;
  Sinkhorn s{logits.data, type, row, samples, prototypes, center.data, one_of<double>({0.04, 1, 30, 1e-30, 1e30})};
  s.threads = 1 + below(5);
  twice("sinkhorn", {samples * 8, columns ? prototypes * 8 : 0}, [&](void* const* out, int) {
    Sinkhorn call = s;
    call.row_lse = (double*)out[0], call.column_lse = (double*)out[1];
    Memory<char> workspace(sinkhorn_kernels(set).workspace(call));
    workspace.randomize();
    call.workspace = workspace.data;
    sinkhorn_kernels(set).pass(call);
  });
}

int main(int, char** arguments) { run_rounds_per_set(arguments, pass); }
