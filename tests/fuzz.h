// What the fuzz programs share: random numbers that come again, memory that ends where it says, and the rounds.
#pragma once

#include <sanitizer/asan_interface.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <deque>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "../csrc/common/philox.h"

namespace fastssl {

inline uint64_t state = 0;
inline Words words() { return philox(7, (uint32_t)state++, 0, 0, 0); }
inline int below(int64_t n) { return (int)(words().w[0] % (uint32_t)n); }
inline bool one_in(int n) { return below(n) == 0; }
template <typename T>
T one_of(const std::vector<T>& values) {
  return values[below((int64_t)values.size())];
}

[[noreturn]] inline void fail(const char* what) {
  fprintf(stderr, "%s\n", what);
  abort();
}

// Not initialised, aligned as torch aligns and null if empty; or `shift` elements further, as a slice is. The
// sanitizers report what touches the bytes behind the last one, and the destructor what they cannot see, such as
// streaming stores.
template <typename T>
class Memory {
 public:
  explicit Memory(int64_t count, int shift = 0) : count(count) {
    if (count == 0) return;
    if (posix_memalign(&start, 64, (count + shift) * sizeof(T) + GUARD)) fail("no memory");
    data = (T*)start + shift;
    memset(end(), 0xa5, GUARD);
    ASAN_POISON_MEMORY_REGION(end(), GUARD);
  }
  ~Memory() {
    if (count == 0) return;
    ASAN_UNPOISON_MEMORY_REGION(end(), GUARD);
    for (int i = 0; i < GUARD; ++i)
      if (end()[i] != 0xa5) fail("the bytes behind a block of memory have changed");
    free(start);
  }
  Memory(const Memory&) = delete;

  // Random bits: of floats, any number there is.
  Memory& randomize() {
    const int64_t bytes = count * (int64_t)sizeof(T);
    for (int64_t i = 0; i < bytes; i += 16) {
      const Words w = words();
      memcpy((char*)data + i, &w, bytes - i < 16 ? bytes - i : 16);
    }
    return *this;
  }

  T* data = nullptr;
  const int64_t count;

 private:
  static constexpr int GUARD = 64;
  uint8_t* end() const { return (uint8_t*)(data + count); }
  void* start = nullptr;
};

// Makes results of so many bytes twice, over different bytes and with different numbers of threads: all must be
// written, both times with the same bits. call(results, threads).
inline void twice(const char* what, const std::vector<int64_t>& bytes,
                  const std::function<void(void* const*, int)>& call) {
  std::deque<Memory<char>> results[2];
  for (int time = 0; time < 2; ++time) {
    std::vector<void*> places;
    for (int64_t size : bytes) {
      places.push_back(results[time].emplace_back(size).data);
      if (size) memset(places.back(), time ? 0xff : 0, size);
    }
    call(places.data(), 1 + 2 * time);
  }
  for (size_t i = 0; i < bytes.size(); ++i)
    if (bytes[i] && memcmp(results[0][i].data, results[1][i].data, bytes[i]))
      fail((std::string(what) + ": not all written, or not twice the same").c_str());
}

// Strides of a tensor whose last axis holds `unit` elements side by side: axes in any order, with gaps, or expanded.
// Returns how many elements it reaches.
inline int64_t strides_of(const std::vector<int64_t>& sizes, int64_t unit, int64_t* strides) {
  std::vector<int> axes;
  for (int axis = (int)sizes.size() - 1; axis >= 0; --axis) axes.push_back(axis);
  for (size_t i = axes.size() - 1; i > 0 && one_in(2); --i) std::swap(axes[i], axes[below((int64_t)i + 1)]);
  int64_t reach = unit, step = unit;
  for (int axis : axes) {
    if (sizes[axis] == 0) reach = 0;
    if (one_in(4)) step += below(5);
    strides[axis] = sizes[axis] == 1 ? below(1000) : one_in(8) ? 0 : step;
    if (sizes[axis] <= 1 || strides[axis] == 0) continue;
    if (reach) reach += (sizes[axis] - 1) * strides[axis];
    step *= sizes[axis];
  }
  return reach;
}

// Runs as many rounds as the program's argument says.
inline void run_rounds(char** arguments, const std::string& label, const std::function<void()>& round) {
  const int rounds = atoi(arguments[1]);
  state = 0;
  for (int i = 0; i < rounds; ++i) round();
  printf("%s%d rounds without a fault\n", label.c_str(), rounds);
  fflush(stdout);
}

// The same rounds for each instruction set of this processor, as at::get_cpu_capability() calls them.
inline void run_rounds_per_set(char** arguments, void (*round)(const char*)) {
  std::vector<const char*> sets = {"DEFAULT"};
#ifdef __x86_64__
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) sets.push_back("AVX2");
  if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq")) sets.push_back("AVX512");
#endif
  for (const char* set : sets) run_rounds(arguments, std::string(set) + " ", [&] { round(set); });
}

}  // namespace fastssl
