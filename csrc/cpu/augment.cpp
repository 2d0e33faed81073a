// Augmentation on the CPU, compiled once per instruction set.
#include "augment.h"

#include <omp.h>

#include "augment_axis.h"

#define FASTSSL_VARIANT "augment_view.h"
#include "variants.h"

namespace fastssl {

const AugmentKernels& augment_kernels(const char* capability) { return FASTSSL_PICK(capability); }

}  // namespace fastssl
