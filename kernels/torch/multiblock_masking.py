"""Multi-block masks in torch ops, for any device; float64, bit for bit those of every backend."""

from __future__ import annotations

import torch
from torch import Tensor

from . import draws


def multiblock_masking_fwd(
    seed: Tensor, sample_ids: Tensor | None, n: int, grid: list[int], num_blocks: int, table: list[float],
    shared_size: bool, view: int, device: torch.device,
) -> Tensor:  # fmt: skip
    """Return bool [n, B, T H W]; table: scale, aspect ratio and temporal scale, each low and high."""
    frames, height, width = grid
    scale, aspect, temporal = table[:2], table[2:4], table[4:]
    ids = draws.ids_or_range(sample_ids, n, device)
    places = draws.words(seed, ids, view, draws.MULTIBLOCK, 0, 2 * num_blocks)
    if shared_size:
        sizes = draws.words(seed, torch.full_like(ids[:1], draws.EVERYONE), view, draws.MULTIBLOCK, 0, 1)
    else:
        sizes = [word[:, ::2] for word in places]
    u, v = ([draws.uniform(word) for word in words] for words in (sizes, [word[:, 1::2] for word in places]))
    h, w = draws.sides((draws.between(*scale, u[0]) * (height * width)).floor(), draws.between(*aspect, u[1]))
    t = (draws.between(*temporal, u[2]) * frames).floor()
    mask = torch.ones((), dtype=torch.bool, device=device)
    for axis, (side, total, place) in enumerate(((t, frames, v[2]), (h, height, v[0]), (w, width, v[1]))):
        side = side.clamp(1, total)
        start = (place * (total - side + 1)).floor()[..., None]
        at = torch.arange(total, device=device)
        inside = (at >= start) & (at < start + side[..., None])  # [n, B, total]
        mask = mask & inside[(..., *(slice(None) if a == axis else None for a in range(3)))]
    return mask.flatten(2)
