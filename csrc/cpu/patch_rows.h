// Patches of images as rows of floats, for one instruction set. Included after token_rows.h.

constexpr int64_t SLACK = 4 * LANES;  // floats that may be written beyond a patch

// `count` elements side by side; whole vectors are written, and nothing is read beyond.
FASTSSL_INLINE void convert_as(ElementType type, float* out, const char* in, int64_t count) {
  int64_t i = 0;
  for (; i + LANES <= count; i += LANES) store(out + i, load_as(type, element(type, in, i)));
  if (i < count) store(out + i, load_some(type, element(type, in, i), count - i));
}

void convert(ElementType type, float* out, const char* in, int64_t count) {
  if (type == TYPE_FLOAT32) return convert_as(TYPE_FLOAT32, out, in, count);
  if (type == TYPE_UINT8) return convert_as(TYPE_UINT8, out, in, count);
  convert_as(type, out, in, count);
}

// `count` elements, `in_step` apart, to places `out_step` apart.
void convert_apart(ElementType type, float* out, int64_t out_step, const char* in, int64_t in_step, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    const char* from = element(type, in, i * in_step);
    float x;
    if (type == TYPE_FLOAT32) {
      memcpy(&x, from, sizeof x);
    } else {
      x = load_some(type, from, 1)[0];
    }
    out[i * out_step] = x;
  }
}

// A row of pixels (q, c) of images whose channels are planes. Whole vectors of three channels are written, the last of
// which may go beyond the row.
void interleave(const Patches& p, float* out, const char* in) {
  if (p.channels != CHANNELS) {
    for (int c = 0; c < p.channels; ++c)
      convert_apart(p.type, out + c, p.channels, element(p.type, in, c * p.channel), 1, p.width);
    return;
  }
  for (int64_t x = 0; x < p.width; x += LANES) {
    const int64_t left = p.width - x;
    const Triple t = join_channels({load_some(p.type, element(p.type, in, x), left),
                                    load_some(p.type, element(p.type, in, p.channel + x), left),
                                    load_some(p.type, element(p.type, in, 2 * p.channel + x), left)});
    store(out + 3 * x, t.a);
    store(out + 3 * x + LANES, t.b);
    store(out + 3 * x + 2 * LANES, t.c);
  }
}

// The patch of one token, normalised; `out` has SLACK floats to spare.
void load_patch(const Patches& p, int64_t n, int64_t token, float* out) {
  const int64_t grid_x = token % p.grid_width, grid_y = token / p.grid_width % p.grid_height;
  const int64_t grid_t = token / p.grid_width / p.grid_height;
  const int64_t corner =
      n * p.sample + grid_t * p.frames * p.frame + grid_y * p.height * p.row + grid_x * p.width * p.column;
  float* at = out;
  if (p.channels_last) {
    const int64_t run = (int64_t)p.width * p.channels;
    const bool side_by_side = (p.channels == 1 || p.channel == 1) && (p.width == 1 || p.column == p.channels);
    for (int t = 0; t < p.frames; ++t)
      for (int y = 0; y < p.height; ++y, at += run) {
        const char* in = element(p.type, p.images, corner + t * p.frame + y * p.row);
        if (side_by_side) {
          convert(p.type, at, in, run);
        } else if (p.column == 1) {
          interleave(p, at, in);
        } else {
          for (int c = 0; c < p.channels; ++c)
            convert_apart(p.type, at + c, p.channels, element(p.type, in, c * p.channel), p.column, p.width);
        }
      }
  } else {
    for (int c = 0; c < p.channels; ++c)
      for (int t = 0; t < p.frames; ++t)
        for (int y = 0; y < p.height; ++y, at += p.width) {
          const char* in = element(p.type, p.images, corner + c * p.channel + t * p.frame + y * p.row);
          if (p.column == 1) {
            convert(p.type, at, in, p.width);
          } else {
            convert_apart(p.type, at, 1, in, p.column, p.width);
          }
        }
  }
  if (p.plain) return;
  const int64_t size = p.size();
  for (int64_t i = 0; i < size; i += LANES) {
    const int64_t left = size - i;
    const vfloat x = load(out + i) * load_some(TYPE_FLOAT32, p.scale + i, left);
    store(out + i, x + load_some(TYPE_FLOAT32, p.shift + i, left));
  }
}
