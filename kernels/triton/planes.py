"""Pixels in memory: one or three channels at the same places."""

import triton
import triton.language as tl


@triton.jit
def load_planes(x, at, mask, step, CHANNELS: tl.constexpr):
    """Three channels at offsets `at`, `step` apart; one channel thrice."""
    r = tl.load(x + at, mask=mask)
    if CHANNELS == 3:
        return r, tl.load(x + step + at, mask=mask), tl.load(x + 2 * step + at, mask=mask)
    else:
        return r, r, r


@triton.jit
def store_planes(x, at, mask, step, r, g, b, CHANNELS: tl.constexpr):
    dtype = x.dtype.element_ty
    tl.store(x + at, r.to(dtype), mask=mask)
    if CHANNELS == 3:
        tl.store(x + step + at, g.to(dtype), mask=mask)
        tl.store(x + 2 * step + at, b.to(dtype), mask=mask)
