// Sinkhorn-Knopp on the CPU, compiled once per instruction set.
#include "sinkhorn.h"

#include <math.h>
#include <omp.h>

#define FASTSSL_VARIANT "sinkhorn_tiles.h"
#include "variants.h"

namespace fastssl {

const SinkhornKernels& sinkhorn_kernels(const char* capability) { return FASTSSL_PICK(capability); }

}  // namespace fastssl
