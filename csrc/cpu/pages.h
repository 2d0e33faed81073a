// Memory of large results on the CPU, in large pages that are kept for the next result.
#pragma once

#include <cstddef>

namespace fastssl {

struct Pages {
  void* data;
  size_t bytes;   // of data, whole large pages
  void* mapping;  // what was mapped, and how much of it
  size_t mapped;
};

// At least so many bytes, aligned to a large page; null where there is no memory.
Pages* take_pages(size_t bytes);
void return_pages(Pages* pages);

}  // namespace fastssl
