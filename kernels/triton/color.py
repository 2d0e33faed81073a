"""Colour steps on pixels: csrc/common/color.h, function by function, on tiles r, g, b.

UINT8 chooses the rules of torchvision for uint8 tensors: values are integers in [0, 255], and every step truncates.
Else values are floats, and steps clamp to [0, 1]. For kernels compiled without fusion: where torch fuses, fma says so.
"""

import triton
import triton.language as tl


@triton.jit
def clamp(x, high):
    return tl.minimum(tl.maximum(x, 0.0), high)


@triton.jit
def settle(x, UINT8: tl.constexpr):
    if UINT8:
        return tl.floor(clamp(x, 255.0))
    else:
        return clamp(x, 1.0)


@triton.jit
def gray_value(r, g, b, UINT8: tl.constexpr, CHANNELS: tl.constexpr):
    """What saturation and contrast blend with; a grey image is its own."""
    if CHANNELS == 1:
        return r
    else:
        luma = tl.fma(b, 0.114, tl.fma(g, 0.587, r * 0.2989))
        return tl.floor(luma) if UINT8 else luma


@triton.jit
def brightness(r, g, b, factor, UINT8: tl.constexpr):
    return settle(r * factor, UINT8), settle(g * factor, UINT8), settle(b * factor, UINT8)


@triton.jit
def blend(r, g, b, other, factor, UINT8: tl.constexpr):
    rest = (1.0 - factor.to(tl.float64)).to(tl.float32)
    r = settle(tl.fma(other, rest, r * factor), UINT8)
    g = settle(tl.fma(other, rest, g * factor), UINT8)
    b = settle(tl.fma(other, rest, b * factor), UINT8)
    return r, g, b


@triton.jit
def fraction(x):
    """The fraction x mod 1 for x > -7, in [0, 1)."""
    return x - (tl.floor(x + 8.0) - 8.0)


@triton.jit
def hue_channel(high, delta, sector):
    """Return high - delta * fall, fall going from 0 to 1 and back as the hue turns away from the channel's own."""
    k = sector - 6.0 * (tl.floor(sector * (1.0 / 6.0) + 1.0) - 1.0)  # sector > -6
    fall = clamp(tl.minimum(k, 4.0 - k), 1.0)
    return tl.where(fall == 0.0, high, clamp(high - delta * fall, 1.0))


@triton.jit
def hue_unit(r, g, b, shift):
    high = tl.maximum(tl.maximum(r, g), b)
    delta = high - tl.minimum(tl.minimum(r, g), b)
    inverse = tl.div_rn(tl.full(delta.shape, 1.0, tl.float32), tl.where(delta == 0.0, 1.0, delta))
    sector = tl.where(g == high, (b - r) * inverse + 2.0, (r - g) * inverse + 4.0)
    sector = tl.where(r == high, (g - b) * inverse, sector) + 6.0 * shift
    return (
        hue_channel(high, delta, sector + 5.0),
        hue_channel(high, delta, sector + 3.0),
        hue_channel(high, delta, sector + 1.0),
    )


@triton.jit
def hue_uint8(r, g, b, shift):
    """The same as torchvision writes it, rounding for rounding; from and to integers."""
    r = r * (1.0 / 255.0)
    g = g * (1.0 / 255.0)
    b = b * (1.0 / 255.0)
    high = tl.maximum(tl.maximum(r, g), b)
    delta = high - tl.minimum(tl.minimum(r, g), b)
    flat = delta == 0.0
    s = tl.div_rn(delta, tl.where(flat, 1.0, high))
    divisor = tl.where(flat, 1.0, delta)
    rc = tl.div_rn(high - r, divisor)
    gc = tl.div_rn(high - g, divisor)
    bc = tl.div_rn(high - b, divisor)
    h = tl.where(g == high, (rc + 2.0) - bc, (gc + 4.0) - rc)
    h = tl.where(r == high, bc - gc, h)
    h = fraction(fraction(h * (1.0 / 6.0) + 1.0) + shift) * 6.0
    sector = tl.floor(h)
    sf = s * (h - sector)
    rest = 1.0 - s
    q = clamp((1.0 - sf) * high, 1.0)
    t = clamp((sf + rest) * high, 1.0)
    p = clamp(rest * high, 1.0)
    i1 = sector == 1.0
    i2 = sector == 2.0
    i3 = sector == 3.0
    i4 = sector == 4.0
    i5 = sector == 5.0
    # Sectors 0 to 5, where 6 counts as 0: red v q p p t v, green t v v q p p, blue p p t v v q.
    r = tl.where(i1, q, tl.where(i2 | i3, p, tl.where(i4, t, high)))
    g = tl.where(i1 | i2, high, tl.where(i3, q, tl.where(i4 | i5, p, t)))
    b = tl.where(i2, t, tl.where(i3 | i4, high, tl.where(i5, q, p)))
    return tl.floor(r * 255.999), tl.floor(g * 255.999), tl.floor(b * 255.999)


@triton.jit
def hue(r, g, b, shift, UINT8: tl.constexpr):
    if UINT8:
        return hue_uint8(r, g, b, shift)
    else:
        return hue_unit(r, g, b, shift)


@triton.jit
def solarize(x, threshold, UINT8: tl.constexpr):
    bound = 255.0 if UINT8 else 1.0
    return tl.where(x >= threshold * bound, bound - x, x)
