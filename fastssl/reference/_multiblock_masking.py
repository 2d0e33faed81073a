"""Blocks of tokens on a grid in plain Python."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ._sample_params import philox


def multiblock_masking(
    n: int, grid: tuple[int, int, int], seed: int, *, num_blocks: int = 4, scale: tuple[float, float] = (0.15, 0.2),
    aspect_ratio: tuple[float, float] = (0.75, 1.5), temporal_scale: tuple[float, float] = (1.0, 1.0),
    shared_size: bool = True, first_id: int = 0, view: int = 0,
) -> Tensor:  # fmt: skip
    """Bool [n, B, T H W]; see `fastssl.functional.multiblock_masking`."""
    frames, height, width = grid
    masks = torch.zeros(n, num_blocks, frames, height, width, dtype=torch.bool)

    def draw(low: int, high: int, block: int) -> list[float]:
        return [word / 2**32 for word in philox(seed, [low, high, view, 65 + 256 * block])]

    def between(bounds: tuple[float, float], u: float) -> float:
        return bounds[0] + (bounds[1] - bounds[0]) * u

    for i in range(n):
        low, high = (first_id + i) & 0xFFFFFFFF, ((first_id + i) >> 32) & 0xFFFFFFFF
        for b in range(num_blocks):
            size = draw(0xFFFFFFFF, 0xFFFFFFFF, 0) if shared_size else draw(low, high, 2 * b)
            area, ratio = math.floor(height * width * between(scale, size[0])), between(aspect_ratio, size[1])
            h = min(max(math.floor(math.sqrt(area * ratio) + 0.5), 1), height)
            w = min(max(math.floor(math.sqrt(area / ratio) + 0.5), 1), width)
            t = min(max(math.floor(frames * between(temporal_scale, size[2])), 1), frames)
            place = draw(low, high, 2 * b + 1)
            sides = ((height, h), (width, w), (frames, t))
            top, left, start = (int(u * (whole - part + 1)) for u, (whole, part) in zip(place, sides, strict=False))
            masks[i, b, start : start + t, top : top + h, left : left + w] = True
    return masks.flatten(2)
