"""Collectives that no graph takes in. Imported when one is called, as marking them imports the compiler."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from ._koleo import nearest


@torch.compiler.disable
def mean_of_processes(total: Tensor, rows: int, center: Tensor) -> Tensor:
    """Return the mean over the rows of all processes of sums over this one's; the centre where nobody has a row."""
    # In float64, which holds any count.
    everything = torch.cat([total.double(), total.new_full((1,), rows, dtype=torch.float64)])
    dist.all_reduce(everything)
    return torch.where(everything[-1] > 0, everything[:-1] / everything[-1], center)


@torch.compiler.disable
def log_sum_exp_of_processes(column_lse: Tensor) -> Tensor:
    """Return the log-sum-exp over the processes, by two sums of [K], whatever their number."""
    top = column_lse.clone()
    dist.all_reduce(top, dist.ReduceOp.MAX)
    top = torch.where(top.isfinite(), top, 0.0)  # NaN and inf then come through the sum
    total = (column_lse - top).exp_()
    dist.all_reduce(total)
    return total.log_().add_(top)


@torch.compiler.disable
def nearest_of_processes(u: Tensor, found: Any) -> Tensor:
    """Return the nearest row of each of this process's among those of all; see `fastssl.functional.koleo`."""
    rows: Tensor = _OfAll.apply(u, found)
    return rows


class _OfAll(torch.autograd.Function):
    """The nearest rows among those of all processes, which travel; in the backward pass gradients come home to them."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, found: Any) -> Tensor:
        own = found.start + torch.arange(len(u), device=u.device)
        best, index, rows = u.new_full((len(u),), -torch.inf), torch.zeros_like(own), torch.zeros_like(u)

        def visit(kind: str, block: Tensor, places: Tensor) -> None:
            value, column = nearest(u, block, (own, places))
            place = places[column]
            # Around the ring, blocks do not come in the order of their places.
            better = (value > best) | ((value == best) & (place < index)) | value.isnan()
            best.copy_(torch.where(better, value, best))
            index.copy_(torch.where(better, place, index))
            rows.copy_(torch.where(better[:, None], block[column], rows))

        found._circulate(found.sizes)(visit, u, own)
        ctx.found = found
        ctx.save_for_backward(own, index)
        return rows

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        own, index = ctx.saved_tensors

        def visit(kind: str, places: Tensor) -> Tensor:
            n, place = len(places), index - places[0]
            # The last place is of rows that are not in this block.
            place = torch.where((place >= 0) & (place < n), place, n)
            return grad.new_zeros((n + 1, grad.shape[1])).index_add_(0, place, grad)[:n]

        return ctx.found._circulate(ctx.found.sizes)(visit, own), None
