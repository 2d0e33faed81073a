"""Rows of token sequences, taken by id and given back; a chunk of samples at a time, so that memory stays bounded."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

CHUNK_BYTES = 64 * 2**20


def chunks(samples: int, elements: int) -> Iterator[slice]:
    """Slices of the batch whose samples, of so many numbers each, fit a chunk."""
    step = max(1, CHUNK_BYTES // (8 * max(1, elements)))
    return (slice(start, start + step) for start in range(0, samples, step))


def sum_type(dtype: torch.dtype) -> torch.dtype:
    """What sums are kept in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def places(ids: Tensor, limit: int, prefix: int = 0) -> tuple[Tensor, Tensor]:
    """Rows [N, P + K] that ids [N, K] name among P prefix rows and `limit` others, and which name one at all."""
    named = (ids >= 0) & (ids < limit)
    rows = torch.where(named, ids + prefix, 0)
    if prefix:
        first = torch.arange(prefix, device=ids.device).expand(len(ids), prefix)
        rows, named = torch.cat([first, rows], 1), torch.cat([first >= 0, named], 1)
    return rows, named


def take(x: Tensor, rows: Tensor) -> Tensor:
    """out[n, j] = x[n, rows[n, j]]."""
    return x[torch.arange(len(x), device=x.device)[:, None], rows]


def collect(grad: Tensor, rows: Tensor, named: Tensor, length: int) -> Tensor:
    """out[n, l] = the sum, in order of j, of grad[n, j] over rows[n, j] == l, in float32 or better: [N, length, D]."""
    n, _, width = grad.shape
    out = torch.zeros(n * length + 1, width, dtype=sum_type(grad.dtype), device=grad.device)
    sample = torch.arange(n, device=grad.device)[:, None] * length
    at = torch.where(named, sample + rows, n * length).flatten()  # the last row takes what goes nowhere
    grad = grad.flatten(0, 1).to(out.dtype)
    if grad.device.type == "cpu":
        out.scatter_add_(0, at[:, None].expand_as(grad), grad)
    else:
        out.index_put_((at,), grad, accumulate=True)  # sorts, which scatter_add does not: no atomics
    return out[:-1].view(n, length, width)
