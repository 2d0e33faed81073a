// Cross-entropy with sparse soft targets on the CPU, compiled once per instruction set.
#include "sparse_cross_entropy.h"

#include <math.h>
#include <stdlib.h>

#define FASTSSL_VARIANT "sparse_cross_entropy_tiles.h"
#include "variants.h"

namespace fastssl {

const SparseKernels& sparse_kernels(const char* capability) { return FASTSSL_PICK(capability); }

}  // namespace fastssl
