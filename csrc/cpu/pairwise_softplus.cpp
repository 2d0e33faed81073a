// The sum of the softplus of signed logits on the CPU, compiled once per instruction set.
#include "pairwise_softplus.h"

#include <math.h>
#include <omp.h>

#define FASTSSL_VARIANT "pairwise_softplus_tiles.h"
#include "variants.h"

namespace fastssl {

const SoftplusKernels& softplus_kernels(const char* capability) { return FASTSSL_PICK(capability); }

}  // namespace fastssl
