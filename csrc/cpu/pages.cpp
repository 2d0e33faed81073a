// The first touch of fresh memory costs several times what a kernel needs to fill it: the system clears every page. The
// C library gives blocks of 32 MB and more back to the system at once, so a training loop would pay that in every
// step. Blocks that are returned here stay mapped, up to a limit, and the system is told that it may take their pages
// whenever it is short of memory.
#include "pages.h"

#include <stdlib.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

#include <atomic>

namespace fastssl {
namespace {

constexpr size_t LARGE_PAGE = size_t{2} << 20;
constexpr int SLOTS = 16;

// Free blocks, the oldest first. A thread that finds the list in use goes on without it, so none ever waits: not even
// in a process that was forked while another thread had it.
Pages* kept[SLOTS];
int count = 0;
size_t kept_bytes = 0;
std::atomic_flag busy = ATOMIC_FLAG_INIT;

size_t limit() {
  static const size_t bytes = [] {
    const char* mib = getenv("FASTSSL_CPU_CACHE_MIB");
    return static_cast<size_t>(mib ? strtoull(mib, nullptr, 10) : 256) << 20;
  }();
  return bytes;
}

Pages* remove(int slot) {
  Pages* pages = kept[slot];
  for (--count; slot < count; ++slot) kept[slot] = kept[slot + 1];
  kept_bytes -= pages->bytes;
  return pages;
}

#ifdef __linux__
Pages* map(size_t bytes) {
  const size_t mapped = bytes + LARGE_PAGE;
  void* mapping = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED) return nullptr;
  const size_t start = (reinterpret_cast<size_t>(mapping) + LARGE_PAGE - 1) / LARGE_PAGE * LARGE_PAGE;
  void* data = reinterpret_cast<void*>(start);
  madvise(data, bytes, MADV_HUGEPAGE);
  return new Pages{data, bytes, mapping, mapped};
}

void unmap(Pages* pages) {
  munmap(pages->mapping, pages->mapped);
  delete pages;
}

void offer(Pages* pages) { madvise(pages->data, pages->bytes, MADV_FREE); }
#else
Pages* map(size_t bytes) {
  void* data = aligned_alloc(LARGE_PAGE, bytes);
  return data ? new Pages{data, bytes, data, bytes} : nullptr;
}

void unmap(Pages* pages) {
  free(pages->mapping);
  delete pages;
}

void offer(Pages*) {}
#endif

}  // namespace

Pages* take_pages(size_t bytes) {
  bytes = (bytes + LARGE_PAGE - 1) / LARGE_PAGE * LARGE_PAGE;
  Pages* found = nullptr;
  if (!busy.test_and_set(std::memory_order_acquire)) {
    for (int slot = count - 1; slot >= 0 && !found; --slot)  // the newest, which may still be in a cache
      if (kept[slot]->bytes >= bytes && kept[slot]->bytes <= bytes + bytes / 4) found = remove(slot);
    busy.clear(std::memory_order_release);
  }
  return found ? found : map(bytes);
}

void return_pages(Pages* pages) {
  Pages* evicted[SLOTS + 1];
  int leaving = 0;
  if (pages->bytes <= limit() && !busy.test_and_set(std::memory_order_acquire)) {
    while (count == SLOTS || kept_bytes + pages->bytes > limit()) evicted[leaving++] = remove(0);
    offer(pages);
    kept[count++] = pages, kept_bytes += pages->bytes;
    busy.clear(std::memory_order_release);
  } else {
    evicted[leaving++] = pages;
  }
  while (leaving > 0) unmap(evicted[--leaving]);
}

}  // namespace fastssl
