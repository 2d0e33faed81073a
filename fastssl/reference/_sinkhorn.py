"""The balanced assignment of SwAV and DINOv2 in eager PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor


def sinkhorn(logits: Tensor, iterations: int = 3, temp: float | Tensor = 0.05) -> tuple[Tensor, Tensor]:
    """Sinkhorn-Knopp of logits [..., K] on logarithms, which do not overflow: the center [K] and Q [..., K]."""
    scores = logits / temp
    samples = scores.flatten(0, -2)
    row_lse, column_lse = torch.zeros_like(samples[:, :1]), torch.zeros_like(samples[0])
    for _ in range(iterations):
        column_lse = (samples - row_lse).logsumexp(0)
        row_lse = (samples - column_lse).logsumexp(1, keepdim=True)
    return temp * column_lse, (scores - column_lse).softmax(-1)
