"""Device code of pairwise_logsumexp, and of NT-Xent's forward pass; the tile loops are in pairwise_loops.py."""

import triton
import triton.language as tl

from .pairwise_loops import (
    attend,
    combined,
    exponent,
    exponential_sums,
    gradient,
    level_and_factor,
    plain_factor,
    read_scale,
    softmax_weights,
)
from .tiles import LN2, LOG2E, scalar


@triton.jit(do_not_specialize=["period", "m", "n", "splits"])
def pairwise_sums_kernel(
    x,  # [m, d]
    y,  # [n, d]
    scale,  # [] or scalar; the temperature, if RECIPROCAL
    row_ids,  # [m] int32, or None
    col_ids,  # [n] int32, or None
    period,  # int, or None
    part_max,  # out [SPLITS, m] float32, of scores; not written by the half grid
    part_sum,  # out [SPLITS, m] float32; the half grid adds into row 0, which holds zeros
    col_sum,  # out [n] float32: plain sums over the rows are added to zeros; or None
    m,
    n,
    splits,
    WIDTH: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    RESIDENT: tl.constexpr,  # the row block stays in shared memory, or is read again for every column block
    PRECISION: tl.constexpr,
    RECIPROCAL: tl.constexpr,
    BOUNDED: tl.constexpr,  # |s| <= 1
    HALF: tl.constexpr,  # y is x, and atomics are welcome
    IF_PLAIN: tl.constexpr,  # False: nothing to do in plain form, for whose column sums the rows have seen to
):
    """Row sums of exp(scale s_ij) of the pairs that count; program (I, split): row block I, part of the columns.

    Half grid (plain form): s is symmetric, so row block I takes only the column blocks I .. I + nb / 2 (mod nb),
    whose tiles give row sums to I and column sums to the other block: every pair of blocks once, equal work for all.
    Full grid: every column block; no atomics but those of `col_sum`.
    """
    RATIO: tl.constexpr = BLOCK_M // BLOCK_N
    block = tl.program_id(0)
    split = tl.program_id(1)
    blocks = tl.num_programs(0)
    plain, factor, rate = exponent(read_scale(scale, RECIPROCAL), BOUNDED)
    half = plain if HALF else False
    ring = tl.cdiv(n, BLOCK_N)
    steps = ring
    if half:
        # An even ring meets the opposite block from both sides: only the first half of the blocks takes that one.
        steps = (blocks // 2 + ((blocks % 2 == 1) | (block < blocks // 2)).to(tl.int32)) * RATIO
        ring = blocks * RATIO
    if not IF_PLAIN:
        steps = tl.where(plain, 0, steps)
    per_split = (steps + splits - 1) // splits
    first = split * per_split
    row_max, row_sum = exponential_sums(
        x, y, part_sum if HALF else col_sum, row_ids, col_ids, period, m, n, block, ring,
        first, tl.minimum(first + per_split, steps), plain, factor, (rate * LOG2E).to(tl.float32),
        WIDTH, BLOCK_D, BLOCK_M, BLOCK_N, RESIDENT, PRECISION, HALF,
    )  # fmt: skip
    rows = block * BLOCK_M + tl.arange(0, BLOCK_M)
    if half:
        tl.atomic_add(part_sum + rows, row_sum, mask=rows < m, sem="relaxed")
    else:
        out = split * m + rows
        tl.store(part_max + out, row_max, mask=rows < m)
        tl.store(part_sum + out, row_sum, mask=rows < m)


@triton.jit
def log_sum(top, total, rate):
    """In float64: rounded to float32 it would shift every probability of the row."""
    return top.to(tl.float64) * rate + (tl.log2(total) * LN2).to(tl.float64)


@triton.jit
def columns_of_split(n, BLOCK_N: tl.constexpr):
    """(first, last) of program_id(1)."""
    span = tl.cdiv(tl.cdiv(n, BLOCK_N), tl.num_programs(1)) * BLOCK_N
    first = tl.program_id(1) * span
    return first, tl.minimum(first + span, n)


@triton.jit(do_not_specialize=["m", "splits"])
def pairwise_lse_kernel(
    scale,  # [] or scalar
    part_max,  # [SPLITS, m] float32
    part_sum,  # [SPLITS, m] float32
    plain_sum,  # [m] float32: where the sums are in plain form, if not None
    lse,  # out [m] float64
    m,
    splits,
    BLOCK_M: tl.constexpr,
    BOUNDED: tl.constexpr,
):
    """Log-sum-exps of rows, or of columns, from their parts."""
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    plain, _, rate = exponent(scalar(scale), BOUNDED)
    shared = False if plain_sum is None else plain
    sums = part_sum if plain_sum is None else tl.where(shared, plain_sum, part_sum)
    top, total = combined(part_max, sums, rows, rows < m, m, splits, shared, (rate * LOG2E).to(tl.float32))
    tl.store(lse + rows, log_sum(top, total, rate), mask=rows < m)


@triton.jit
def largest(x, count, BLOCK_M: tl.constexpr):
    """Elementwise maximum of |x| over blocks, inf for NaN.  # [BLOCK_M]"""
    top = tl.zeros((BLOCK_M,), tl.float32)
    for start in range(0, count, BLOCK_M):
        at = start + tl.arange(0, BLOCK_M)
        value = tl.abs(tl.load(x + at, mask=at < count, other=0.0))
        top = tl.maximum(top, tl.where(value < float("inf"), value, float("inf")))
    return top


@triton.jit
def store_factors(lse, grad, factors, count, unit, plain, rate, shift, BLOCK_M: tl.constexpr):
    """Level and factor of each row, times its share of the gradient."""
    for start in range(0, count, BLOCK_M):
        at = start + tl.arange(0, BLOCK_M)
        mask = at < count
        value = tl.load(lse + at, mask=mask, other=0.0)
        share = tl.div_rn(tl.load(grad + at, mask=mask, other=0.0), unit)
        level, factor = level_and_factor(value, shift, rate)
        factor = tl.where(plain, plain_factor(value, shift), factor)
        tl.store(factors + at, level, mask=mask)
        tl.store(factors + count + at, factor * share, mask=mask)


@triton.jit(do_not_specialize=["m", "n"])
def pairwise_factors_kernel(
    scale,  # [] or scalar
    row_lse,  # [m] float64
    row_grad,  # [m] float32, or None
    col_lse,  # [n] float64
    col_grad,  # [n] float32, or None
    unit,  # out [] float32: the largest |grad|; 1 where that is not finite
    row_factors,  # out [2, m] float32: level and factor
    col_factors,  # out [2, n] float32
    m,
    n,
    w_shift,  # W is held times 2^w_shift: in float16 it would underflow, being about 1 / n
    BLOCK_M: tl.constexpr,
    BOUNDED: tl.constexpr,
):
    """What `softmax_weights` wants. One program.

    Weights are in units of the largest gradient, so that whatever that is, they stay in the range of their type.
    """
    plain, _, rate = exponent(scalar(scale), BOUNDED)
    top = tl.zeros((BLOCK_M,), tl.float32)
    if row_grad is not None:
        top = largest(row_grad, m, BLOCK_M)
    if col_grad is not None:
        top = tl.maximum(top, largest(col_grad, n, BLOCK_M))
    found = tl.max(top, axis=0)
    found = tl.where(found < float("inf"), tl.maximum(found, 1e-30), 1.0)
    tl.store(unit, found)
    if row_grad is not None:
        store_factors(row_lse, row_grad, row_factors, m, found, plain, rate, w_shift, BLOCK_M)
    if col_grad is not None:
        store_factors(col_lse, col_grad, col_factors, n, found, plain, rate, w_shift, BLOCK_M)


@triton.jit(do_not_specialize=["m", "n"])
def pairwise_gradient_kernel(
    x,  # [m, d]
    y,  # [n, d]
    scale,  # [] or scalar
    row_ids,  # [m] int32, or None
    col_ids,  # [n] int32, or None
    row_factors,  # [2, m] float32, or None: no term of the rows
    col_factors,  # [2, n] float32, or None: no term of the columns
    parts,  # out [SPLITS, m, d] float32
    m,
    n,
    w_shift,
    WIDTH: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    RESIDENT: tl.constexpr,
    BLOCK_SLICE: tl.constexpr,
    MASK_ALL: tl.constexpr,
    PRECISION: tl.constexpr,
    BOUNDED: tl.constexpr,
):
    """sum_j W_ij y_j of a row block over a part of the columns; program (I, split)."""
    row0 = tl.program_id(0) * BLOCK_M
    rows = row0 + tl.arange(0, BLOCK_M)
    plain, factor, rate = exponent(scalar(scale), BOUNDED)
    rate2 = (rate * LOG2E).to(tl.float32)
    first, last = columns_of_split(n, BLOCK_N)
    out = parts + tl.program_id(1).to(tl.int64) * m * WIDTH
    if row_factors is None:
        state = (plain, factor, rate, rate2, w_shift, None, None, None, col_factors, col_factors + n)
    else:
        level_i = tl.load(row_factors + rows, mask=rows < m, other=0.0)
        factor_i = tl.load(row_factors + m + rows, mask=rows < m, other=0.0)
        if col_factors is None:
            state = (plain, factor, rate, rate2, w_shift, level_i, factor_i, None, None, None)
        else:
            state = (plain, factor, rate, rate2, w_shift, level_i, factor_i, None, col_factors, col_factors + n)
    gradient(
        out, x, y, row_ids, col_ids, None, row0, rows < m, m, n, first, last, tl.exp2(-w_shift),
        softmax_weights, state, None, WIDTH, BLOCK_D, BLOCK_M, BLOCK_N, RESIDENT, BLOCK_SLICE, MASK_ALL, PRECISION,
    )  # fmt: skip


@triton.jit(do_not_specialize=["m", "n"])
def pairwise_attend_kernel(
    x,  # [m, d]
    y,  # [n, d]
    scale,  # [] or scalar
    row_ids,  # [m] int32, or None
    col_ids,  # [n] int32, or None
    part_max,  # out [SPLITS, m] float32
    part_sum,  # out [SPLITS, m] float32
    parts,  # out [SPLITS, m, d] float32
    m,
    n,
    w_shift,
    WIDTH: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    RESIDENT: tl.constexpr,
    BLOCK_SLICE: tl.constexpr,
    MASK_ALL: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Row sums of exp(scale s_ij), and of exp(scale s_ij) y_j, relative to the maximum; program (I, split)."""
    row0 = tl.program_id(0) * BLOCK_M
    rows = row0 + tl.arange(0, BLOCK_M)
    _, factor, rate = exponent(scalar(scale), False)
    first, last = columns_of_split(n, BLOCK_N)
    row_max, row_sum = attend(
        parts + tl.program_id(1).to(tl.int64) * m * WIDTH, x, y, row_ids, col_ids, row0, m, n, first, last, factor,
        (rate * LOG2E).to(tl.float32), w_shift,
        WIDTH, BLOCK_D, BLOCK_M, BLOCK_N, RESIDENT, BLOCK_SLICE, MASK_ALL, PRECISION,
    )  # fmt: skip
    out = tl.program_id(1) * m + rows
    tl.store(part_max + out, row_max, mask=rows < m)
    tl.store(part_sum + out, row_sum, mask=rows < m)


@triton.jit(do_not_specialize=["m", "splits"])
def pairwise_mean_kernel(
    scale,  # [] or scalar
    part_max,  # [SPLITS, m] float32
    part_sum,  # [SPLITS, m] float32
    parts,  # [SPLITS, m, d] float32
    lse,  # out [m] float64
    mean,  # out [m, d] float32; may be `parts`, if that is one
    m,
    splits,
    WIDTH: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """Log-sum-exps and means from the parts of `pairwise_attend_kernel`, whole rows in one order."""
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = tl.arange(0, BLOCK_D)
    mask = (rows < m)[:, None] & (cols < WIDTH)[None, :]
    at = rows.to(tl.int64)[:, None] * WIDTH + cols[None, :]
    _, _, rate = exponent(scalar(scale), False)
    rate2 = (rate * LOG2E).to(tl.float32)
    top, total = combined(part_max, part_sum, rows, rows < m, m, splits, False, rate2)
    tl.store(lse + rows, log_sum(top, total, rate), mask=rows < m)
    share = tl.where(total == 0.0, 0.0, 1.0 / total)
    found = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    for split in range(0, splits):
        part_top = tl.load(part_max + split * m + rows, mask=rows < m, other=0.0)
        part = tl.load(parts + tl.cast(split, tl.int64) * m * WIDTH + at, mask=mask, other=0.0)
        found += part * (tl.exp2((part_top - top) * rate2) * share)[:, None]
    tl.store(mean + at, found, mask=mask)


@triton.jit(do_not_specialize=["m", "splits"])
def pairwise_collect_kernel(
    parts,  # [SPLITS, m, d] float32
    x,  # [m, d], or None
    scale,  # [] or scalar
    unit,  # [] float32, or None: 1
    out,  # out [m, d] float32: scale unit sum of the parts; may be `parts`, if that is one
    row_dot,  # out [m] float64: unit <sum of the parts, x_i>, if x is not None
    m,
    splits,
    WIDTH: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """Whole rows of a gradient from its parts, in one order."""
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = tl.arange(0, BLOCK_D)
    mask = (rows < m)[:, None] & (cols < WIDTH)[None, :]
    at = rows.to(tl.int64)[:, None] * WIDTH + cols[None, :]
    total = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    for split in range(0, splits):
        total += tl.load(parts + tl.cast(split, tl.int64) * m * WIDTH + at, mask=mask, other=0.0)
    if unit is not None:
        total *= tl.load(unit)
    if x is not None:
        xi = tl.load(x + at, mask=mask, other=0.0).to(tl.float32)
        tl.store(row_dot + rows, tl.sum(total * xi, axis=1).to(tl.float64), mask=rows < m)
    tl.store(out + at, total * scalar(scale).to(tl.float32), mask=mask)


@triton.jit(do_not_specialize=["count"])
def pairwise_total_kernel(
    values,  # [count] float64
    total,  # out [] float64
    count,
    factor,
    BLOCK_M: tl.constexpr,
):
    """The sum times factor; one program: a fixed order."""
    acc = tl.zeros((BLOCK_M,), tl.float64)
    for start in range(0, count, BLOCK_M):
        at = start + tl.arange(0, BLOCK_M)
        acc += tl.load(values + at, mask=at < count, other=0.0)
    tl.store(total, tl.sum(acc, axis=0) * factor)
