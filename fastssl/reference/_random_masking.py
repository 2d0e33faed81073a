"""MAE's random masking in eager PyTorch, with a stable sort, and the noise that a seed stands for."""

from __future__ import annotations

import torch
from torch import Tensor

from ._sample_params import philox


def masking_noise(n: int, patches: int, seed: int, first_id: int = 0, view: int = 0) -> Tensor:
    """The words of `fastssl.functional.random_masking` as float64 [n, patches], which holds them exactly."""
    rows = []
    for i in range(first_id, first_id + n):
        low, high = i & 0xFFFFFFFF, (i >> 32) & 0xFFFFFFFF
        words = [w for b in range(-(-patches // 4)) for w in philox(seed, [low, high, view, 64 + 256 * b])]
        rows.append(words[:patches])
    return torch.tensor(rows, dtype=torch.float64)


def random_masking(noise: Tensor, mask_ratio: float = 0.75) -> tuple[Tensor, Tensor, Tensor]:
    """``ids_keep`` [n, K], ``ids_restore`` [n, L] and ``mask`` [n, L] of noise [n, L]."""
    len_keep = int(noise.shape[1] * (1 - mask_ratio))
    ids_shuffle = noise.argsort(dim=1, stable=True)
    ids_restore = ids_shuffle.argsort(dim=1)
    return ids_shuffle[:, :len_keep], ids_restore, (ids_restore >= len_keep).float()
