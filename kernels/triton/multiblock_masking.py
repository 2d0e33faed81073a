"""Multi-block masks in Triton, one launch, one program a block of a sample; float64, nothing fused."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .draws import EVERYONE, MULTIBLOCK, bits, double, id_of, key_of, sides, words
from .sample_params import between, uniform

BLOCK = 1024  # tokens a step


def multiblock_masking_fwd(
    seed: torch.Tensor, sample_ids: torch.Tensor | None, n: int, grid: list[int], num_blocks: int, table: list[float],
    shared_size: bool, view: int, device: torch.device,
) -> torch.Tensor:  # fmt: skip
    """Return bool [n, B, T H W]; table: scale, aspect ratio and temporal scale, each low and high."""
    frames, height, width = grid
    mask = torch.empty((n, num_blocks, frames * height * width), dtype=torch.bool, device=device)
    with torch.cuda.device_of(mask):
        multiblock_masking_kernel[(n * num_blocks,)](
            seed if seed.device == mask.device else int(seed), sample_ids, mask.view(torch.uint8), num_blocks,
            frames, height, width, *bits(table), view, 0 if sample_ids is None else sample_ids.stride(0),
            SHARED_SIZE=shared_size, BLOCK=BLOCK, enable_fp_fusion=False,
        )  # fmt: skip
    return mask


@triton.jit
def clamp(x, high):
    return tl.minimum(tl.maximum(x, 1.0), high)


@triton.jit(
    do_not_specialize=[
        "seed", "num_blocks", "frames", "height", "width", "scale_low", "scale_high", "aspect_low", "aspect_high",
        "temporal_low", "temporal_high", "view",
    ]
)  # fmt: skip
def multiblock_masking_kernel(
    seed,  # [] int64, or a number
    sample_ids,  # [n] int64, or None: 0, 1 ...
    mask,  # out [n, B, T H W] bytes
    num_blocks,
    frames,
    height,
    width,
    scale_low,  # this and the following: float64 by their bits
    scale_high,
    aspect_low,
    aspect_high,
    temporal_low,
    temporal_high,
    view,
    stride_ids,
    SHARED_SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program a block of a sample."""
    sample = tl.program_id(0) // num_blocks
    block = tl.program_id(0) % num_blocks
    key = key_of(seed)
    sample_id = id_of(sample_ids, sample, stride_ids)
    if SHARED_SIZE:
        s0, s1, s2, _ = words(key, tl.full((), EVERYONE, tl.int64), view, MULTIBLOCK, 0)
    else:
        s0, s1, s2, _ = words(key, sample_id, view, MULTIBLOCK, 2 * block)
    p0, p1, p2, _ = words(key, sample_id, view, MULTIBLOCK, 2 * block + 1)

    area = (height * width).to(tl.float64)
    area = tl.floor(area * between(double(scale_low), double(scale_high), uniform(s0)))
    h, w = sides(area, between(double(aspect_low), double(aspect_high), uniform(s1)))
    t = tl.floor(frames.to(tl.float64) * between(double(temporal_low), double(temporal_high), uniform(s2)))
    h = clamp(h, height.to(tl.float64))
    w = clamp(w, width.to(tl.float64))
    t = clamp(t, frames.to(tl.float64))
    top = tl.floor(uniform(p0) * (height.to(tl.float64) - h + 1.0)).to(tl.int32)
    left = tl.floor(uniform(p1) * (width.to(tl.float64) - w + 1.0)).to(tl.int32)
    first = tl.floor(uniform(p2) * (frames.to(tl.float64) - t + 1.0)).to(tl.int32)
    bottom = top + h.to(tl.int32)
    right = left + w.to(tl.int32)
    last = first + t.to(tl.int32)

    tokens = frames * height * width
    mask += tl.program_id(0).to(tl.int64) * tokens
    for start in range(0, tokens, BLOCK):
        at = start + tl.arange(0, BLOCK)
        x = at % width
        y = at // width % height
        z = at // (width * height)
        inside = (x >= left) & (x < right) & (y >= top) & (y < bottom) & (z >= first) & (z < last)
        tl.store(mask + at, inside.to(tl.uint8), mask=at < tokens)
