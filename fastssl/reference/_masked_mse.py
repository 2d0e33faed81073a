"""MAE's loss in eager PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ._mask_patchify import patchify


def masked_mse(
    pred: Tensor, images: Tensor, mask: Tensor, patch: tuple[int, int, int], *, norm_pix: bool = True,
    loss: str = "mse", beta: float = 1.0, channels_last: bool = True,
) -> Tensor:  # fmt: skip
    """Loss of predictions [N, L, D] for the patches of float videos [N, C, T, H, W], weighted by a mask [N, L]."""
    target = patchify(images, patch, channels_last)
    if norm_pix:
        var, mean = torch.var_mean(target, dim=-1, keepdim=True)
        target = (target - mean) / (var + 1e-6).sqrt()
    if loss == "mse":
        each = (pred - target) ** 2
    elif loss == "l1":
        each = (pred - target).abs()
    else:
        each = F.smooth_l1_loss(pred, target, reduction="none", beta=beta)
    return (each.mean(-1) * mask).sum() / mask.sum()
