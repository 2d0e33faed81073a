// Philox4x32-10: Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, 2011.
#pragma once

#include "portable.h"

namespace fastssl {
namespace {

struct Words {
  uint32_t w[4];
};

FASTSSL_HD Words philox(uint64_t seed, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3) {
  uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p = (uint64_t)0xD2511F53u * c0, q = (uint64_t)0xCD9E8D57u * c2;
    c0 = (uint32_t)(q >> 32) ^ c1 ^ k0, c1 = (uint32_t)q;
    c2 = (uint32_t)(p >> 32) ^ c3 ^ k1, c3 = (uint32_t)p;
    k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

}  // namespace
}  // namespace fastssl
