"""Random words of the masks: Philox counted by (sample id, view, purpose + 256 block), the same on every backend."""

from __future__ import annotations

import struct

import triton
import triton.language as tl

from ..torch import draws as host
from .sample_params import round_half_up

RANDOM, MULTIBLOCK, BLOCKWISE, TEXT = (
    tl.constexpr(purpose) for purpose in (host.RANDOM, host.MULTIBLOCK, host.BLOCKWISE, host.TEXT)
)
EVERYONE = tl.constexpr(host.EVERYONE)


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
