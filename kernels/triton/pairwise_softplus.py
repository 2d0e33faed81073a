"""Sum of the softplus of signed logits in Triton, with its gradients in the same pass; no m x n matrix.

    total = sum_ij softplus(-l_ij (scale s_ij + bias_i)),  l_ij = 1 for equal ids, else -1

1. `pairwise_softplus_kernel`, a row block a program: W_ij = -l_ij sigmoid(-l_ij (...)), its products with y, and sums
   over each row of the terms, of W and of W s.
2. The same with the roles of x and y changed, for the gradient of y.
3. `pairwise_collect_kernel` for each gradient, and `pairwise_softplus_finish_kernel` for the sums.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import launch
from .pairwise_kernels import columns_of_split
from .pairwise_logsumexp import Ids, collect, parts_of
from .pairwise_loops import gradient
from .tiles import LOG2E, scalar


def pairwise_softplus_fwd(
    x: Tensor, y: Tensor, scale: Tensor, bias: Tensor, row_ids: Ids, col_ids: Ids, products: torch.dtype,
    only_same: bool, need_x: bool, need_y: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Return total [], grad_x, grad_y, grad_scale [], grad_bias [m]. See `fastssl.functional.pairwise_softplus`.

    Bit-identical from run to run.
    """
    rows, cols = (launch.operand(t, products) for t in (x, y))
    factor = launch.readable(scale, x.device)
    grad_x, grad_y = (x.new_empty((0, x.shape[1])) for _ in range(2))
    total, grad_scale = (torch.empty((), dtype=torch.float64, device=x.device) for _ in range(2))
    grad_bias = torch.empty(len(x), dtype=torch.float32, device=x.device)
    shift = launch.weight_shift(rows)
    with torch.cuda.device_of(x):
        config, parts = parts_of("softplus", rows, cols)
        splits = len(parts)
        sums = torch.empty((3, splits, len(x)), dtype=torch.float64, device=x.device)
        pairwise_softplus_kernel[(triton.cdiv(len(x), config.block_m), splits)](
            rows, cols, factor, bias, row_ids, col_ids, parts if need_x else None, sums, len(x), len(y), shift,
            WIDTH=x.shape[1], PRECISION=launch.precision(rows), COL_BIAS=False, ONLY_SAME=only_same, **config.kwargs(),
        )  # fmt: skip
        pairwise_softplus_finish_kernel[(1,)](
            sums, total, grad_scale, grad_bias, len(x), splits, **launch.REDUCTION.kwargs()
        )
        if need_x:
            grad_x, _ = collect(parts, None, factor, None)
        if need_y:
            config, parts = parts_of("softplus", cols, rows)
            pairwise_softplus_kernel[(triton.cdiv(len(y), config.block_m), len(parts))](
                cols, rows, factor, bias, col_ids, row_ids, parts, None, len(y), len(x), shift,
                WIDTH=x.shape[1], PRECISION=launch.precision(rows), COL_BIAS=True, ONLY_SAME=only_same,
                **config.kwargs(),
            )  # fmt: skip
            grad_y, _ = collect(parts, None, factor, None)
    return total, grad_x, grad_y, grad_scale, grad_bias


@triton.jit
def softplus_and_sigmoid(u):
    """softplus(u) and its derivative, to a few roundings of either however small, by one exponential and one division.

    log(1 + e) = 2 atanh(e / (2 + e)), an odd function of an argument of at most 1/3: a polynomial, fitted to 4e-9.
    """
    e = tl.exp2(-tl.abs(u) * LOG2E)
    inverse = 1.0 / ((1.0 + e) * (2.0 + e))
    q = e * (inverse * (1.0 + e))
    z = q * q
    series = 2.0 + z * (0.66666317 + z * (0.4002491 + z * (0.27960604 + z * 0.28178325)))
    return tl.maximum(u, 0.0) + q * series, tl.where(u >= 0, 1.0, e) * (inverse * (2.0 + e))


@triton.jit
def sigmoid_weights(s, row0, col0, m, n, row_id, col_ids, period, state, MASK_ALL: tl.constexpr):
    """2^shift W_ij, and sums over each row of the terms, of W and of W s."""
    scale, amplitude, bias_i, col_bias, ONLY_SAME = state
    cols = col0 + tl.arange(0, s.shape[1])
    inside = cols < n
    if col_bias is None:
        t = s * scale + bias_i[:, None]
    else:
        t = s * scale + tl.load(col_bias + cols, mask=inside, other=0.0)[None, :]
    same = row_id[:, None] == tl.load(col_ids + cols, mask=inside, other=0)[None, :]
    # What does not count has a logit of -inf, whose terms are 0; rows of padding are never stored. A sum takes fewer
    # registers than another condition.
    padding = tl.where(inside, 0.0, float("-inf"))[None, :]
    if ONLY_SAME:
        value, slope = softplus_and_sigmoid(tl.where(same, -t, float("-inf")) + padding)
        w = -slope
    else:
        value, slope = softplus_and_sigmoid(tl.where(same, -t, t) + padding)
        w = tl.where(same, -slope, slope)
    return w * amplitude, (tl.sum(value, axis=1), tl.sum(w, axis=1), tl.sum(w * s, axis=1))


@triton.jit(do_not_specialize=["m", "n"])
def pairwise_softplus_kernel(
    x,  # [m, d]
    y,  # [n, d]
    scale,  # [] or scalar
    bias,  # [m] float32; [n], if COL_BIAS
    row_ids,  # [m] int32
    col_ids,  # [n] int32
    parts,  # out [SPLITS, m, d] float32: W y; or None
    sums,  # out [3, SPLITS, m] float64: of the terms, of W, of W s; or None
    m,
    n,
    w_shift,  # W is held times 2^w_shift: in float16 small weights would underflow
    WIDTH: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    RESIDENT: tl.constexpr,
    BLOCK_SLICE: tl.constexpr,
    MASK_ALL: tl.constexpr,
    PRECISION: tl.constexpr,
    COL_BIAS: tl.constexpr,
    ONLY_SAME: tl.constexpr,
):
    """One program a row block and part of the columns."""
    row0 = tl.program_id(0) * BLOCK_M
    rows = row0 + tl.arange(0, BLOCK_M)
    split = tl.program_id(1).to(tl.int64)
    first, last = columns_of_split(n, BLOCK_N)
    factor = scalar(scale).to(tl.float32)
    if COL_BIAS:
        state = (factor, tl.exp2(w_shift), None, bias, ONLY_SAME)
    else:
        state = (factor, tl.exp2(w_shift), tl.load(bias + rows, mask=rows < m, other=0.0), None, ONLY_SAME)
    start = None
    if sums is not None:
        start = (tl.zeros((BLOCK_M,), tl.float64), tl.zeros((BLOCK_M,), tl.float64), tl.zeros((BLOCK_M,), tl.float64))
    found = gradient(
        None if parts is None else parts + split * m * WIDTH, x, y, row_ids, col_ids, None, row0, rows < m, m, n,
        first, last, tl.exp2(-w_shift), sigmoid_weights, state, start,
        WIDTH, BLOCK_D, BLOCK_M, BLOCK_N, RESIDENT, BLOCK_SLICE, MASK_ALL, PRECISION,
    )  # fmt: skip
    if sums is not None:
        for k in tl.static_range(3):
            out = sums + (k * tl.num_programs(1) + split) * m + rows
            tl.store(out, found[k], mask=rows < m)


@triton.jit(do_not_specialize=["m", "splits"])
def pairwise_softplus_finish_kernel(
    sums,  # [3, SPLITS, m] float64
    total,  # out [] float64
    grad_scale,  # out [] float64
    grad_bias,  # out [m] float32
    m,
    splits,
    BLOCK_M: tl.constexpr,
):
    """One program: a fixed order of summation."""
    values = tl.zeros((BLOCK_M,), tl.float64)
    products = tl.zeros((BLOCK_M,), tl.float64)
    for row0 in range(0, m, BLOCK_M):
        rows = row0 + tl.arange(0, BLOCK_M)
        mask = rows < m
        weights = tl.zeros((BLOCK_M,), tl.float64)
        for split in range(0, splits):
            at = sums + tl.cast(split, tl.int64) * m + rows
            values += tl.load(at, mask=mask, other=0.0)
            weights += tl.load(at + tl.cast(splits, tl.int64) * m, mask=mask, other=0.0)
            products += tl.load(at + 2 * tl.cast(splits, tl.int64) * m, mask=mask, other=0.0)
        tl.store(grad_bias + rows, weights.to(tl.float32), mask=mask)
    tl.store(total, tl.sum(values, axis=0))
    tl.store(grad_scale, tl.sum(products, axis=0))
