"""The processes whose embeddings a loss takes as negatives.

Losses are written once, for rows of this process against columns of all of them; in one process these are the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from . import _pairwise_logsumexp, _pairwise_softplus
from ._similarity import ranks

Gather = bool | str  # gather_distributed: False, True (which is "all_gather"), "all_gather" or "ring"
Ids = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Peers:
    """One process alone; `_distributed` has the others.

    Every loss is a ratio of sums over the rows of all processes. Its value is that of the global batch, on every
    process. Its gradient is `count` times this process's share of the global one, so that DistributedDataParallel,
    which takes the mean of the processes' gradients, ends with the exact gradient of the global batch.
    """

    rows: int  # of this process

    @property
    def start(self) -> int:
        """Index in the global batch of this process's first row."""
        return 0

    @property
    def total(self) -> int:
        """Rows of all processes."""
        return self.rows

    @property
    def count(self) -> int:
        """Number of processes."""
        return 1

    def logsumexp(
        self, x: Tensor, y: Tensor, scale: Tensor, ids: Ids | None, products: torch.dtype, *, bounded: bool = True
    ) -> Tensor:
        """Return row_lse [m] in float64 of this process's x against the y of all; `y is x` is the symmetric problem."""
        other = None if y is x else y
        return _pairwise_logsumexp.logsumexp(x, other, scale, ids, products, bounded=bounded)[0]

    def both_logsumexp(
        self, x: Tensor, y: Tensor, scale: Tensor, ids: Ids | None, products: torch.dtype, *, bounded: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Return the log-sum-exps of this process's x against the y of all, and of its y against the x of all."""
        return _pairwise_logsumexp.logsumexp(x, y, scale, ids, products, bounded=bounded, columns=True)

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
        """Return the sum over this process's x and the y of all, in float64; see `_pairwise_softplus.softplus`."""
        return _pairwise_softplus.softplus(x, y, scale, bias, ids, products, only_same=only_same)

    def class_sums(self, ids: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return, for each of this process's rows, the sum [m, d] of all rows with its id, and their number [m].

        Of tensors without gradient.
        """
        sums, first, count = class_sums(ids, x)
        return sums[first], count

    def all_ids(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return int32 ids of this process's rows, twice, equal across all processes where the int64 ids are."""
        return ranks(ids, ids)

    def gather(self, x: Tensor) -> Tensor:
        """Return the rows of all processes in the order of ranks, without gradient."""
        return x.detach()

    def sum(self, x: Tensor) -> Tensor:
        """Return the sum over the processes of a tensor without gradient."""
        return x.detach()

    def ratio(self, numerator: Tensor, denominator: Tensor | float) -> Tensor:
        """Return the sum of the numerators, which are differentiated, over that of the denominators, which are not."""
        return numerator / denominator

    def mean(self, terms: Tensor) -> Tensor:
        """Return the mean over the rows of all processes of one term a row of this process."""
        return self.ratio(terms.sum(), terms.shape[0])

    def total_logsumexp(self, terms: Tensor) -> Tensor:
        """Return log sum exp over the rows of all processes of one term a row of this process."""
        return terms.logsumexp(0)


def class_sums(ids: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return sums [m, d] of the rows of each id, each row's place in them [m], and the number of rows of its id [m].

    Shapes do not depend on the ids, so nothing waits for the device.
    """
    levels = ids.sort().values
    first = torch.searchsorted(levels, ids.contiguous())
    count = torch.searchsorted(levels, ids.contiguous(), right=True) - first
    return torch.zeros_like(x).index_add(0, first, x), first, count


def check_gather(value: object) -> None:
    """Check a `gather_distributed`."""
    if value not in (False, True, "all_gather", "ring"):
        raise ValueError(f"gather_distributed: got {value!r}, want False, True, 'all_gather' or 'ring'")


def peers(gather_distributed: Gather, rows: int, device: torch.device) -> Peers:
    """Return the processes of a loss with so many rows on this one.

    Raises:
        ValueError: `gather_distributed` is not a bool, "all_gather" or "ring".
    """
    check_gather(gather_distributed)
    if gather_distributed is False:
        return Peers(rows)
    from ._distributed import connect

    return connect("all_gather" if gather_distributed is True else str(gather_distributed), rows, device)
