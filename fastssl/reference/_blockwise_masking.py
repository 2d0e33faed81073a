"""BEiT's blockwise masking in plain Python."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ._sample_params import philox


def blockwise_masking(
    n: int, grid: tuple[int, int], num_masked: int, seed: int, *, min_patches: int = 16,
    max_patches: int | None = None, aspect_ratio: tuple[float, float] = (0.3, 1 / 0.3), first_id: int = 0,
    view: int = 0,
) -> Tensor:  # fmt: skip
    """Bool [n, H W]; see `fastssl.functional.blockwise_masking`."""
    height, width = grid
    log_low, log_high = (math.log(ratio) for ratio in aspect_ratio)
    masks = torch.zeros(n, height, width, dtype=torch.bool)
    for i, mask in enumerate(masks, first_id):
        failures = 0
        for attempt in range(256):
            room = num_masked - int(mask.sum())
            if room == 0 or failures == 10:
                break
            room = min(room, max_patches or room)
            words = philox(seed, [i & 0xFFFFFFFF, (i >> 32) & 0xFFFFFFFF, view, 66 + 256 * attempt])
            u = [word / 2**32 for word in words]
            area = min_patches + (room - min_patches) * u[0]
            ratio = math.exp(log_low + (log_high - log_low) * u[1])
            h, w = math.floor(math.sqrt(area * ratio) + 0.5), math.floor(math.sqrt(area / ratio) + 0.5)
            failures += 1
            # A grid of one row or column has no smaller side.
            if 1 <= h <= max(1, height - 1) and 1 <= w <= max(1, width - 1):
                top, left = int(u[2] * (height - h + 1)), int(u[3] * (width - w + 1))
                block = mask[top : top + h, left : left + w]
                if 0 < h * w - int(block.sum()) <= room:
                    block[:] = True
                    failures = 0
    return masks.flatten(1)
