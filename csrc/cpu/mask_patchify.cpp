// Visible patches on the CPU, compiled once per instruction set.
#include "mask_patchify.h"

#include <stdlib.h>

#define FASTSSL_VARIANT "mask_patchify_rows.h"
#include "variants.h"

namespace fastssl {

const PatchKernels& patch_kernels(const char* capability) { return FASTSSL_PICK(capability); }

}  // namespace fastssl
