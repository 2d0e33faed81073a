// Log-sum-exp of scores on the CPU, compiled once per instruction set.
#include "pairwise_logsumexp.h"

#include <math.h>
#include <omp.h>

#define FASTSSL_VARIANT "pairwise_logsumexp_tiles.h"
#include "variants.h"

namespace fastssl {

const LogsumexpKernels& logsumexp_kernels(const char* capability) { return FASTSSL_PICK(capability); }

}  // namespace fastssl
