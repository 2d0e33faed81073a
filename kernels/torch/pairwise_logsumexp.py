"""Row and column log-sum-exp of scaled scores in torch ops, a block of rows at a time: O((m + n) d) memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def blocks(x: Tensor, y: Tensor) -> Iterator[slice]:
    """Yield blocks of rows whose scores take the memory of the embeddings."""
    m, d = x.shape
    step = min(max((m + len(y)) * d // len(y), 16), 512)
    for start in range(0, m, step):
        yield slice(start, start + step)


def equal(row_ids: Tensor | None, col_ids: Tensor | None, rows: slice) -> Tensor | None:
    """Return bool [b, n]: which pairs of a block of rows have equal ids, None where there are no ids."""
    return None if row_ids is None or col_ids is None else row_ids[rows, None] == col_ids


def signed(scale: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return |scale| in float64 and the rows times its sign, as running maxima want a positive scale."""
    scale = scale.double()
    return scale.abs(), x * scale.sign().to(x.dtype)


def pairwise_logsumexp_fwd(
    x: Tensor, y: Tensor | None, scale: Tensor, row_ids: Tensor | None, col_ids: Tensor | None, products: torch.dtype,
    bounded: bool, columns: bool, attend: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Return row_lse [m] and col_lse [n] in float64, and mean [m, d]. See `fastssl.functional.pairwise_logsumexp`."""
    if y is None:
        y, col_ids = x, row_ids
    inputs, other = operand(x, products), operand(y, products)
    magnitude, oriented = signed(scale, inputs)
    row_lse = x.new_empty(len(x), dtype=torch.float64)
    col_lse = x.new_full((len(y) if columns else 0,), -torch.inf, dtype=torch.float64)
    mean = x.new_empty((len(x) if attend else 0, x.shape[1]))
    for rows in blocks(x, y):
        scores = (oriented[rows] @ other.T).to(x.dtype)
        left_out = equal(row_ids, col_ids, rows)
        if left_out is not None:
            scores.masked_fill_(left_out, -torch.inf)
        row_lse[rows], weights = _logsumexp(scores, magnitude, 1)
        if attend:
            mean[rows] = (weights.to(other.dtype) @ other).to(x.dtype)
        if columns:
            torch.logaddexp(col_lse, _logsumexp(scores, magnitude, 0)[0], out=col_lse)
    return row_lse, col_lse, mean


def pairwise_logsumexp_bwd(
    grad_row: Tensor | None, grad_col: Tensor | None, x: Tensor, y: Tensor | None, scale: Tensor,
    row_ids: Tensor | None, col_ids: Tensor | None, row_lse: Tensor, col_lse: Tensor | None, products: torch.dtype,
    bounded: bool, need_x: bool, need_y: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Return grad_x [m, d], grad_y [n, d], where they are needed, and grad_scale []."""
    symmetric = y is None
    if y is None:
        # W + W^T of a symmetric problem is W with the columns weighted as the rows.
        y, col_ids, grad_col, col_lse, need_y = x, row_ids, grad_row, row_lse, False
    inputs, other = operand(x, products), operand(y, products)
    magnitude, oriented = signed(scale, inputs)
    grad_x, grad_y = (torch.zeros_like(t if need else t[:0]) for t, need in ((x, need_x), (y, need_y)))
    grad_scale = x.new_zeros((), dtype=torch.float64)
    level, rest = _levels(row_lse, grad_row, magnitude, x.dtype)
    col_level, col_rest = _levels(col_lse, grad_col, magnitude, x.dtype)
    factor = scale.to(x.dtype)
    # 16-bit weights must neither overflow nor underflow, whatever the upstream gradient.
    unit = torch.stack([r.abs().max() for r in (rest, col_rest) if r is not None]).max()
    unit = torch.where(unit > 0, unit, 1.0)
    for rows in blocks(x, y):
        scores = (oriented[rows] @ other.T).to(x.dtype)
        weights = torch.zeros_like(scores)
        if level is not None and rest is not None:
            weights += (scores - level[rows, None]).mul_(magnitude).exp_().mul_(rest[rows, None])
        if col_level is not None and col_rest is not None:
            weights += scores.sub_(col_level).mul_(magnitude).exp_().mul_(col_rest)
        left_out = equal(row_ids, col_ids, rows)
        if left_out is not None:
            weights.masked_fill_(left_out, 0)
        weights = (weights / unit).to(other.dtype)
        pulled = (weights @ other).to(x.dtype) * unit
        grad_scale += (pulled * x[rows]).sum(dtype=torch.float64)
        if need_x:
            grad_x[rows] = pulled * factor
        if need_y:
            grad_y += (weights.T @ inputs[rows]).to(x.dtype) * (unit * factor)
    return grad_x, grad_y, grad_scale / 2 if symmetric else grad_scale


def operand(x: Tensor, products: torch.dtype) -> Tensor:
    """Give the operands of products their type; a CPU multiplies in float32."""
    return x if x.device.type == "cpu" or x.dtype == torch.float64 else x.to(products)


def _logsumexp(scores: Tensor, magnitude: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Return log sum exp(magnitude scores) in float64 and the probabilities; -inf and zeros where nothing counts."""
    top = scores.amax(axis, keepdim=True)
    level = torch.where(top == -torch.inf, 0.0, top)
    weights = _exponentials(scores, level, magnitude)
    total = weights.sum(axis, keepdim=True)
    lse = total.double().log() + level.double() * magnitude
    return lse.squeeze(axis), weights / torch.where(total == 0, 1.0, total)


def _exponentials(scores: Tensor, level: Tensor, magnitude: Tensor) -> Tensor:
    """Return exp(magnitude (scores - level)), 0 for a score of -inf even where the magnitude is 0."""
    # The difference is exact where it matters; a scaled score would have been rounded.
    return torch.where(scores == -torch.inf, 0.0, (scores - level).mul_(magnitude).exp_())


def _levels(
    lse: Tensor | None, grad: Tensor | None, magnitude: Tensor, dtype: torch.dtype
) -> tuple[Tensor | None, Tensor | None]:
    """Return (level, rest) such that grad exp(magnitude s - lse) = exp(magnitude (s - level)) rest."""
    if lse is None or grad is None:
        return None, None
    empty = lse == -torch.inf
    # Where no exponential can overflow, none needs a level, which in units of such scores might itself overflow.
    plain = magnitude * torch.finfo(dtype).max < 64
    level = torch.where(empty | plain, 0.0, lse / magnitude).to(dtype)
    rest = torch.where(empty, 0.0, (level.double() * magnitude - lse).exp() * grad.double())
    return level, rest.to(dtype)
