"""Blockwise masks in torch ops, for any device; float64, bit for bit those of every backend."""

from __future__ import annotations

import torch
from torch import Tensor

from . import draws
from .sample_params import exp

ATTEMPTS, FAILURES = 256, 10


def blockwise_masking_fwd(
    seed: Tensor, sample_ids: Tensor | None, target: Tensor, n: int, height: int, width: int, min_patches: int,
    max_patches: int, log_aspect: list[float], view: int, device: torch.device,
) -> Tensor:  # fmt: skip
    """Return bool [n, H W], at most target [n] of a row set."""
    ids = draws.ids_or_range(sample_ids, n, device)
    uniforms = [draws.uniform(word) for word in draws.words(seed, ids, view, draws.BLOCKWISE, 0, ATTEMPTS)]
    rows, columns = (torch.arange(side, device=device) for side in (height, width))
    mask = torch.zeros((n, height, width), dtype=torch.bool, device=device)
    count, failures = (torch.zeros(n, dtype=torch.int64, device=device) for _ in range(2))
    for u in zip(*(u.unbind(1) for u in uniforms), strict=True):
        going = (count != target) & (failures < FAILURES)
        if device.type == "cpu" and not going.any():  # elsewhere the question would wait for the device
            break
        room = (target - count).clamp(max=max_patches)
        area = draws.between(min_patches, room.double(), u[0])
        h, w = draws.sides(area, exp(draws.between(*log_aspect, u[1])))
        fits = going
        for side, total in ((h, height), (w, width)):
            fits = fits & (side >= 1) & ((side < total) | ((side == total) & (total == 1)))
        top, left = (u[2] * (height - h + 1)).floor(), (u[3] * (width - w + 1)).floor()
        in_rows, in_columns = (
            (at >= first[:, None]) & (at < (first + side)[:, None])
            for at, first, side in ((rows, top, h), (columns, left, w))
        )
        block = in_rows[:, :, None] & in_columns[:, None]
        new = (block & ~mask).sum((1, 2))
        fills = fits & (new > 0) & (new <= room)
        mask |= block & fills[:, None, None]
        count = torch.where(fills, count + new, count)
        failures = torch.where(fills, 0, failures + going)
    return mask.flatten(1)
