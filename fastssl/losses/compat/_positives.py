"""Log-sum-exp over the positives alone: the few scores that the engine's exclusion leaves no way to ask for."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

_ROWS, _COLUMNS = 256, 1024
_NOTHING = -1e30  # as an exponent it is none, and unlike -inf it has derivatives


def positive_logsumexp(x: Tensor, x_ids: Tensor, y: Tensor, y_ids: Tensor, scale: Tensor, start: int) -> Tensor:
    """Return log sum exp(scale <x_i, y_j>) over the rows y_j, j != start + i, with the id of x_i, in float64 [m].

    Rows sorted by their ids, the positives of a block of rows are a range of columns. Blocks of scores are computed
    again in the backward pass rather than kept. Reading the ranges waits for the device.
    """
    x_order, y_order = x_ids.argsort(), y_ids.argsort()
    sorted_x, sorted_y = x_ids[x_order], y_ids[y_order]
    begins = torch.searchsorted(sorted_y, sorted_x)
    ends = torch.searchsorted(sorted_y, sorted_x, right=True)
    ranges = torch.stack([begins[::_ROWS], torch.stack([e[-1] for e in ends.split(_ROWS)])]).T.tolist()
    own = x_order + start
    columns = y[y_order]
    found = []
    for block, ids, skipped, (begin, end) in zip(
        x[x_order].split(_ROWS), sorted_x.split(_ROWS), own.split(_ROWS), ranges, strict=True
    ):
        lse = block.new_full((len(block),), _NOTHING, dtype=torch.float64)
        for first in range(begin, end, _COLUMNS):
            part = slice(first, min(first + _COLUMNS, end))
            counts = (ids[:, None] == sorted_y[part]) & (skipped[:, None] != y_order[part])
            more = checkpoint(
                _block, block, columns[part], scale, counts, use_reentrant=False, preserve_rng_state=False
            )
            lse = torch.logaddexp(lse, more)
        found.append(lse)
    lse = torch.cat(found)
    lse = torch.where(lse > _NOTHING / 2, lse, -torch.inf)
    return torch.zeros_like(lse).index_copy(0, x_order, lse)


def _block(x: Tensor, y: Tensor, scale: Tensor, counts: Tensor) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        return ((x @ y.T).double() * scale).masked_fill(~counts, _NOTHING).logsumexp(1)
