"""What the contrastive losses share before and after the engine: rows and their product type, ids, positive scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from ._peers import Peers

REDUCTIONS = ("mean", "sum", "none")
# The squares of float32 numbers beyond 2^63 overflow; what is shrunk stays far above 1e-12.
_LARGE, _SHRINK = 2.0**50, 2.0**-80


def embeddings(*tensors: Tensor, normalize: bool) -> tuple[torch.dtype, list[Tensor]]:
    """Return the type that products take, and the rows in float32 (float64 stays), of unit length if asked for.

    Under autocast that type is autocast's, as for `torch.mm`; else it is that of the embeddings. What is not in the
    tiles, such as the normalisation and the positives, stays in float32.
    """
    device, products = tensors[0].device.type, tensors[0].dtype
    if products != torch.float64 and torch.is_autocast_enabled(device):
        products = torch.get_autocast_dtype(device)
        tensors = tuple(x.to(products) for x in tensors)
    exact = torch.float64 if products == torch.float64 else torch.float32
    with torch.autocast(device, enabled=False):
        rows = [x.to(exact) for x in tensors]
        return products, [unit_rows(x) if normalize else x for x in rows]


def unit_rows(x: Tensor, eps: float = 1e-12) -> Tensor:
    """Return x / max(|x|, eps) along the last axis, for rows of any magnitude."""
    if x.dtype == torch.float32:
        # A power of two costs no rounding.
        x = x * torch.where(x.detach().abs().amax(-1, keepdim=True) > _LARGE, _SHRINK, 1.0)
    return F.normalize(x, dim=-1, eps=eps)


def paired_scores(x: Tensor, y: Tensor) -> Tensor:
    """Return <x_i, y_i> in float64 [m]: rounded to float32, a score would be off by 1e-5 at a temperature of 0.005."""
    return (x * y).sum(-1, dtype=torch.float64)


def ranks(row_ids: Tensor, col_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Return int32 ids that are equal where the int64 ids are, which may be any numbers; without a host sync."""
    levels = torch.cat([row_ids.flatten(), col_ids.flatten()]).sort().values
    return tuple(torch.searchsorted(levels, ids.contiguous()).int() for ids in (row_ids, col_ids))  # type: ignore[return-value]


def positions(rows: int, device: torch.device, start: int = 0) -> Tensor:
    """Return int32 ids start .. start + rows - 1."""
    return torch.arange(start, start + rows, dtype=torch.int32, device=device)


def softplus_excess(lse: Tensor, positive: Tensor) -> Tensor:
    """Return log(e^lse + e^positive) - positive, the loss of a row whose lse has the negatives alone; 0 without any."""
    return F.softplus(lse - positive, threshold=40)


def reduced(nll: Tensor, reduction: str, peers: Peers, dtype: torch.dtype) -> Tensor:
    """Return a loss a row, in the type that is returned, or their mean or sum over all processes."""
    if reduction == "none":
        return nll.to(dtype)
    if reduction == "sum":
        return peers.ratio(nll.sum(), peers.rows / peers.total).to(dtype)
    return peers.mean(nll).to(dtype)


def choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Check one of a few words."""
    if value not in choices:
        raise ValueError(f"{name}: got {value!r}, want {', '.join(map(repr, choices))}")
