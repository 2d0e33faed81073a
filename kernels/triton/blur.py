"""Gaussian blur of a tile, the image reflected at its edges; weights normalised over the taps used."""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def reflect(at, side):
    """Index -side < at < 2 side - 1 reflected into the side; what lies further is held at its ends."""
    at = tl.abs(at)
    return tl.maximum(tl.minimum(at, 2 * (side - 1) - at), 0)


@triton.jit
def gaussian(sigma, limit, side, BLOCK: tl.constexpr):
    """Radius, factor of the squared distance in the base-2 exponent, and 1 / sum of the weights of a blur."""
    reach = tl.minimum(tl.ceil(5.0 * sigma.to(tl.float64)), 1e6).to(tl.int32)
    radius = tl.minimum(tl.minimum(reach, limit), side - 1)
    sigma = tl.maximum(sigma, 1e-6)  # the weights of any smaller one are 1 and 0 too
    rate = -0.5 * LOG2E / (sigma * sigma)
    total = 0.0
    for at in range(0, 2 * radius + 1, BLOCK):
        distance = at + tl.arange(0, BLOCK) - radius
        total += tl.sum(gaussian_weight(distance, radius, rate, 1.0), 0)
    return radius, rate, 1.0 / total


@triton.jit
def gaussian_weight(distance, radius, rate, norm):
    d = distance.to(tl.float32)
    return tl.where(tl.abs(distance) <= radius, tl.exp2(d * d * rate) * norm, 0.0)


@triton.jit
def blurred(
    plane, row0, column0, height, width, radius_y, rate_y, norm_y, radius_x, rate_x, norm_x,
    BLOCK: tl.constexpr, UINT8: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A tile of a blurred channel: products with banded matrices, wy @ x @ wx, block by block of the bands."""
    k = tl.arange(0, BLOCK)
    out = tl.zeros((BLOCK, BLOCK), tl.float32)
    for y0 in range(row0 - radius_y, row0 + BLOCK + radius_y, BLOCK):
        lines = plane + (reflect(y0 + k, height) * width)[:, None]
        wide = tl.zeros((BLOCK, BLOCK), tl.float32)
        for x0 in range(column0 - radius_x, column0 + BLOCK + radius_x, BLOCK):
            x = tl.load(lines + reflect(x0 + k, width)[None, :])
            wx = gaussian_weight((x0 + k)[:, None] - (column0 + k)[None, :], radius_x, rate_x, norm_x)
            wide = tl.dot(x, wx, wide, input_precision=PRECISION)
        wy = gaussian_weight((row0 + k)[:, None] - (y0 + k)[None, :], radius_y, rate_y, norm_y)
        out = tl.dot(wy, wide, out, input_precision=PRECISION)
    if UINT8:  # to the nearest integer, ties to the even one: beyond 2^23 floats have no fraction
        out = (out + 12582912.0) - 12582912.0
    return out
