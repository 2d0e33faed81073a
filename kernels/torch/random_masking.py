"""Random masks in torch ops, for any device: a stable sort of the noise."""

from __future__ import annotations

import torch
from torch import Tensor

from . import draws


def random_masking_fwd(
    seed: Tensor | None, noise: Tensor | None, sample_ids: Tensor | None, keep: Tensor | None, n: int, length: int,
    prefix: int, num_keep: int, num_masked: int, view: int, device: torch.device,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Return ids_shuffle [n, K + M], ids_restore [n, L] and mask [n, L] from a seed or noise [n, L - P]."""
    patches = length - prefix
    if noise is None:
        assert seed is not None
        ids = draws.ids_or_range(sample_ids, n, device)
        blocks = draws.words(seed, ids, view, draws.RANDOM, 0, -(-patches // 4))
        keys = torch.stack(blocks, 2).flatten(1)[:, :patches]
    else:
        # Whatever their signs: zeros are equal, NaN is last.
        keys = torch.where(noise.isnan(), torch.nan, noise + 0.0)
    order = keys.argsort(dim=1, stable=True)
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(patches, device=device).expand(n, patches))
    kept = num_keep if keep is None else keep[:, None]
    restore = torch.empty((n, length), dtype=torch.int64, device=device)
    restore[:, :prefix] = torch.arange(prefix, device=device)
    restore[:, prefix:] = torch.where(rank + prefix < kept, rank + prefix, rank + prefix + num_keep - kept)
    shuffled = torch.full((n, num_keep + num_masked), -1, dtype=torch.int64, device=device)
    shuffled.scatter_(1, restore, torch.arange(length, device=device).expand(n, length))
    return shuffled, restore, (restore >= num_keep).float()
