"""Blockwise masks in Triton, one launch, one program a sample; float64, nothing fused.

A sample's mask is in registers, 32 columns a word: 14 words for 14 x 14 patches. A block is a word for each of its
rows, what it adds a count of bits, and an attempt costs little more than its four random numbers.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from ..torch import blockwise_masking as host
from .draws import BLOCKWISE, bits, double, id_of, key_of, sides, words
from .sample_params import between, exact_exp, uniform

ATTEMPTS, FAILURES = tl.constexpr(host.ATTEMPTS), tl.constexpr(host.FAILURES)


def blockwise_masking_fwd(
    seed: torch.Tensor, sample_ids: torch.Tensor | None, target: torch.Tensor, n: int, height: int, width: int,
    min_patches: int, max_patches: int, log_aspect: list[float], view: int, device: torch.device,
) -> torch.Tensor:  # fmt: skip
    """Return bool [n, H W], at most target [n] of a row set."""
    mask = torch.empty((n, height * width), dtype=torch.bool, device=device)
    block = max(32, triton.next_power_of_2(height * triton.cdiv(width, 32)))
    with torch.cuda.device_of(mask):
        blockwise_masking_kernel[(n,)](
            seed if seed.device == mask.device else int(seed), sample_ids, target, mask.view(torch.uint8),
            height, width, min_patches, max_patches, *bits(log_aspect), view,
            0 if sample_ids is None else sample_ids.stride(0), target.stride(0),
            BLOCK=block, num_warps=min(8, max(1, block // 256)), enable_fp_fusion=False,
        )  # fmt: skip
    return mask


@triton.jit
def bits_below(column):
    """Words whose bits below that column are set; columns count from the word's first."""
    count = tl.minimum(tl.maximum(column, 0), 32).to(tl.int64)
    one = tl.full(count.shape, 1, tl.int64)
    return ((one << count) - 1).to(tl.uint32)


@triton.jit
def population(word):
    """Bits set in each uint32."""
    word = word - ((word >> 1) & 0x55555555)
    word = (word & 0x33333333) + ((word >> 2) & 0x33333333)
    word = (word + (word >> 4)) & 0x0F0F0F0F
    word = word + (word >> 8)
    return ((word + (word >> 16)) & 63).to(tl.int32)


@triton.jit
def fits_in(side, total):
    """Shorter than the image, unless that is one patch."""
    return (side >= 1.0) & ((side < total) | ((side == total) & (total == 1)))


@triton.jit(
    do_not_specialize=[
        "seed", "height", "width", "min_patches", "max_patches", "log_low", "log_high", "view", "stride_target",
    ]
)  # fmt: skip
def blockwise_masking_kernel(
    seed,  # [] int64, or a number
    sample_ids,  # [n] int64, or None: 0, 1 ...
    target,  # [n] int64
    mask,  # out [n, H W] bytes
    height,
    width,
    min_patches,
    max_patches,
    log_low,  # float64 by its bits
    log_high,
    view,
    stride_ids,
    stride_target,
    BLOCK: tl.constexpr,  # words
):
    """One program a sample."""
    sample = tl.program_id(0).to(tl.int64)
    key = key_of(seed)
    sample_id = id_of(sample_ids, sample, stride_ids)
    goal = tl.load(target + sample * stride_target)
    across = tl.cdiv(width, 32)
    row = tl.arange(0, BLOCK) // across
    column = tl.arange(0, BLOCK) % across * 32  # the first of a word
    masked = tl.zeros((BLOCK,), tl.uint32)
    count = goal * 0
    failures = 0
    attempt = 0
    while (attempt < ATTEMPTS) & (count != goal) & (failures < FAILURES):
        w0, w1, w2, w3 = words(key, sample_id, view, BLOCKWISE, attempt)
        room = tl.minimum(goal - count, max_patches)
        area = between(min_patches.to(tl.float64), room.to(tl.float64), uniform(w0))
        h, w = sides(area, exact_exp(between(double(log_low), double(log_high), uniform(w1))))
        fits = fits_in(h, height) & fits_in(w, width)
        h = tl.where(fits, h, 1.0)
        w = tl.where(fits, w, 1.0)
        top = tl.floor(uniform(w2) * (height - h + 1.0)).to(tl.int32)
        left = tl.floor(uniform(w3) * (width - w + 1.0)).to(tl.int32)
        block = bits_below(left + w.to(tl.int32) - column) ^ bits_below(left - column)
        block = tl.where((row >= top) & (row < top + h.to(tl.int32)), block, 0)
        new = tl.sum(population(block ^ (block & masked)), 0)
        fills = fits & (new > 0) & (new <= room)
        masked = tl.where(fills, masked | block, masked)
        count += tl.where(fills, new, 0)
        failures = tl.where(fills, 0, failures + 1)
        attempt += 1

    mask += sample * height * width + row * width + column
    for bit in tl.static_range(32):
        tl.store(mask + bit, ((masked >> bit) & 1).to(tl.uint8), mask=(row < height) & (column + bit < width))
