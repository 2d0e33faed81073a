"""Sum of the softplus of signed logits in torch ops, with its gradients, a block of rows at a time."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .pairwise_logsumexp import blocks, operand


def pairwise_softplus_fwd(
    x: Tensor, y: Tensor, scale: Tensor, bias: Tensor, row_ids: Tensor, col_ids: Tensor, products: torch.dtype,
    only_same: bool, need_x: bool, need_y: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Return total [], grad_x, grad_y, grad_scale [], grad_bias [m]. See `fastssl.functional.pairwise_softplus`."""
    inputs, other = operand(x, products), operand(y, products)
    grad_x, grad_y = (torch.zeros_like(t if need else t[:0]) for t, need in ((x, need_x), (y, need_y)))
    total, grad_scale = (x.new_zeros((), dtype=torch.float64) for _ in range(2))
    grad_bias = torch.empty_like(bias)
    factor = scale.to(x.dtype)
    for rows in blocks(x, y):
        scores = (inputs[rows] @ other.T).to(x.dtype)
        equal = row_ids[rows, None] == col_ids
        logits = torch.where(equal, -1, 1) * (scores * factor + bias[rows, None])
        terms, slopes = F.softplus(logits, threshold=40), torch.where(equal, -1, 1) * logits.sigmoid()
        if only_same:
            terms, slopes = (t.masked_fill_(~equal, 0) for t in (terms, slopes))
        total += terms.sum(dtype=torch.float64)
        grad_bias[rows] = slopes.sum(1)
        grad_scale += (slopes * scores).sum(dtype=torch.float64)
        weights = slopes.to(other.dtype)
        if need_x:
            grad_x[rows] = (weights @ other).to(x.dtype) * factor
        if need_y:
            grad_y += (weights.T @ inputs[rows]).to(x.dtype) * factor
    return total, grad_x, grad_y, grad_scale, grad_bias
