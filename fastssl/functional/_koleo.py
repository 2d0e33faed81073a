"""KoLeo: each row keeps away from its nearest neighbour, so that all spread over the sphere."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .. import _checks
from ._peers import Gather, Peers, peers
from ._registration import define_data_op
from ._similarity import unit_rows

_ROWS, _COLUMNS = 1024, 4096  # of a block of similarities: 16 MB in float32


def koleo(x: Tensor, eps: float = 1e-8, *, gather_distributed: Gather = False) -> Tensor:
    r"""Kozachenko-Leonenko estimate of the entropy of unit rows, negated: minus the mean log of nearest distances.

        loss = -1/N sum_i log( |u_i - u_nn(i) + eps| + eps ),    u = x / max(|x|, eps)
        nn(i) = argmax_{j != i} <u_i, u_j>

    Args:
        x: embeddings [N, d], at least two rows in all; float64, float32, float16 or bfloat16; normalised here.
        eps: > 0; added to each of the d differences and to the distance, as in the authors' code.
        gather_distributed: find neighbours among the rows of all processes of torch.distributed's default group, and
            take the mean over these: True, "all_gather" or "ring". Batches may differ in size.

    Returns:
        A 0-d float32 tensor (float64 for float64), also under autocast, which is left aside.

    Raises:
        TypeError, ValueError: an argument is of another type, dtype, shape, device or value; the message names it.

    Of neighbours that are equally near, the first one counts. Which row is nearest has no gradient. A row whose unit
    vector is its neighbour's, but for rounding, and a row of zeros add what the formula says to the loss, but nothing
    to the gradient, where they would outweigh the others by 1e8 in a direction that means nothing. Similarities are
    computed in float32 (float64), in blocks of 16 MB.

    Source: Sablayrolles et al., Spreading Vectors for Similarity Search, 2019, eq. 2; DINOv2's form of it.
    """
    return koleo_norm(x, eps, eps, 2.0, gather_distributed)


def koleo_norm(x: Tensor, eps: float, difference_eps: float, p: float, gather_distributed: Gather) -> Tensor:
    """Return the loss of `koleo` in the p-norm, with an eps of its own for the differences."""
    _checks.float_tensor("x", x, "[N, d]")
    for name, value in (("eps", eps), ("p", p)):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise ValueError(f"{name}: got {value!r}, want a finite number > 0")
    found = peers(gather_distributed, len(x), x.device)
    if found.total < 2:
        raise ValueError(f"x: got {found.total} row, want at least 2: one row has no neighbour")
    with torch.autocast(x.device.type, enabled=False):
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        # Through `where` a row gets a gradient of exactly 0, whatever its derivative is.
        u = unit_rows(torch.where((x == 0).all(1, keepdim=True), 0.0, x), eps)
        apart = u - _neighbours(u, found)
        rounding = 2 * torch.finfo(u.dtype).eps
        same = (apart.detach().abs() <= rounding).all(1, keepdim=True)
        apart = torch.where(same, apart.detach(), apart) + difference_eps
        distances = torch.linalg.vector_norm(apart, p, 1)
        return -found.mean((distances + eps).log().double()).to(x.dtype)


def _neighbours(u: Tensor, found: Peers) -> Tensor:
    """Return the nearest row of each of this process's among those of all, whose gradients go back to it."""
    if found.count == 1:
        index: Tensor = torch.ops.fastssl.nearest_rows(u.detach())
        return u[index]
    from ._collectives import nearest_of_processes

    rows: Tensor = nearest_of_processes(u, found)
    return rows


def _nearest_rows(u: Tensor) -> Tensor:
    with torch.autocast(u.device.type, enabled=False):
        return nearest(u, u)[1]


define_data_op("nearest_rows(Tensor u) -> Tensor", _nearest_rows, lambda u: u.new_empty(u.shape[0], dtype=torch.int64))


def nearest(u: Tensor, others: Tensor, ids: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
    """Return, for each row, the largest product with another row of `others`, and the first index of one there.

    A row and one of `others` with the same id are the same row; without ids, those of the same index. NaN is the
    largest of all.
    """
    best, index = u.new_full((len(u),), -torch.inf), torch.zeros(len(u), dtype=torch.int64, device=u.device)
    for r in range(0, len(u), _ROWS):
        rows = slice(r, r + _ROWS)
        for c in range(0, len(others), _COLUMNS):
            columns = slice(c, c + _COLUMNS)
            scores = u[rows] @ others[columns].T
            if ids is not None:
                scores.masked_fill_(ids[0][rows, None] == ids[1][columns], -torch.inf)
            elif -len(scores) < r - c < scores.shape[1]:
                scores.diagonal(r - c).fill_(-torch.inf)
            value, column = scores.max(1)
            better = (value > best[rows]) | value.isnan()
            best[rows] = torch.where(better, value, best[rows])
            index[rows] = torch.where(better, column + c, index[rows])
    return best, index
