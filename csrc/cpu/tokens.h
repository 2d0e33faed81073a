// Tokens on the CPU: widths and strides in elements; the elements of a row lie side by side. An id that names no row
// gives zeros, or nothing.
#pragma once

#include <cstdint>

#include "../common/portable.h"

namespace fastssl {

// Rows [n, rows, width] of a tensor.
struct TokenRows {
  const void* data;
  ElementType type;
  int64_t sample, row;  // strides
};

// ids [n, count].
struct TokenIds {
  const int64_t* data;
  int64_t sample, column;  // strides
  int64_t count;
};

}  // namespace fastssl
