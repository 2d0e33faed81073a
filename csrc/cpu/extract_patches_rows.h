// Patches of a jittered grid: a channel is read once, into floats that stay in the caches until its statistics are
// known. Included by extract_patches.cpp, once per instruction set.
// clang-format off
#include "token_rows.h"
#include "patch_rows.h"
#include "normals.h"
// clang-format on

constexpr double VARIANCE_EPS = 1e-6, NOISE_DEVIATION = 0.01;
constexpr int AHEAD = 8;  // rows

// What becomes of the numbers of a channel: (x - mean) factor + shift.
struct Affine {
  float mean, factor, shift;
};

struct Moments {
  double mean, variance;
};

// Sums of differences to the first number, of which there are none in a constant channel.
Moments moments(const float* x, int64_t count) {
  constexpr int64_t STEP = 4 * LANES, CHUNK = 16 * STEP;  // numbers added in float32 before they join the float64 sum
  double mean = 0, variance = 0;
  for (int pass = 0; pass < 2; ++pass) {
    const float away = pass ? (float)mean : x[0];
    double total = 0;
    int64_t i = 0;
    while (i + STEP <= count) {
      vfloat sums[4] = {};
      for (const int64_t end = smaller(i + CHUNK, count); i + STEP <= end; i += STEP)
        for (int k = 0; k < 4; ++k) {
          const vfloat d = load(x + i + k * LANES) - away;
          sums[k] += pass ? d * d : d;
        }
      total += sum_lanes((sums[0] + sums[1]) + (sums[2] + sums[3]));
    }
    for (; i < count; ++i) {
      const float d = x[i] - away;
      total += pass ? d * d : d;
    }
    if (pass) {
      variance = total / (double)count;
    } else {
      mean = x[0] + total / (double)count;
    }
  }
  return {mean, variance};
}

void store_channel(ElementType type, char* out, const float* in, int64_t count, Affine a, bool stream) {
  int64_t i = 0;
  if (type == TYPE_FLOAT32 && stream)
    for (; i + LANES <= count; i += LANES)
      store_past(element(type, (void*)out, i), (load(in + i) - a.mean) * a.factor + a.shift);
  for (; i < count; i += LANES)
    store_some(type, element(type, (void*)out, i), (load(in + i) - a.mean) * a.factor + a.shift, count - i);
}

// Asks for a row that is read soon: rows are too far apart in memory to be foreseen.
FASTSSL_INLINE void fetch(const char* row, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(row + i);
  __builtin_prefetch(row + bytes - 1);
}

// Channel c of the patch at `corner`; `out` has SLACK floats to spare.
void load_channel(const ExtractPatches& e, int64_t corner, int64_t c, float* out) {
  const int64_t width = e.grid.width;
  for (int y = 0; y < e.grid.height; ++y, out += width) {
    const char* in = element(e.type, e.images, corner + c * e.channel + y * e.row);
    if (e.column == 1) {
      if (y + AHEAD < e.grid.height) fetch(element(e.type, in, AHEAD * e.row), width * bytes_of(e.type));
      convert(e.type, out, in, width);
    } else {
      convert_apart(e.type, out, 1, in, e.column, width);
    }
  }
}

// Three channels that are interleaved, to places `plane` apart; `line` holds a row of them.
void load_channels(const ExtractPatches& e, int64_t corner, float* out, int64_t plane, float* line) {
  const int64_t width = e.grid.width, numbers = CHANNELS * width;
  for (int y = 0; y < e.grid.height; ++y, out += width) {
    const char* in = element(e.type, e.images, corner + y * e.row);
    if (y + AHEAD < e.grid.height) fetch(element(e.type, in, AHEAD * e.row), numbers * bytes_of(e.type));
    convert(e.type, line, in, numbers);
    for (int64_t x = 0; x < width; x += LANES) {
      const Triple t = split_channels(line + CHANNELS * x);
      store(out + x, t.a), store(out + plane + x, t.b), store(out + 2 * plane + x, t.c);
    }
  }
}

void extract(const ExtractPatches& e) {
  const int64_t pixels = (int64_t)e.grid.height * e.grid.width, plane = pixels + SLACK, q = (pixels + 3) / 4;
  const int64_t count = (int64_t)e.grid.rows * e.grid.columns, bytes = pixels * bytes_of(e.out_type);
  const bool interleaved = e.channels == CHANNELS && e.channel == 1 && e.column == CHANNELS;
  const int64_t planes = interleaved ? CHANNELS : 1, line = CHANNELS * (int64_t)e.grid.width + SLACK;
  const bool stream = e.n * count * e.channels * bytes >= STREAM_BYTES;
#pragma omp parallel num_threads(e.threads) if (e.threads > 1)
  {
    float* memory = (float*)malloc((size_t)((planes + 1) * plane + line) * sizeof(float));
    float *noise = memory + planes * plane, *row = noise + plane;
#pragma omp for schedule(static)
    for (int64_t at = 0; at < e.n * count; ++at) {
      const int64_t n = at / count, p = at % count;
      const Draw draw = {e.seed, e.ids ? e.ids[n] : n, e.view};
      const PatchPlace place = patch_place(draw, e.grid, (uint32_t)p, e.channels);
      const int64_t corner = n * e.sample + place.top * e.row + place.left * e.column;
      const bool alone = (int64_t)place.gate < e.keep && e.channels > 1;
      e.corners[2 * at] = place.top, e.corners[2 * at + 1] = place.left;
      if (interleaved) load_channels(e, corner, memory, plane, row);
      float deviation = 0;  // of noise
      // The kept channel first, then those that are made after it.
      for (int64_t i = 0; i < e.channels; ++i) {
        const int64_t c = alone ? (place.kept + i) % e.channels : i;
        char* out = (char*)e.patches + (at * e.channels + c) * bytes;
        if (alone && i > 0) {
          normals(draw, (uint32_t)((p * e.channels + c) * q), pixels, noise);
          store_channel(e.out_type, out, noise, pixels, {0, deviation, 0}, stream);
          continue;
        }
        const float* x = interleaved ? memory + c * plane : memory;
        if (!interleaved) load_channel(e, corner, c, memory);
        Affine affine = {0, (float)e.scale[c], (float)e.shift[c]};
        if (alone || e.standardize) {
          const Moments m = moments(x, pixels);
          const double variance = m.variance * e.scale[c] * e.scale[c];
          const double inverse = e.standardize ? 1 / __builtin_sqrt(variance + VARIANCE_EPS) : 1;
          deviation = (float)(NOISE_DEVIATION * __builtin_sqrt(variance) * inverse);
          if (e.standardize) affine = {(float)m.mean, (float)(e.scale[c] * inverse), 0};
        }
        store_channel(e.out_type, out, x, pixels, affine, stream);
      }
    }
    free(memory);
    finish_streams();
  }
}

constexpr ExtractKernels kernels = {extract};
