// Cross-entropies between teachers and students on the CPU, compiled once per instruction set.
#include "dino_loss.h"

#include <math.h>
#include <stdlib.h>

#define FASTSSL_VARIANT "dino_loss_rows.h"
#include "variants.h"

namespace fastssl {

const DinoKernels& dino_kernels(const char* capability) { return FASTSSL_PICK(capability); }

}  // namespace fastssl
