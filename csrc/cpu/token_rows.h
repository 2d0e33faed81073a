// Rows of tokens for one instruction set: copied past the caches, found by their ids, added up. Included after simd.h,
// in a namespace of its own.
// clang-format off
#include "elements.h"
#include "streams.h"
// clang-format on

constexpr int64_t BLOCK_ROWS = 64;  // added in float32 before they join a float64 sum

void copy_bytes(char* out, const char* in, int64_t bytes, bool stream) {
  int64_t i = 0;
  if (stream)
    for (; i + 4 * LANES <= bytes; i += 4 * LANES) {
      vfloat x;
      memcpy(&x, in + i, sizeof x);
      store_past(out + i, x);
    }
  if (i < bytes) memcpy(out + i, in + i, (size_t)(bytes - i));  // an empty tensor has no address
}

void clear_bytes(char* out, int64_t bytes, bool stream) {
  int64_t i = 0;
  if (stream)
    for (; i + 4 * LANES <= bytes; i += 4 * LANES) store_past(out + i, vfloat{});
  if (i < bytes) memset(out + i, 0, (size_t)(bytes - i));
}

FASTSSL_INLINE int64_t id_of(const TokenIds& ids, int64_t n, int64_t i) {
  return ids.data[n * ids.sample + i * ids.column];
}

FASTSSL_INLINE bool names_row(int64_t id, int64_t rows) { return id >= 0 && id < rows; }

FASTSSL_INLINE const char* row_of(const TokenRows& x, int64_t n, int64_t i) {
  return element(x.type, x.data, n * x.sample + i * x.row);
}

// For each row the first i with ids[i] = row, and from there the next ones, in ascending order; -1 at the end.
void chain(const TokenIds& ids, int64_t n, int64_t rows, int32_t* first, int32_t* next) {
  for (int64_t r = 0; r < rows; ++r) first[r] = -1;
  for (int64_t i = ids.count - 1; i >= 0; --i) {
    const int64_t id = id_of(ids, n, i);
    next[i] = -1;
    if (names_row(id, rows)) next[i] = first[id], first[id] = (int32_t)i;
  }
}

FASTSSL_INLINE void add_row_as(ElementType type, float* sum, const char* row, int64_t width) {
  int64_t i = 0;
  for (; i + LANES <= width; i += LANES) store(sum + i, load(sum + i) + load_as(type, element(type, row, i)));
  if (i < width) {
    const vfloat x = load_some(TYPE_FLOAT32, sum + i, width - i) + load_some(type, element(type, row, i), width - i);
    store_some(TYPE_FLOAT32, sum + i, x, width - i);
  }
}

void add_row(ElementType type, float* sum, const char* row, int64_t width) {
  if (type == TYPE_FLOAT32) return add_row_as(TYPE_FLOAT32, sum, row, width);
  if (type == TYPE_FLOAT16) return add_row_as(TYPE_FLOAT16, sum, row, width);
  add_row_as(TYPE_BFLOAT16, sum, row, width);
}

// A sum of many rows: float32 within a block, float64 over the blocks.
struct RowSum {
  float* block;   // [width]
  double* whole;  // [width]
  int64_t width, rows;
};

void flush(RowSum& s) {
  for (int64_t i = 0; i < s.width; ++i) s.whole[i] += s.block[i], s.block[i] = 0;
  s.rows = 0;
}

void clear(RowSum& s) {
  for (int64_t i = 0; i < s.width; ++i) s.block[i] = 0, s.whole[i] = 0;
  s.rows = 0;
}

FASTSSL_INLINE void add(RowSum& s, ElementType type, const char* row) {
  add_row(type, s.block, row, s.width);
  if (++s.rows == BLOCK_ROWS) flush(s);
}
