"""Row and column log-sum-exp of scaled scores in Triton, and their gradients; no m x n matrix.

    s_ij = <x_i, y_j>,  row_lse_i = log sum_j exp(scale s_ij),  col_lse_j the same over i;  pairs of equal ids left out

Forward: sums in one pass over the tiles, for symmetric scores half of them, then the logarithms. Column sums come from
the same pass by atomics, where no maximum has to run along; otherwise from a second pass, of y against x. Where x alone
needs a gradient, which is scale times a mean of y, that mean is made in the forward pass, as attention is.
Backward: a row block owns its gradient, sum_j W_ij y_j; for y the two change roles. Few rows against many columns split
the columns among programs, whose parts are added up in one order.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from . import launch
from .pairwise_kernels import (
    pairwise_attend_kernel,
    pairwise_collect_kernel,
    pairwise_factors_kernel,
    pairwise_gradient_kernel,
    pairwise_lse_kernel,
    pairwise_mean_kernel,
    pairwise_sums_kernel,
    pairwise_total_kernel,
)
from .pairwise_loops import MAX_PLAIN_SCALE

Ids = Tensor | None


def pairwise_logsumexp_fwd(
    x: Tensor, y: Tensor | None, scale: Tensor, row_ids: Ids, col_ids: Ids, products: torch.dtype, bounded: bool,
    columns: bool, attend: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Return row_lse [m] and col_lse [n] in float64, and mean [m, d]. See `fastssl.functional.pairwise_logsumexp`.

    Bit-identical from run to run where `torch.use_deterministic_algorithms(True)`, at twice the products for symmetric
    scores or column sums.
    """
    symmetric = y is None
    rows = launch.operand(x, products)
    cols = rows if y is None else launch.operand(y, products)
    col_ids = row_ids if symmetric else col_ids
    factor = launch.readable(scale, x.device)
    atomics = bounded and not torch.are_deterministic_algorithms_enabled()
    col_lse = x.new_empty(0, dtype=torch.float64)
    with torch.cuda.device_of(x):
        if attend:
            row_lse, mean = _attend(rows, cols, factor, row_ids, col_ids)
            return row_lse, col_lse, mean
        half = symmetric and atomics
        col_sum = torch.zeros(len(cols), dtype=torch.float32, device=x.device) if columns and atomics else None
        parts = _sums(rows, cols, factor, row_ids, col_ids, bounded, half, col_sum)
        row_lse = _lse(factor, *parts, parts[1] if half else None, bounded)
        if columns:
            if col_sum is not None and _surely_plain(factor):
                parts = col_sum[None], col_sum[None]
            else:
                parts = _sums(cols, rows, factor, col_ids, row_ids, bounded, if_plain=col_sum is None)
            col_lse = _lse(factor, *parts, col_sum, bounded)
    return row_lse, col_lse, x.new_empty((0, x.shape[1]))


def pairwise_logsumexp_bwd(
    grad_row: Tensor | None, grad_col: Tensor | None, x: Tensor, y: Tensor | None, scale: Tensor, row_ids: Ids,
    col_ids: Ids, row_lse: Tensor, col_lse: Tensor | None, products: torch.dtype, bounded: bool, need_x: bool,
    need_y: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Return grad_x [m, d], grad_y [n, d], where they are needed, and grad_scale []; bit-identical from run to run."""
    rows = launch.operand(x, products)
    cols = rows if y is None else launch.operand(y, products)
    share = 1.0
    if y is None:
        # W + W^T of a symmetric problem is W with the columns weighted as the rows; the scale then meets s_ij twice.
        col_ids, grad_col, col_lse, need_y, share = row_ids, grad_row, row_lse, False, 0.5
    factor = launch.readable(scale, x.device)
    grad_x, grad_y = (x.new_empty((0, x.shape[1])) for _ in range(2))
    grad_scale = torch.empty((), dtype=torch.float64, device=x.device)
    unit = torch.empty((), dtype=torch.float32, device=x.device)
    of_rows, of_cols = (
        None if g is None else torch.empty((2, len(g)), dtype=torch.float32, device=x.device)
        for g in (grad_row, grad_col)
    )
    with torch.cuda.device_of(x):
        pairwise_factors_kernel[(1,)](
            factor, row_lse, grad_row, col_lse, grad_col, unit, of_rows, of_cols, len(rows), len(cols),
            launch.weight_shift(rows), BOUNDED=bounded, **launch.REDUCTION.kwargs(),
        )  # fmt: skip
        if need_y:
            grad_y, dot = _gradient(cols, rows, factor, col_ids, row_ids, of_cols, of_rows, unit, bounded)
        if need_x or not need_y:
            found, dot = _gradient(rows, cols, factor, row_ids, col_ids, of_rows, of_cols, unit, bounded)
            grad_x = found if need_x else grad_x
        pairwise_total_kernel[(1,)](dot, grad_scale, len(dot), share, **launch.REDUCTION.kwargs())
    return grad_x, grad_y, grad_scale


def _surely_plain(scale: Tensor | float) -> bool:
    """Whether column sums are known to come from the rows' pass; of a scale on the device, only the kernels know."""
    return isinstance(scale, float) and abs(scale) <= MAX_PLAIN_SCALE.value


def _sums(
    x: Tensor, y: Tensor, scale: Tensor | float, row_ids: Ids, col_ids: Ids, bounded: bool, half: bool = False,
    col_sum: Tensor | None = None, if_plain: bool = True,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return maxima and sums [splits, m]."""
    m, width = x.shape
    config = launch.pick("pairwise_sums", x.device, launch.element_size(x), m, width)
    splits = launch.splits(config, x.device, m, len(y), steps=2 if half else 1)
    part_max = torch.empty((splits, m), dtype=torch.float32, device=x.device)
    part_sum = torch.zeros_like(part_max) if half else torch.empty_like(part_max)
    pairwise_sums_kernel[(triton.cdiv(m, config.block_m), splits)](
        x, y, scale, row_ids, col_ids, None, part_max, part_sum, col_sum, m, len(y), splits,
        WIDTH=width, PRECISION=launch.precision(x), RECIPROCAL=False, BOUNDED=bounded, HALF=half, IF_PLAIN=if_plain,
        **config.kwargs(),
    )  # fmt: skip
    return part_max, part_sum


def _lse(scale: Tensor | float, part_max: Tensor, part_sum: Tensor, plain_sum: Tensor | None, bounded: bool) -> Tensor:
    splits, m = part_max.shape
    lse = torch.empty(m, dtype=torch.float64, device=part_max.device)
    config = launch.VECTOR
    pairwise_lse_kernel[(triton.cdiv(m, config.block_m),)](
        scale, part_max, part_sum, plain_sum, lse, m, splits, BOUNDED=bounded, **config.kwargs()
    )
    return lse


def _attend(x: Tensor, y: Tensor, scale: Tensor | float, row_ids: Ids, col_ids: Ids) -> tuple[Tensor, Tensor]:
    """Return row_lse [m] and mean [m, d]."""
    m, width = x.shape
    config, parts = parts_of("attend", x, y)
    part_max, part_sum = (torch.empty(parts.shape[:2], dtype=torch.float32, device=x.device) for _ in range(2))
    lse = torch.empty(m, dtype=torch.float64, device=x.device)
    mean = parts[0] if len(parts) == 1 else torch.empty_like(parts[0])
    pairwise_attend_kernel[(triton.cdiv(m, config.block_m), len(parts))](
        x, y, scale, row_ids, col_ids, part_max, part_sum, parts, m, len(y), launch.weight_shift(x),
        WIDTH=width, PRECISION=launch.precision(x), **config.kwargs(),
    )  # fmt: skip
    row_config = launch.rows(width)
    pairwise_mean_kernel[(triton.cdiv(m, row_config.block_m),)](
        scale, part_max, part_sum, parts, lse, mean, m, len(parts), WIDTH=width, **row_config.kwargs()
    )
    return lse, mean


def _gradient(
    x: Tensor, y: Tensor, scale: Tensor | float, row_ids: Ids, col_ids: Ids, row_factors: Tensor | None,
    col_factors: Tensor | None, unit: Tensor, bounded: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return scale W y [m, d] and <(W y)_i, x_i> [m]."""
    config, parts = parts_of("pairwise", x, y)
    pairwise_gradient_kernel[(triton.cdiv(len(x), config.block_m), len(parts))](
        x, y, scale, row_ids, col_ids, row_factors, col_factors, parts, len(x), len(y), launch.weight_shift(x),
        WIDTH=x.shape[1], PRECISION=launch.precision(x), BOUNDED=bounded, **config.kwargs(),
    )  # fmt: skip
    return collect(parts, x, scale, unit)


def parts_of(loop: str, x: Tensor, y: Tensor) -> tuple[launch.Config, Tensor]:
    """Return how to launch a gradient of x, and memory for its parts [splits, m, d]."""
    m, width = x.shape
    config = launch.pick(loop, x.device, launch.element_size(x), m, width)
    splits = launch.splits(config, x.device, m, len(y), fill=1, steps=4)
    return config, torch.empty((splits, m, width), dtype=torch.float32, device=x.device)


def collect(parts: Tensor, x: Tensor | None, scale: Tensor | float, unit: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return scale unit times the sum of the parts, and its product with x before the scale."""
    splits, m, width = parts.shape
    out = parts[0] if splits == 1 else torch.empty_like(parts[0])
    row_dot = torch.empty(m, dtype=torch.float64, device=parts.device)
    config = launch.rows(width)
    pairwise_collect_kernel[(triton.cdiv(m, config.block_m),)](
        parts, x, scale, unit, out, row_dot, m, splits, WIDTH=width, **config.kwargs()
    )
    return out, row_dot
