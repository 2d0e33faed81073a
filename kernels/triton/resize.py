"""Antialiased resize along one axis: csrc/common/resize.h, float32 or, for uint8 images, float64."""

import triton
import triton.language as tl

from .planes import load_planes


@triton.jit
def resize_axis(length, out, REAL: tl.constexpr, BICUBIC: tl.constexpr):
    """Return scale, 1 / stretch and support of an axis."""
    scale = quotient(tl.cast(length, REAL), tl.cast(out, REAL))  # `out` is no tensor where it is 1
    stretch = tl.maximum(scale, 1.0)
    return scale, quotient(tl.cast(1.0, REAL), stretch), stretch * (2.0 if BICUBIC else 1.0)


@triton.jit
def quotient(a, b):
    if a.dtype == tl.float64:
        return a / b
    else:
        return tl.div_rn(a, b)


@triton.jit
def resize_window(i, scale, support, length):
    """Centre, first sample and end of outputs i."""
    center = scale * (i.to(scale.dtype) + 0.5)
    first = tl.maximum(((center - support).to(tl.float64) + 0.5).to(tl.int32), 0)
    end = tl.minimum(((center + support).to(tl.float64) + 0.5).to(tl.int32), length)
    return center, first, end


@triton.jit
def resize_weight(center, inverse, j, end, BICUBIC: tl.constexpr):
    """Of sample j on an output, before the weights of an output are divided by their sum; 0 from `end` on."""
    x = tl.abs((j.to(center.dtype) - center + 0.5) * inverse)
    if BICUBIC:  # Keys, a = -0.5
        near = (1.5 * x - 2.5) * x * x + 1.0
        far = (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5
        weight = tl.where(x < 1.0, near, tl.where(x < 2.0, far, 0.0))
    else:
        weight = tl.maximum(1.0 - x, 0.0)
    return tl.where(j < end, weight, 0.0)


@triton.jit
def weight_total(center, inverse, first, end, taps, BICUBIC: tl.constexpr):
    """The sum that the weights of each output are divided by, and the largest of them."""
    total = tl.zeros_like(center)
    largest = tl.zeros_like(center)
    for tap in range(taps):
        weight = resize_weight(center, inverse, first + tap, end, BICUBIC)
        total += weight
        largest = tl.maximum(largest, weight)
    return total, largest


@triton.jit
def weight_bits(length, out, scale, inverse, support, BLOCK: tl.constexpr, BICUBIC: tl.constexpr):
    """Integer weights are over 2^bits: as many bits as keep the largest of an axis below 2^15."""
    largest = tl.zeros((BLOCK,), tl.float64)
    for start in range(0, out, BLOCK):
        i = tl.minimum(start + tl.arange(0, BLOCK), out - 1)
        center, first, end = resize_window(i, scale, support, length)
        total, peak = weight_total(center, inverse, first, end, tl.max(end - first, 0), BICUBIC)
        largest = tl.maximum(largest, peak / total)
    peak = tl.max(largest, 0)
    bits = 0
    for bit in tl.static_range(1, 23):
        bits += (tl.floor(peak * (1 << bit) + 0.5) < 32768.0).to(tl.int32)
    return bits


@triton.jit
def integer_weight(weight, total, bits):
    scaled = weight / total * (1 << bits).to(tl.float64)
    return (scaled + tl.where(weight < 0, -0.5, 0.5)).to(tl.int32)


@triton.jit
def resized(
    image, record, image_height, image_width, stride_c, stride_y, stride_x, rows, columns, height, width,
    BLOCK: tl.constexpr, BICUBIC: tl.constexpr, UINT8: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """The crop, clamped to its image and resized with antialias, at rows x columns of the view, not yet mirrored."""
    crop_h = tl.minimum(tl.maximum(tl.load(record + 2), 1), image_height)
    crop_w = tl.minimum(tl.maximum(tl.load(record + 3), 1), image_width)
    top = tl.minimum(tl.maximum(tl.load(record), 0), image_height - crop_h)
    left = tl.minimum(tl.maximum(tl.load(record + 1), 0), image_width - crop_w)
    image += top.to(tl.int64) * stride_y + left.to(tl.int64) * stride_x
    REAL: tl.constexpr = tl.float64 if UINT8 else tl.float32
    SUM: tl.constexpr = tl.int32 if UINT8 else tl.float32
    scale_y, inverse_y, support_y = resize_axis(crop_h, height, REAL, BICUBIC)
    scale_x, inverse_x, support_x = resize_axis(crop_w, width, REAL, BICUBIC)
    center_y, first_y, end_y = resize_window(rows, scale_y, support_y, crop_h)
    center_x, first_x, end_x = resize_window(columns, scale_x, support_x, crop_w)
    taps_y = tl.max(end_y - first_y, 0)
    taps_x = tl.max(end_x - first_x, 0)
    total_y, _ = weight_total(center_y, inverse_y, first_y, end_y, taps_y, BICUBIC)
    total_x, _ = weight_total(center_x, inverse_x, first_x, end_x, taps_x, BICUBIC)
    if UINT8:
        bits_y = weight_bits(crop_h, height, scale_y, inverse_y, support_y, BLOCK, BICUBIC)
        bits_x = weight_bits(crop_w, width, scale_x, inverse_x, support_x, BLOCK, BICUBIC)
    r = tl.zeros((BLOCK, BLOCK), SUM)
    g = tl.zeros((BLOCK, BLOCK), SUM)
    b = tl.zeros((BLOCK, BLOCK), SUM)
    for tap_y in range(taps_y):
        y = first_y + tap_y
        weight_y = resize_weight(center_y, inverse_y, y, end_y, BICUBIC)
        line = tl.minimum(y, crop_h - 1).to(tl.int64) * stride_y
        line_r = tl.zeros((BLOCK, BLOCK), SUM)
        line_g = tl.zeros((BLOCK, BLOCK), SUM)
        line_b = tl.zeros((BLOCK, BLOCK), SUM)
        for tap_x in range(taps_x):
            x = first_x + tap_x
            weight_x = resize_weight(center_x, inverse_x, x, end_x, BICUBIC)
            at = line[:, None] + (tl.minimum(x, crop_w - 1).to(tl.int64) * stride_x)[None, :]
            p0, p1, p2 = load_planes(image, at, None, stride_c, CHANNELS)
            if UINT8:
                weight = integer_weight(weight_x, total_x, bits_x)[None, :]
                line_r += weight * p0.to(SUM)
                line_g += weight * p1.to(SUM)
                line_b += weight * p2.to(SUM)
            else:
                line_r = tl.fma(weight_x[None, :], p0.to(SUM), line_r)
                line_g = tl.fma(weight_x[None, :], p1.to(SUM), line_g)
                line_b = tl.fma(weight_x[None, :], p2.to(SUM), line_b)
        if UINT8:
            weight = integer_weight(weight_y, total_y, bits_y)[:, None]
            r += weight * rounded(line_r, bits_x)
            g += weight * rounded(line_g, bits_x)
            b += weight * rounded(line_b, bits_x)
        else:
            r = tl.fma(weight_y[:, None], line_r, r)
            g = tl.fma(weight_y[:, None], line_g, g)
            b = tl.fma(weight_y[:, None], line_b, b)
    if UINT8:
        r = rounded(r, bits_y).to(tl.float32)
        g = rounded(g, bits_y).to(tl.float32)
        b = rounded(b, bits_y).to(tl.float32)
    else:
        unit = (1.0 / total_y)[:, None] * (1.0 / 255.0 / total_x)[None, :]
        r *= unit
        g *= unit
        b *= unit
    return r, g, b


@triton.jit
def rounded(total, bits):
    """A sum with integer weights over 2^bits, to uint8."""
    return tl.minimum(tl.maximum((total + (1 << (bits - 1))) >> bits, 0), 255)
