"""Tokens back in their places, mask tokens in the others, in torch ops, for any device and float type."""

from __future__ import annotations

import torch
from torch import Tensor

from .tokens import chunks, collect, places, sum_type, take


def restore_tokens_fwd(
    visible: Tensor, ids_restore: Tensor, mask_token: Tensor, pos: Tensor | None, prefix: int, dtype: torch.dtype
) -> Tensor:
    """Return [N, P + L, D]: visible rows, the mask token where ids_restore names none of them; plus pos."""
    n, rows, width = visible.shape
    length = prefix + ids_restore.shape[1]
    out = torch.empty((n, length, width), dtype=dtype, device=visible.device)
    for part in chunks(n, length * width):
        at, named = places(ids_restore[part], rows - prefix, prefix)
        x = torch.where(named[..., None], take(visible[part], at) if rows else 0, mask_token).to(dtype)
        out[part] = x if pos is None else x + pos.to(dtype)
    return out


def restore_tokens_bwd(
    grad: Tensor, ids_restore: Tensor, num_visible: int, prefix: int, with_pos: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of visible [N, num_visible, D], mask_token [D] and pos [P + L, D] or [0]."""
    n, length, width = grad.shape
    grad_visible = torch.empty((n, num_visible, width), dtype=grad.dtype, device=grad.device)
    sums = torch.zeros((length + 1, width), dtype=torch.float64, device=grad.device)
    for part in chunks(n, length * width):
        g = grad[part]
        at, named = places(ids_restore[part], num_visible - prefix, prefix)
        grad_visible[part] = collect(g, at, named, num_visible)
        if with_pos:
            sums[:-1] += g.sum(0, dtype=sum_type(g.dtype))
        sums[-1] += torch.where(named[..., None], 0, g).sum((0, 1), dtype=sum_type(g.dtype))
    sums = sums.to(sum_type(grad.dtype))
    return grad_visible, sums[-1].clone(), sums[:-1].clone() if with_pos else sums.new_empty(0)
