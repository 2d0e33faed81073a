"""Tokens by id in torch ops, for any device and float type."""

from __future__ import annotations

import torch
from torch import Tensor

from .tokens import chunks, collect, places, take


def gather_tokens_fwd(x: Tensor, ids: Tensor, prefix: int) -> Tensor:
    """Return [N, P + K, D], the prefix rows and the rows that ids [N, K] name; zeros where they name none."""
    rows, named = places(ids, x.shape[1] - prefix, prefix)
    return take(x, rows).masked_fill_(~named[..., None], 0).contiguous()


def gather_tokens_bwd(grad: Tensor, ids: Tensor, length: int, prefix: int) -> Tensor:
    """Return the gradient of x [N, length, D] from that of the result [N, P + K, D]."""
    n, _, width = grad.shape
    out = torch.empty((n, length, width), dtype=grad.dtype, device=grad.device)
    for part in chunks(n, length * width):
        out[part] = collect(grad[part], *places(ids[part], length - prefix, prefix), length)
    return out
