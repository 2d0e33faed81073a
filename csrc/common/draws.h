// Numbers from random words, bit for bit the same on every device: float64, nothing fused.
#pragma once

#include "philox.h"

namespace fastssl {
namespace {

FASTSSL_HD double uniform(uint32_t word) { return word * 0x1p-32; }
FASTSSL_HD double between(double low, double high, double u) { return exact_add(low, exact_mul(high - low, u)); }
FASTSSL_HD double round_half_up(double x) { return floor_of(x + 0.5); }

// e^x for |x| < 700 from additions and products alone.
FASTSSL_HD double exact_exp(double x) {
  const double inverse_factorial[14] = {1.6059043836821613e-10,
                                        2.08767569878681e-09,
                                        2.505210838544172e-08,
                                        2.755731922398589e-07,
                                        2.7557319223985893e-06,
                                        2.48015873015873e-05,
                                        0.0001984126984126984,
                                        0.001388888888888889,
                                        0.008333333333333333,
                                        0.041666666666666664,
                                        0.16666666666666666,
                                        0.5,
                                        1.0,
                                        1.0};
  const double k = floor_of(exact_add(exact_mul(x, 1.4426950408889634), 0.5));
  const double high = exact_add(x, -exact_mul(k, 0.6931471803691238));
  const double r = exact_add(high, -exact_mul(k, 1.9082149292705877e-10));
  double p = inverse_factorial[0];
  for (int i = 1; i < 14; ++i) p = exact_add(exact_mul(p, r), inverse_factorial[i]);
  union {
    uint64_t bits;
    double value;
  } power = {(uint64_t)((int64_t)k + 1023) << 52};
  return exact_mul(p, power.value);
}

}  // namespace
}  // namespace fastssl
