// The loss on masked patches on the CPU, compiled once per instruction set.
#include "masked_mse.h"

#include <stdlib.h>

#define FASTSSL_VARIANT "masked_mse_rows.h"
#include "variants.h"

namespace fastssl {

const MaskedMSEKernels& masked_mse_kernels(const char* capability) { return FASTSSL_PICK(capability); }

}  // namespace fastssl
