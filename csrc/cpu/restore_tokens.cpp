// Restoring the order of tokens on the CPU, compiled once per instruction set.
#include "restore_tokens.h"

#include <stdlib.h>

#define FASTSSL_VARIANT "restore_tokens_rows.h"
#include "variants.h"

namespace fastssl {

const RestoreKernels& restore_kernels(const char* capability) { return FASTSSL_PICK(capability); }

}  // namespace fastssl
