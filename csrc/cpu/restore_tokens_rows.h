// Restoring the order of tokens. Included by restore_tokens.cpp, once per instruction set.
#include "token_rows.h"

// out = in + pos for one row.
FASTSSL_INLINE void place_row_as(ElementType in_type, ElementType out_type, char* out, const char* in, const float* pos,
                                 int64_t width, bool stream) {
  for (int64_t i = 0; i < width; i += LANES) {
    const int64_t left = width - i;
    vfloat x = load_some(in_type, element(in_type, in, i), left);
    if (pos) x += load_some(TYPE_FLOAT32, pos + i, left);
    if (stream && out_type == TYPE_FLOAT32 && left >= LANES) {
      store_past((float*)out + i, x);
    } else {
      store_some(out_type, element(out_type, (void*)out, i), x, left);
    }
  }
}

void place_row(ElementType in_type, ElementType out_type, char* out, const char* in, const float* pos, int64_t width,
               bool stream) {
  if (in_type == TYPE_FLOAT32 && out_type == TYPE_FLOAT32)
    return place_row_as(TYPE_FLOAT32, TYPE_FLOAT32, out, in, pos, width, stream);
  if (in_type == TYPE_BFLOAT16 && out_type == TYPE_FLOAT32)
    return place_row_as(TYPE_BFLOAT16, TYPE_FLOAT32, out, in, pos, width, stream);
  if (in_type == TYPE_BFLOAT16 && out_type == TYPE_BFLOAT16)
    return place_row_as(TYPE_BFLOAT16, TYPE_BFLOAT16, out, in, pos, width, stream);
  place_row_as(in_type, out_type, out, in, pos, width, stream);
}

void restore(const RestoreTokens& r) {
  const int64_t rows = r.prefix + r.ids.count, kept = r.num_visible - r.prefix;
  const int64_t bytes = r.width * bytes_of(r.type);
  const bool stream = r.n * rows * bytes >= STREAM_BYTES;
#pragma omp parallel num_threads(r.threads) if (r.threads > 1)
  {
#pragma omp for schedule(static)
    for (int64_t at = 0; at < r.n * rows; ++at) {
      const int64_t n = at / rows, j = at % rows;
      const int64_t id = j < r.prefix ? j - r.prefix : id_of(r.ids, n, j - r.prefix);
      const bool visible = j < r.prefix || names_row(id, kept);
      const char* in = visible ? row_of(r.visible, n, r.prefix + id) : (const char*)r.mask_token;
      place_row(visible ? r.visible.type : TYPE_FLOAT32, r.type, (char*)r.out + at * bytes, in,
                r.pos ? r.pos + j * r.width : 0, r.width, stream);
    }
    finish_streams();
  }
}

// Chunks of rows, not threads, decide the order of the sums: any number of threads gives the same bits.
void restore_sums(const RestoreSums& r) {
  const int64_t rows = r.prefix + r.ids.count, kept = r.num_visible - r.prefix;
#pragma omp parallel num_threads(r.threads) if (r.threads > 1)
  {
    double* memory = (double*)malloc((size_t)r.width * (2 * sizeof(float) + sizeof(double)));
    float* blocks = (float*)(memory + r.width);
#pragma omp for schedule(dynamic)
    for (int64_t chunk = 0; chunk < r.chunks; ++chunk) {
      RowSum masked = {blocks, r.workspace + chunk * r.width, r.width, 0};
      RowSum every = {blocks + r.width, memory, r.width, 0};
      clear(masked);
      for (int64_t j = rows * chunk / r.chunks; j < rows * (chunk + 1) / r.chunks; ++j) {
        if (r.grad_pos) clear(every);
        for (int64_t n = 0; n < r.n; ++n) {
          const char* row = row_of(r.grad, n, j);
          if (j >= r.prefix && !names_row(id_of(r.ids, n, j - r.prefix), kept)) add(masked, r.grad.type, row);
          if (r.grad_pos) add(every, r.grad.type, row);
        }
        if (!r.grad_pos) continue;
        flush(every);
        for (int64_t i = 0; i < r.width; ++i) r.grad_pos[j * r.width + i] = (float)every.whole[i];
      }
      flush(masked);
    }
    free(memory);
  }
  for (int64_t i = 0; i < r.width; ++i) {
    double sum = 0;
    for (int chunk = 0; chunk < r.chunks; ++chunk) sum += r.workspace[chunk * r.width + i];
    r.grad_mask_token[i] = (float)sum;
  }
}

constexpr RestoreKernels kernels = {restore, restore_sums};
