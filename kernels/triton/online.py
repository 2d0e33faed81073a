"""Sums of exponentials of rows that are read once: a maximum and a sum for each lane, combined at the end.

A lane has a few neighbouring numbers at a time, whose maximum takes no other thread, and moves its reference once for
all of them. Exponents are in base 2, and x scale - reference is rounded once: a score that was rounded before would
have lost digits of the difference.
"""

import triton
import triton.language as tl

from .tiles import LOG2E, temperature

LOWEST = tl.constexpr(-1e37)  # below every exponent; a dozen of them still add up in float32
NONE = tl.constexpr(float("-inf"))  # a logit of no probability


@triton.jit
def exponent_scale(temp):
    """Exponent in base 2 of a logit, float32, and what turns such exponents into those in base e, float64."""
    tau = temperature(temp)
    scale = (1.0 / tau * LOG2E).to(tl.float32)
    return scale, 1.0 / (scale.to(tl.float64) * tau)


@triton.jit
def tiles_of(part, steps, width, BLOCK: tl.constexpr):
    """Tiles of a slice: `steps` but for the last."""
    return tl.minimum(steps, tl.cdiv(width, BLOCK) - part * steps)


@triton.jit
def tile_from(start, LANES: tl.constexpr, PER: tl.constexpr):
    """Numbers [LANES, PER] of a row."""
    return start + tl.arange(0, LANES)[:, None] * PER + tl.arange(0, PER)[None, :]


@triton.jit
def load_tile(at, inside, other, MASKED: tl.constexpr):
    """Float32; `other` in what is outside, if anything can be."""
    if MASKED:
        return tl.load(at, mask=inside, other=other).to(tl.float32)
    else:
        return tl.load(at).to(tl.float32)


@triton.jit
def advance(x, top, scale):
    """The new reference of each lane, by how much it moved (<= 0), and the exponents relative to it.

    x is [LANES, PER], the references are [LANES].
    """
    new = tl.maximum(top, tl.max(x, 1) * scale)
    return new, top - new, tl.fma(x, scale, -new[:, None])


@triton.jit
def meet(top):
    """The highest reference, by how much each one moves to it, and what its sums are to be multiplied by."""
    highest = tl.max(top, 0)
    moved = top - highest
    return highest, moved, tl.exp2(moved)


@triton.jit
def level_of(lse, scale, base):
    """A log-sum-exp as a reference in float32, and what powers relative to it are to be multiplied by."""
    level = (lse / base).to(tl.float32)
    return level, tl.exp((level.to(tl.float64) * base - lse).to(tl.float32))


@triton.jit(do_not_specialize=["count"])
def sum_kernel(
    values,  # [count] float64
    out,  # out [] float64
    count,
    BLOCK: tl.constexpr,
):
    """One program: a fixed order of summation."""
    total = tl.zeros((BLOCK,), tl.float64)
    for start in range(0, count, BLOCK):
        at = start + tl.arange(0, BLOCK)
        total += tl.load(values + at, mask=at < count, other=0.0)
    tl.store(out, tl.sum(total, 0))
