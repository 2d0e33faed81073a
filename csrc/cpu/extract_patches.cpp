// Patches of a jittered grid on the CPU, compiled once per instruction set.
#include "extract_patches.h"

#include <stdlib.h>

#include "patches.h"

#define FASTSSL_VARIANT "extract_patches_rows.h"
#include "variants.h"

namespace fastssl {

const ExtractKernels& extract_kernels(const char* capability) { return FASTSSL_PICK(capability); }

}  // namespace fastssl
