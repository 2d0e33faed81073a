// Visible patches, and the gradient of their positions. Included by mask_patchify.cpp, once per instruction set.
// clang-format off
#include "token_rows.h"
#include "patch_rows.h"
// clang-format on

void patchify(const MaskPatchify& m) {
  const Patches& p = m.patches;
  const int64_t size = p.size(), bytes = size * bytes_of(m.type), count = m.ids.count;
  const bool stream = m.n * count * bytes >= STREAM_BYTES;
#pragma omp parallel num_threads(m.threads) if (m.threads > 1)
  {
    float* patch = (float*)malloc((size_t)(size + SLACK) * sizeof(float));
#pragma omp for schedule(static)
    for (int64_t at = 0; at < m.n * count; ++at) {
      const int64_t n = at / count, token = id_of(m.ids, n, at % count);
      char* out = (char*)m.out + at * bytes;
      if (!names_row(token, p.tokens())) {
        clear_bytes(out, bytes, stream);
        continue;
      }
      load_patch(p, n, token, patch);
      if (m.type == TYPE_FLOAT32) {
        copy_bytes(out, (const char*)patch, bytes, stream);
      } else {
        for (int64_t i = 0; i < size; i += LANES)
          store_some(m.type, element(m.type, (void*)out, i), load(patch + i), size - i);
      }
    }
    free(patch);
    finish_streams();
  }
}

void sum(const SumTokens& s) {
#pragma omp parallel num_threads(s.threads) if (s.threads > 1)
  {
    double* memory = (double*)malloc((size_t)s.width * (sizeof(float) + sizeof(double)));
    RowSum rows = {(float*)(memory + s.width), memory, s.width, 0};
#pragma omp for schedule(static)
    for (int64_t n = 0; n < s.n; ++n) chain(s.ids, n, s.length, s.first + n * s.length, s.next + n * s.ids.count);
#pragma omp for schedule(dynamic)
    for (int64_t l = 0; l < s.length; ++l) {
      clear(rows);
      for (int64_t n = 0; n < s.n; ++n)
        for (int32_t i = s.first[n * s.length + l]; i >= 0; i = s.next[n * s.ids.count + i])
          add(rows, s.x.type, row_of(s.x, n, i));
      flush(rows);
      for (int64_t i = 0; i < s.width; ++i) s.out[l * s.width + i] = (float)rows.whole[i];
    }
    free(memory);
  }
}

constexpr PatchKernels kernels = {patchify, sum};
