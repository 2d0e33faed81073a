// NT-Xent on the CPU, compiled once per instruction set.
#include "ntxent.h"

#include <math.h>
#include <omp.h>

namespace fastssl {
constexpr double NTXENT_EPS = 1e-12;  // of torch.nn.functional.normalize
}  // namespace fastssl

#define FASTSSL_VARIANT "ntxent_tiles.h"
#include "variants.h"

namespace fastssl {

const NTXentKernels& ntxent_kernels(const char* capability) { return FASTSSL_PICK(capability); }

}  // namespace fastssl
