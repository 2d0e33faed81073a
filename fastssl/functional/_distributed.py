"""The processes of torch.distributed's default group as the peers of a loss.

What follows from the gradient's convention (see `Peers`): the engine's functions here return this process's share of a
sum over all rows, and pull back the shares of all processes; `ratio` and `total_logsumexp` then give the value of the
whole and multiply by the number of processes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from .. import _backend
from ._circulate import Combine, Rows, Visit, all_at_once, around_the_ring, gather, half, whole
from ._peers import Ids, Peers

Circulate = Callable[..., Rows]  # (visit, combine, own)


def connect(strategy: str, rows: int, device: torch.device) -> Peers:
    """Return the processes of the default group, or one alone where no group is initialised or it has one process.

    Args:
        strategy: "all_gather" or "ring".
        rows: of this process; they may differ between processes.
        device: where the embeddings are; the group's backend must reach it.

    Raises:
        RuntimeError: this torch is built without torch.distributed.
    """
    if not dist.is_available():
        raise RuntimeError(
            f"gather_distributed: got {strategy!r}, but this torch is built without torch.distributed, want False"
        )
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return Peers(rows)
    found: Peers = _connect(strategy, rows, device)
    return found


@torch.compiler.disable
def _connect(strategy: str, rows: int, device: torch.device) -> Peers:
    return Processes(rows, _sizes(rows, device), dist.get_rank(), strategy == "ring")


def _sizes(rows: int, device: torch.device) -> tuple[int, ...]:
    """Return the number of rows of each process: where there is an accelerator, the one wait of the host for it."""
    everyone = torch.empty(dist.get_world_size(), dtype=torch.int64, device=device)
    dist.all_gather_into_tensor(everyone, torch.tensor([rows], device=device))
    return tuple(int(n) for n in everyone.tolist())


@dataclass(frozen=True)
class Processes(Peers):
    """Several processes. Their methods are collective: every process calls the same ones in the same order.

    By "all_gather" a process holds the embeddings of all for the length of a pass, O(total x d); around the ring, three
    blocks of them, O(rows x d), and the next block travels while this one is worked on. Nothing but this process's rows
    is kept from the forward pass for the backward pass. The number of operations is the same.

    Embeddings travel as they are, in float32, so that both give what one process would; only those that an accelerator
    rounds to 16 bits before it multiplies them are rounded before they travel instead.

    A process that ends or stalls is an error on the others after the group's timeout at the latest.
    """

    sizes: tuple[int, ...]
    rank: int
    ring: bool

    @property
    def start(self) -> int:
        return sum(self.sizes[: self.rank])

    @property
    def total(self) -> int:
        return sum(self.sizes)

    @property
    def count(self) -> int:
        return len(self.sizes)

    @torch.compiler.disable
    def logsumexp(
        self, x: Tensor, y: Tensor, scale: Tensor, ids: Ids | None, products: torch.dtype, *, bounded: bool = True
    ) -> Tensor:
        row_ids, col_ids = ids or (None, None)
        if y is x:
            row_lse: Tensor = _Symmetric.apply(
                self._circulate(self.sizes, halved=True), x, scale, row_ids, products, bounded
            )
            return row_lse
        # A y of its own may have any number of rows, such as explicit negatives.
        sizes = _sizes(len(y), y.device)
        row_lse, _ = _Rectangular.apply(self._circulate(sizes), x, y, scale, row_ids, col_ids, products, bounded, False)
        return row_lse

    @torch.compiler.disable
    def both_logsumexp(
        self, x: Tensor, y: Tensor, scale: Tensor, ids: Ids | None, products: torch.dtype, *, bounded: bool = True
    ) -> tuple[Tensor, Tensor]:
        both: tuple[Tensor, Tensor] = _Rectangular.apply(
            self._circulate(self.sizes), x, y, scale, *(ids or (None, None)), products, bounded, True
        )
        return both

    @torch.compiler.disable
    def softplus(
        self,
        x: Tensor,
        y: Tensor,
        scale: Tensor,
        bias: Tensor,
        ids: Ids,
        products: torch.dtype,
        only_same: bool = False,
    ) -> Tensor:
        grads = torch.is_grad_enabled()
        total: Tensor = _Softplus.apply(
            self._circulate(self.sizes), x, y, scale, bias.to(x.dtype), *ids, products, only_same,
            grads and x.requires_grad, grads and y.requires_grad,
        )  # fmt: skip
        return total

    @torch.compiler.disable
    def class_sums(self, ids: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        levels, m = ids.sort().values, len(ids)
        # The last place is of ids that this process does not have.
        sums, count = x.new_zeros((m + 1, x.shape[1])), ids.new_zeros(m + 1, dtype=torch.int64)

        def visit(kind: str, block_ids: Tensor, block: Tensor) -> None:
            place = torch.searchsorted(levels, block_ids.contiguous())
            place = torch.where(levels[place.clamp_max(m - 1)] == block_ids, place, m)
            sums.index_add_(0, place, block)
            count.index_add_(0, place, torch.ones_like(place))

        self._circulate(self.sizes)(visit, ids, x)
        own = torch.searchsorted(levels, ids.contiguous())
        return sums[own], count[own]

    @torch.compiler.disable
    def all_ids(self, ids: Tensor) -> Ids:
        levels = self.gather(ids).sort().values
        own = torch.searchsorted(levels, ids.contiguous()).int()
        return own, own

    @torch.compiler.disable
    def gather(self, x: Tensor) -> Tensor:
        everyone: Tensor = gather([x], self.sizes)[0]
        return everyone

    @torch.compiler.disable
    def sum(self, x: Tensor) -> Tensor:
        total = x.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @torch.compiler.disable
    def ratio(self, numerator: Tensor, denominator: Tensor | float) -> Tensor:
        below = torch.as_tensor(denominator, dtype=torch.float64, device=numerator.device)
        both = torch.stack([numerator.detach().double(), below])
        dist.all_reduce(both)
        value: Tensor = _Whole.apply(numerator, both[0] / both[1], self.count / both[1])
        return value

    @torch.compiler.disable
    def total_logsumexp(self, terms: Tensor) -> Tensor:
        own = terms.logsumexp(0)
        everyone = own.new_empty(self.count)
        dist.all_gather_into_tensor(everyone, own.detach().reshape(1))
        total = everyone.logsumexp(0)
        share = torch.where(own.detach() == -torch.inf, 0.0, (own.detach() - total).exp())
        value: Tensor = _Whole.apply(own, total, share * self.count)
        return value

    def _circulate(self, sizes: tuple[int, ...], halved: bool = False) -> Circulate:
        way = around_the_ring if self.ring else all_at_once
        tour = half(self.count) if halved else whole(self.count)

        def circulate(visit: Visit, *own: Rows, combine: Combine = torch.add) -> Rows:
            got = [len(t) for t in own if t is not None]
            if set(got) != {sizes[self.rank]}:
                raise ValueError(f"peers: got tensors of {got} rows, want {sizes[self.rank]}")
            return way(visit, combine, own, sizes, self.rank, tour)

        return circulate


class _Whole(torch.autograd.Function):
    """The part of a process, with the value of the whole and a gradient of `slope`."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, whole: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope.to(part))
        return whole.to(part)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return grad * ctx.saved_tensors[0], None, None


class _Rectangular(torch.autograd.Function):
    """Log-sum-exps of this process's x against the y of all, and with `columns` of its y against the x of all.

    Rows of y travel; what is found for them, from all x, comes home: parts of col_lse, then of grad_y.
    """

    @staticmethod
    def forward(
        ctx: Any, circulate: Circulate, x: Tensor, y: Tensor, scale: Tensor, row_ids: Tensor | None,
        col_ids: Tensor | None, products: torch.dtype, bounded: bool, columns: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        ctx.circulate, ctx.products, ctx.bounded, ctx.columns = circulate, products, bounded, columns
        ctx.backend = _backend.requested()
        row_lse = _empty_sums(x)

        def visit(kind: str, block: Tensor, ids: Tensor | None) -> Tensor | None:
            lse, block_lse, _ = torch.ops.fastssl.pairwise_logsumexp(
                x, block.to(x.dtype), scale, row_ids, ids, products, bounded, columns, False, ctx.backend
            )
            torch.logaddexp(row_lse, lse, out=row_lse)
            return block_lse if columns else None  # type: ignore[no-any-return]

        col_lse = circulate(visit, _travelling(y, products), col_ids, combine=torch.logaddexp)
        ctx.save_for_backward(x, y, scale, row_ids, col_ids, row_lse, col_lse)
        return row_lse, row_lse.new_empty(0) if col_lse is None else col_lse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_row: Tensor, grad_col: Tensor) -> tuple[Tensor | None, ...]:
        x, y, scale, row_ids, col_ids, row_lse, col_lse = ctx.saved_tensors
        need_x, need_y = ctx.needs_input_grad[1:3]
        grad_x, grad_scale = torch.zeros_like(x if need_x else x[:0]), x.new_zeros((), dtype=torch.float64)

        def visit(
            kind: str, block: Tensor, ids: Tensor | None, lse: Tensor | None, grad: Tensor | None
        ) -> Tensor | None:
            pulled_x, pulled_y, pulled_scale = torch.ops.fastssl.pairwise_logsumexp_backward(
                grad_row, grad, x, block.to(x.dtype), scale, row_ids, ids, row_lse, lse, ctx.products, ctx.bounded,
                need_x, need_y, ctx.backend,
            )  # fmt: skip
            grad_x.add_(pulled_x)
            grad_scale.add_(pulled_scale)
            return pulled_y if need_y else None  # type: ignore[no-any-return]

        grads = grad_col.to(x.dtype) if ctx.columns else None
        grad_y = ctx.circulate(visit, _travelling(y, ctx.products), col_ids, col_lse, grads)
        return None, grad_x if need_x else None, grad_y, grad_scale.to(scale), *(None,) * 5


class _Symmetric(torch.autograd.Function):
    """Log-sum-exps of this process's rows against those of all, every pair of rows visited once.

    Rows travel half way around, in the backward pass with their log-sum-exps and gradients, and what is found for them
    comes home. With an even number of processes two opposite ones meet twice, and each then works for its own rows.
    """

    @staticmethod
    def forward(
        ctx: Any, circulate: Circulate, x: Tensor, scale: Tensor, ids: Tensor | None, products: torch.dtype,
        bounded: bool,
    ) -> Tensor:  # fmt: skip
        ctx.circulate, ctx.products, ctx.bounded, ctx.backend = circulate, products, bounded, _backend.requested()
        row_lse = _empty_sums(x)

        def visit(kind: str, block: Tensor, block_ids: Tensor | None) -> Tensor | None:
            other = None if kind == "own" else block.to(x.dtype)
            lse, block_lse, _ = torch.ops.fastssl.pairwise_logsumexp(
                x, other, scale, ids, block_ids, products, bounded, kind == "both", False, ctx.backend
            )
            torch.logaddexp(row_lse, lse, out=row_lse)
            return block_lse if kind == "both" else None  # type: ignore[no-any-return]

        from_others = circulate(visit, _travelling(x, products), ids, combine=torch.logaddexp)
        if from_others is not None:
            torch.logaddexp(row_lse, from_others, out=row_lse)
        ctx.save_for_backward(x, scale, ids, row_lse)
        return row_lse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_row: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, ids, row_lse = ctx.saved_tensors
        need_x = ctx.needs_input_grad[1]
        grad_x, grad_scale = torch.zeros_like(x if need_x else x[:0]), x.new_zeros((), dtype=torch.float64)

        def visit(
            kind: str, block: Tensor, block_ids: Tensor | None, lse: Tensor | None, grad: Tensor | None
        ) -> Tensor | None:
            other, lse, grad = (None, None, None) if kind == "own" else (block.to(x.dtype), lse, grad)
            need_y = need_x and kind == "both"
            pulled_x, pulled_y, pulled_scale = torch.ops.fastssl.pairwise_logsumexp_backward(
                grad_row, grad, x, other, scale, ids, block_ids, row_lse, lse, ctx.products, ctx.bounded,
                need_x, need_y, ctx.backend,
            )  # fmt: skip
            grad_x.add_(pulled_x)
            grad_scale.add_(pulled_scale / 2 if kind == "one" else pulled_scale)  # the opposite process adds the same
            return pulled_y if need_y else None  # type: ignore[no-any-return]

        own = _travelling(x, ctx.products), ids, row_lse, grad_row.to(x.dtype)
        from_others = ctx.circulate(visit, *own)
        if from_others is not None:
            grad_x.add_(from_others)
        return None, grad_x if need_x else None, grad_scale.to(scale), *(None,) * 3


class _Softplus(torch.autograd.Function):
    """Sum of the softplus over this process's x and the y of all; gradients are made, and come home, on the way.

    The upstream gradient is taken to be the same on all processes, as it is for the losses.
    """

    @staticmethod
    def forward(
        ctx: Any, circulate: Circulate, x: Tensor, y: Tensor, scale: Tensor, bias: Tensor, row_ids: Tensor,
        col_ids: Tensor, products: torch.dtype, only_same: bool, need_x: bool, need_y: bool,
    ) -> Tensor:  # fmt: skip
        total, grad_scale = (x.new_zeros((), dtype=torch.float64) for _ in range(2))
        grad_x, grad_bias = torch.zeros_like(x if need_x else x[:0]), torch.zeros_like(bias)

        def visit(kind: str, block: Tensor, ids: Tensor) -> Tensor | None:
            part, pulled_x, pulled_y, pulled_scale, pulled_bias = torch.ops.fastssl.pairwise_softplus(
                x, block.to(x.dtype), scale, bias, row_ids, ids, products, only_same, need_x, need_y,
                _backend.requested(),
            )  # fmt: skip
            for sum_, pulled in (
                (total, part), (grad_x, pulled_x), (grad_scale, pulled_scale), (grad_bias, pulled_bias)
            ):  # fmt: skip
                sum_.add_(pulled)
            return pulled_y if need_y else None  # type: ignore[no-any-return]

        grad_y = circulate(visit, _travelling(y, products), col_ids)
        ctx.scale = scale.dtype, scale.device
        ctx.save_for_backward(grad_x, grad_y, grad_scale, grad_bias)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_x, grad_y, grad_scale, grad_bias = (
            unit * grad.to(unit.dtype) if needed else None
            for unit, needed in zip(ctx.saved_tensors, ctx.needs_input_grad[1:5], strict=True)
        )
        if grad_scale is not None:
            dtype, device = ctx.scale
            grad_scale = grad_scale.to(device, dtype)
        return None, grad_x, grad_y, grad_scale, grad_bias, *(None,) * 6


def _empty_sums(x: Tensor) -> Tensor:
    return x.new_full((len(x),), -torch.inf, dtype=torch.float64)


def _travelling(rows: Tensor, products: torch.dtype) -> Tensor:
    """Return the rows in the type in which they travel."""
    narrow = rows.device.type != "cpu" and products.itemsize < rows.dtype.itemsize
    return rows.to(products) if narrow else rows
