// The end of a view's row: solarize, normalise, convert and store in any layout. Included by augment_view.h.

// `count` elements that are `step` apart.
void scatter(ElementType type, char* out, int64_t step, vfloat x, int64_t count) {
  alignas(64) char memory[LANES * 4];
  store_as(type, memory, x);
  for (int64_t i = 0; i < count; ++i) {
    if (type == TYPE_FLOAT32) {
      ((float*)out)[i * step] = ((const float*)memory)[i];
    } else {
      ((uint16_t*)out)[i * step] = ((const uint16_t*)memory)[i];
    }
  }
}

FASTSSL_INLINE vfloat finish(const View& v, vfloat x, int c) {
  const bool uint8 = v.call->uint8;
  if (v.params.threshold < infinity()) x = solarize(x, v.params.threshold, uint8);
  if (uint8) x *= (float)(1.0 / 255.0);
  return (x - v.call->mean[c]) * (1.f / v.call->std[c]);
}

// Row y of the state; a rotated view has it in a column, or the other way round.
void store_row(const View& v, float* rows, int y) {
  const AugmentOutput& o = v.out;
  const int turns = v.params.turns;
  const int64_t last_row = o.height - 1, last_column = o.width - 1;
  // Element 0 and the way to the next: a quarter turn counter-clockwise takes (y, x) to (last_column - x, y).
  const int64_t start = turns == 0   ? y * o.row
                        : turns == 1 ? last_column * o.row + y * o.column
                        : turns == 2 ? (last_row - y) * o.row + last_column * o.column
                                     : (last_row - y) * o.column;
  const int64_t step = turns == 0 ? o.column : turns == 1 ? -o.row : turns == 2 ? -o.column : o.row;
  const ElementType type = v.call->type;
  if (v.call->channels == CHANNELS && step == CHANNELS && o.channel == 1) {
    for (int64_t x = 0; x < o.width; x += LANES) {
      const Triple t = join_channels({finish(v, load(rows + x), 0), finish(v, load(rows + v.stride + x), 1),
                                      finish(v, load(rows + 2 * v.stride + x), 2)});
      const vfloat parts[CHANNELS] = {t.a, t.b, t.c};
      for (int k = 0; k < CHANNELS; ++k) {
        const int64_t at = CHANNELS * x + k * LANES, left = CHANNELS * (int64_t)o.width - at;
        char* to = element(type, v.target, start + at);
        if (left >= LANES) {
          store_as(type, to, parts[k]);
        } else if (left > 0) {
          scatter(type, to, 1, parts[k], left);
        }
      }
    }
    return;
  }
  for (int c = 0; c < v.call->channels; ++c)
    for (int64_t x = 0; x < o.width; x += LANES) {
      const vfloat value = finish(v, load(rows + c * v.stride + x), c);
      char* to = element(type, v.target, c * o.channel + start + x * step);
      const int64_t left = o.width - x;
      if (step == 1 && left >= LANES) {
        store_as(type, to, value);
      } else {
        scatter(type, to, step, value, left < LANES ? left : LANES);
      }
    }
}
