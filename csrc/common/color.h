// Colour steps on pixels, once for host and device. Included inside a namespace that has defined: vfloat (a float, or a
// vector of them), vmask (what comparing them gives), select(mask, a, b), minimum, maximum, truncate (of values >= 0),
// splat(float), and product(a, b): a product that is rounded before it is added to. No include guard: once an
// instruction set.
//
// `uint8` chooses the rules of torchvision for uint8 tensors: values are integers in [0, 255], and every step
// truncates; operations stand in the order in which torchvision rounds them. Else values are floats, and steps clamp to
// [0, 1].

struct Pixel {
  vfloat r, g, b;
};

FASTSSL_INLINE vfloat clamp(vfloat x, float high) { return minimum(maximum(x, splat(0.f)), splat(high)); }
FASTSSL_INLINE vfloat settle(vfloat x, bool uint8) { return uint8 ? truncate(clamp(x, 255.f)) : clamp(x, 1.f); }

FASTSSL_INLINE vfloat luma(Pixel p) { return p.b * 0.114f + (p.g * 0.587f + product(p.r, splat(0.2989f))); }

// What saturation and contrast blend with.
FASTSSL_INLINE vfloat gray_value(Pixel p, bool uint8) { return uint8 ? truncate(luma(p)) : luma(p); }

FASTSSL_INLINE Pixel brightness(Pixel p, float factor, bool uint8) {
  return {settle(p.r * factor, uint8), settle(p.g * factor, uint8), settle(p.b * factor, uint8)};
}

FASTSSL_INLINE vfloat blend(vfloat x, vfloat other, float factor, bool uint8) {
  const float rest = (float)(1.0 - (double)factor);
  return settle(other * rest + product(x, splat(factor)), uint8);
}

FASTSSL_INLINE Pixel blend(Pixel p, vfloat other, float factor, bool uint8) {
  return {blend(p.r, other, factor, uint8), blend(p.g, other, factor, uint8), blend(p.b, other, factor, uint8)};
}

FASTSSL_INLINE Pixel saturation(Pixel p, float factor, bool uint8) {
  return blend(p, gray_value(p, uint8), factor, uint8);
}

FASTSSL_INLINE Pixel grayscale(Pixel p, bool uint8) {
  const vfloat gray = gray_value(p, uint8);
  return {gray, gray, gray};
}

// x mod 1 for x > -7, in [0, 1).
FASTSSL_INLINE vfloat fraction(vfloat x) { return x - (truncate(x + 8.f) - 8.f); }

// high - delta * fall, fall going from 0 to 1 and back as the hue turns away from the channel's own.
FASTSSL_INLINE vfloat hue_channel(vfloat high, vfloat delta, vfloat sector) {
  const vfloat k = sector - 6.f * (truncate(sector * (1.f / 6.f) + 1.f) - 1.f);  // sector > -6
  const vfloat fall = clamp(minimum(k, 4.f - k), 1.f);
  return select(fall == splat(0.f), high, clamp(high - delta * fall, 1.f));
}

FASTSSL_INLINE Pixel hue_unit(Pixel p, float shift) {
  const vfloat high = maximum(maximum(p.r, p.g), p.b), delta = high - minimum(minimum(p.r, p.g), p.b);
  const vfloat inverse = splat(1.f) / select(delta == splat(0.f), splat(1.f), delta);
  vfloat sector = select(p.g == high, (p.b - p.r) * inverse + 2.f, (p.r - p.g) * inverse + 4.f);
  sector = select(p.r == high, (p.g - p.b) * inverse, sector) + 6.f * shift;
  return {hue_channel(high, delta, sector + 5.f), hue_channel(high, delta, sector + 3.f),
          hue_channel(high, delta, sector + 1.f)};
}

// The same as torchvision writes it, rounding for rounding; from and to integers.
FASTSSL_INLINE Pixel hue_uint8(Pixel p, float shift) {
  const vfloat to_unit = splat((float)(1.0 / 255.0)), one = splat(1.f), zero = splat(0.f);
  const Pixel u = {product(p.r, to_unit), product(p.g, to_unit), product(p.b, to_unit)};
  const vfloat high = maximum(maximum(u.r, u.g), u.b), range = high - minimum(minimum(u.r, u.g), u.b);
  const vfloat s = range / select(range == zero, one, high), divisor = select(range == zero, one, range);
  const vfloat rc = (high - u.r) / divisor, gc = (high - u.g) / divisor, bc = (high - u.b) / divisor;
  vfloat h = select(u.g == high, (rc + 2.f) - bc, (gc + 4.f) - rc);
  h = select(u.r == high, bc - gc, h);
  h = fraction(product(h, splat((float)(1.0 / 6.0))) + 1.f);
  h = fraction(h + shift);
  const vfloat h6 = product(h, splat(6.f)), floor6 = truncate(h6), f = h6 - floor6, sf = product(s, f), rest = 1.f - s;
  const vfloat q = clamp((1.f - sf) * high, 1.f), t = clamp((sf + rest) * high, 1.f), v = high;
  const vfloat low = clamp(rest * high, 1.f);
  const vmask i1 = floor6 == splat(1.f), i2 = floor6 == splat(2.f), i3 = floor6 == splat(3.f);
  const vmask i4 = floor6 == splat(4.f), i5 = floor6 == splat(5.f);
  // Sectors 0 to 5, where 6 counts as 0: red v q p p t v, green t v v q p p, blue p p t v v q.
  const Pixel out = {select(i1, q, select(i2 | i3, low, select(i4, t, v))),
                     select(i1 | i2, v, select(i3, q, select(i4 | i5, low, t))),
                     select(i2, t, select(i3 | i4, v, select(i5, q, low)))};
  return {truncate(out.r * 255.999f), truncate(out.g * 255.999f), truncate(out.b * 255.999f)};
}

FASTSSL_INLINE Pixel hue(Pixel p, float shift, bool uint8) { return uint8 ? hue_uint8(p, shift) : hue_unit(p, shift); }

FASTSSL_INLINE vfloat solarize(vfloat x, float threshold, bool uint8) {
  const float bound = uint8 ? 255.f : 1.f;
  return select(x >= splat(threshold * bound), bound - x, x);
}
