"""Random words of masks and patches, the same on every backend: Philox of (sample id, view, purpose + 256 block)."""

from __future__ import annotations

import struct

import triton
import triton.language as tl

from ..torch import draws as host
from .sample_params import round_half_up

RANDOM, MULTIBLOCK, BLOCKWISE, TEXT, PATCHES, NOISE = (
    tl.constexpr(purpose)
    for purpose in (host.RANDOM, host.MULTIBLOCK, host.BLOCKWISE, host.TEXT, host.PATCHES, host.NOISE)
)
EVERYONE = tl.constexpr(host.EVERYONE)
LOG, SIN, COS = (tl.constexpr(coefficients) for coefficients in (host.LOG, host.SIN, host.COS))
LOG_TERMS, SIN_TERMS, COS_TERMS = (tl.constexpr(len(coefficients)) for coefficients in (host.LOG, host.SIN, host.COS))
LN2, ROOT_HALF_BITS = tl.constexpr(host.LN2), tl.constexpr(host.ROOT_HALF_BITS)


def bits(numbers: list[float]) -> list[int]:
    """The doubles as int64, for a kernel would take a float as float32."""
    return [struct.unpack("<q", struct.pack("<d", number))[0] for number in numbers]


@triton.jit
def double(number):
    """A float64 passed by its bits."""
    return number.to(tl.int64).to(tl.float64, bitcast=True)


@triton.jit
def key_of(seed):
    """The seed, from a pointer or a number."""
    return tl.load(seed) if seed.dtype.is_ptr() else seed.to(tl.int64)


@triton.jit
def id_of(sample_ids, sample, stride):
    """The id of a sample: int64."""
    if sample_ids is None:
        return sample.to(tl.int64)
    else:
        return tl.load(sample_ids + sample.to(tl.int64) * stride)


@triton.jit
def words(key, sample_id, view, PURPOSE: tl.constexpr, block):
    """The four words of a block, or of several blocks, of a sample's draws."""
    low, high = sample_id.to(tl.uint32), (sample_id >> 32).to(tl.uint32)
    return tl.philox(key, low, high, view.to(tl.uint32), PURPOSE + 256 * block)


@triton.jit
def sides(area, aspect):
    """Height and width of a block of an area, height / width being the aspect."""
    return round_half_up(tl.sqrt(area * aspect)), round_half_up(tl.sqrt(area / aspect))


@triton.jit
def below(word, count):
    """Uniform over 0 .. count - 1: int64."""
    return (word.to(tl.int64) * count) >> 32


@triton.jit
def horner(coefficients: tl.constexpr, TERMS: tl.constexpr, x):
    value = tl.full(x.shape, coefficients[0], tl.float32)
    for i in tl.static_range(1, TERMS):
        value = value * x + coefficients[i]
    return value


@triton.jit
def normal_pair(first, second):
    """Two Gaussian numbers float32 of two words, by Box and Muller: the same bits everywhere if nothing is fused."""
    u = ((first >> 8) + 1).to(tl.float32) * 5.960464477539063e-08  # 2^-24, in (0, 1]
    exponent = (u.to(tl.int32, bitcast=True) - ROOT_HALF_BITS) >> 23
    t = (u.to(tl.int32, bitcast=True) - (exponent << 23)).to(tl.float32, bitcast=True) - 1.0
    square = t * t
    log = (t + (horner(LOG, LOG_TERMS, t) * t * square - square * 0.5)) + exponent.to(tl.float32) * LN2
    radius = tl.sqrt_rn(log * -2.0)
    f = ((second >> 6) & 0xFFFFFF).to(tl.float32) * 5.960464477539063e-08 - 0.5  # of a quarter of the circle
    sin = f * horner(SIN, SIN_TERMS, f * f)
    cos = horner(COS, COS_TERMS, f * f)
    turns = second >> 30
    x = tl.where(turns % 2 == 1, sin, cos)
    y = tl.where(turns % 2 == 1, cos, sin)
    return radius * tl.where((turns == 1) | (turns == 2), -x, x), radius * tl.where(turns >= 2, -y, y)
