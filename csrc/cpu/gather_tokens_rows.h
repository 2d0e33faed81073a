// Gathering tokens, and its transpose. Included by gather_tokens.cpp, once per instruction set.
#include "token_rows.h"

void gather(const GatherTokens& g) {
  const int64_t rows = g.prefix + g.ids.count;
  const bool stream = g.n * rows * g.bytes >= STREAM_BYTES;
#pragma omp parallel num_threads(g.threads) if (g.threads > 1)
  {
#pragma omp for schedule(static)
    for (int64_t at = 0; at < g.n * rows; ++at) {
      const int64_t n = at / rows, j = at % rows;
      const int64_t id = j < g.prefix ? j - g.prefix : id_of(g.ids, n, j - g.prefix);
      if (j < g.prefix || names_row(id, g.length - g.prefix)) {
        copy_bytes(g.out + at * g.bytes, g.x + n * g.sample + (g.prefix + id) * g.row, g.bytes, stream);
      } else {
        clear_bytes(g.out + at * g.bytes, g.bytes, stream);
      }
    }
    finish_streams();
  }
}

void collect(const CollectTokens& c) {
  const int64_t rows = c.length - c.prefix, bytes = c.width * bytes_of(c.x.type);
  const bool stream = c.n * c.length * bytes >= STREAM_BYTES;
#pragma omp parallel num_threads(c.threads) if (c.threads > 1)
  {
#pragma omp for schedule(static)
    for (int64_t n = 0; n < c.n; ++n) chain(c.ids, n, rows, c.first + n * rows, c.next + n * c.ids.count);
    float* sum = (float*)malloc((size_t)c.width * sizeof(float));
#pragma omp for schedule(static)
    for (int64_t at = 0; at < c.n * c.length; ++at) {
      const int64_t n = at / c.length, j = at % c.length;
      char* out = (char*)c.out + at * bytes;
      const int32_t* next = c.next + n * c.ids.count;
      int32_t i = j < c.prefix ? -1 : c.first[n * rows + j - c.prefix];
      if (j < c.prefix) {
        copy_bytes(out, row_of(c.x, n, j), bytes, stream);
      } else if (i < 0) {
        clear_bytes(out, bytes, stream);
      } else if (next[i] < 0) {
        copy_bytes(out, row_of(c.x, n, c.prefix + i), bytes, stream);
      } else {
        memset(sum, 0, (size_t)c.width * sizeof(float));
        for (; i >= 0; i = next[i]) add_row(c.x.type, sum, row_of(c.x, n, c.prefix + i), c.width);
        for (int64_t e = 0; e < c.width; e += LANES)
          store_some(c.x.type, element(c.x.type, (void*)out, e), load_some(TYPE_FLOAT32, sum + e, c.width - e),
                     c.width - e);
      }
    }
    free(sum);
    finish_streams();
  }
}

constexpr GatherKernels kernels = {gather, collect};
