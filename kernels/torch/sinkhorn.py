"""One iteration of Sinkhorn-Knopp in torch ops, a block of samples at a time, for any device and float type."""

from __future__ import annotations

import torch
from torch import Tensor

from .tokens import chunks, sum_type


def sinkhorn_pass(logits: Tensor, center: Tensor | None, temp: Tensor, columns: bool) -> tuple[Tensor, Tensor]:
    """Return row_lse [B] and column_lse [K], or [0], in float64. See `fastssl.functional.sinkhorn`."""
    samples, prototypes = logits.shape
    temp = temp.double()
    row_lse = torch.zeros(samples, dtype=torch.float64, device=logits.device)
    column_lse = row_lse.new_full((prototypes if columns else 0,), -torch.inf)
    for rows in chunks(samples, prototypes):
        # Differences come first: a score divided by the temperature would have lost digits.
        scores = logits[rows].to(sum_type(logits.dtype))
        if center is not None:
            scores = scores - center
            top = _finite(scores.amax(1, keepdim=True))
            scores = (scores - top).div_(temp)
            lse = scores.exp().sum(1, keepdim=True).log_()
            row_lse[rows] = (lse + top.double() / temp).squeeze(1)
            if columns:
                scores -= lse
        if columns:
            top = _finite(scores.amax(0))
            rest = (scores - top).div_(temp) if center is None else scores - top
            found = rest.exp_().sum(0).double().log_() + (top.double() / temp if center is None else top)
            torch.logaddexp(column_lse, found, out=column_lse)
    if center is not None and columns:
        column_lse += center / temp
    return row_lse, column_lse


def _finite(top: Tensor) -> Tensor:
    """Maxima to subtract, 0 where there are only scores of -inf."""
    return torch.where(top == -torch.inf, 0.0, top)
