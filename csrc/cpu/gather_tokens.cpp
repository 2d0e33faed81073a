// Gathering tokens on the CPU, compiled once per instruction set.
#include "gather_tokens.h"

#include <stdlib.h>

#define FASTSSL_VARIANT "gather_tokens_rows.h"
#include "variants.h"

namespace fastssl {

const GatherKernels& gather_kernels(const char* capability) { return FASTSSL_PICK(capability); }

}  // namespace fastssl
