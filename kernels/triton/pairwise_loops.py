"""The tile loops of all contrastive kernels: row sums of exponentials, and row-owned gradients; no m x n matrix.

Rows x [m, d] and y [n, d], s_ij = <x_i, y_j>. Pairs are excluded by equal ids, or where |i - j| is 0 or `period`
(NT-Xent: itself and its positive). Exponentials are in base 2, in one of two forms, which is chosen in the kernel, as
the scale may live on the device:

    plain (bounded scores, |scale| <= 64):  exp(scale s) = exp2(factor s), which float32 holds without an offset
    online:                                 exp(scale s - c) = exp2(rate2 (factor s - level)), factor = +-1
"""

# What the compiler of @triton.jit wants differs from plain Python: no starred tuples, no `and` with a constexpr.
# ruff: noqa: RUF005, SIM102, SIM108

import triton
import triton.language as tl

from .tiles import (
    LOG2E,
    accumulate,
    dot,
    hide,
    load_chunk,
    load_rows,
    scalar,
    scores,
    scores_streamed,
    store_chunk,
    temperature,
    zero_rows,
)

MAX_PLAIN_SCALE = tl.constexpr(64.0)  # up to here exp(scale s), |s| <= 1, needs no offset: 2^93 times m rows < 2^127
MIN_RATE = tl.constexpr(1e-36)  # levels are log-sum-exps divided by the rate, in float32


@triton.jit
def read_scale(scale, RECIPROCAL: tl.constexpr):
    """The scale in float64, or that of a temperature."""
    if RECIPROCAL:
        return 1.0 / temperature(scale)
    else:
        return scalar(scale)


@triton.jit
def exponent(scale, BOUNDED: tl.constexpr):
    """(plain, factor, rate): see above; rate > 0 in float64, so that a masked score of -inf stays -inf."""
    size = tl.abs(scale)
    if BOUNDED:
        plain = size <= MAX_PLAIN_SCALE
    else:
        plain = False
    # With a level, factor s stays a plain score: s - level is exact where it matters, scale s would be rounded.
    sign = tl.where(scale < 0, -1.0, 1.0)
    online = tl.where(size < MIN_RATE, scale, sign)
    return plain, tl.where(plain, scale * LOG2E, online).to(tl.float32), tl.where(size < MIN_RATE, 1.0, size)


@triton.jit
def exponential_sums(
    x, y, col_sum, row_ids, col_ids, period, m, n, block, ring, first, last, plain, factor, rate2,
    WIDTH: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, RESIDENT: tl.constexpr,
    PRECISION: tl.constexpr, SYMMETRIC: tl.constexpr,
):  # fmt: skip
    """(maximum, sum) of row block `block` over the column blocks `first` to `last` of a ring that starts at its own.

    In plain form, sums over the rows of each column are added to `col_sum`, unless that is None. SYMMETRIC leaves the
    diagonal block out of them, which holds both (i, j) and (j, i).
    """
    CHUNKS: tl.constexpr = (WIDTH + BLOCK_D - 1) // BLOCK_D
    RATIO: tl.constexpr = BLOCK_M // BLOCK_N  # column blocks per row block
    row0 = block * BLOCK_M
    rows = row0 + tl.arange(0, BLOCK_M)
    row_id = None
    if row_ids is not None:
        row_id = tl.load(row_ids + rows, mask=rows < m, other=0)
    if RESIDENT:
        xi = load_rows(x, row0, m, BLOCK_M, WIDTH, BLOCK_D)
    start = block * RATIO % ring
    row_max = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    row_sum = tl.zeros((BLOCK_M,), tl.float32)
    for step in range(first, last):
        col_block = start + step
        col_block = tl.where(col_block >= ring, col_block - ring, col_block)
        col0 = col_block * BLOCK_N
        if RESIDENT:
            s = scores(xi, load_rows(y, col0, n, BLOCK_N, WIDTH, BLOCK_D), CHUNKS, PRECISION)
        else:
            s = scores_streamed(x, y, row0, col0, m, n, BLOCK_M, BLOCK_N, WIDTH, BLOCK_D, PRECISION)
        t = hide(s * factor, row0, col0, m, n, row_id, col_ids, period, False)
        if plain:
            e = tl.exp2(t)
            row_sum += tl.sum(e, axis=1)
            if col_sum is not None:
                if step >= (RATIO if SYMMETRIC else 0):
                    cols = col0 + tl.arange(0, BLOCK_N)
                    tl.atomic_add(col_sum + cols, tl.sum(e, axis=0), mask=cols < n, sem="relaxed")
        else:
            new_max = tl.maximum(row_max, tl.max(t, axis=1))
            safe = finite_maximum(new_max)
            row_sum = row_sum * tl.exp2((row_max - safe) * rate2)
            row_sum += tl.sum(tl.exp2((t - safe[:, None]) * rate2), axis=1)
            row_max = new_max
    return tl.where(plain, 0.0, row_max), row_sum


@triton.jit
def finite_maximum(x):
    """0 for -inf: a row may be all masked so far."""
    return tl.where(x == float("-inf"), 0.0, x)


@triton.jit
def combined(part_max, part_sum, rows, mask, m, splits, shared, rate2):
    """(maximum, sum) of rows from those of each split; where atomics have `shared` a sum, it is in row 0, and plain."""
    top = tl.full(rows.shape, float("-inf"), tl.float32)
    total = tl.zeros(rows.shape, tl.float32)
    if shared:
        top = tl.zeros(rows.shape, tl.float32)
        total = tl.load(part_sum + rows, mask=mask, other=1.0)
    else:
        for split in range(0, splits):
            at = split * m + rows  # splits > 1 only where m is small
            part_top = tl.load(part_max + at, mask=mask, other=0.0)
            part = tl.load(part_sum + at, mask=mask, other=1.0)
            new_top = tl.maximum(top, part_top)
            safe = finite_maximum(new_top)
            total = total * tl.exp2((top - safe) * rate2) + part * tl.exp2((part_top - safe) * rate2)
            top = new_top
    return finite_maximum(top), total


@triton.jit
def plain_factor(lse, shift):
    """2^shift exp(-lse); 0 for an empty row, whose lse is -inf."""
    return tl.where(lse == float("-inf"), 0.0, tl.exp2(shift - lse.to(tl.float32) * LOG2E))


@triton.jit
def level_and_factor(lse, shift, rate):
    """(level, factor) such that 2^shift exp(rate t - lse) = exp2((t - level) rate2) factor; (inf, 0) for an empty row.

    The level is lse in units of scores, rounded: t - level is exact where it matters, rate t would be rounded. The
    factor gives back what rounding the level took.
    """
    empty = lse == float("-inf")
    lse = tl.where(empty, 0.0, lse)
    level = (lse * (1.0 / rate)).to(tl.float32)
    factor = tl.exp2(shift - (lse - level.to(tl.float64) * rate).to(tl.float32) * LOG2E)
    return tl.where(empty, float("inf"), level), tl.where(empty, 0.0, factor)


@triton.jit
def softmax_weights(s, row0, col0, m, n, row_id, col_ids, period, state, MASK_ALL: tl.constexpr):
    """2^shift W_ij,  W_ij = a_i exp(scale s_ij - row_lse_i) + b_j exp(scale s_ij - col_lse_j).

    Either term may be absent. Of the columns there are either lse, for b = 1, or levels and factors.
    """
    plain, factor, rate, rate2, shift, level_i, factor_i, col_lse, col_level, col_factor = state
    cols = col0 + tl.arange(0, s.shape[1])
    # Loaded here, and not in a branch: there, loads would come between the matrix instructions.
    if col_lse is not None:
        lse_j = tl.load(col_lse + cols, mask=cols < n, other=0.0)
    if col_factor is not None:
        level_j = tl.load(col_level + cols, mask=cols < n, other=0.0)
        factor_j = tl.load(col_factor + cols, mask=cols < n, other=0.0)
    t = hide(s * factor, row0, col0, m, n, row_id, col_ids, period, MASK_ALL)
    if plain:  # one exponential an element; neither factor leaves float32's range
        if col_lse is not None:
            w = tl.exp2(t) * (factor_i[:, None] + plain_factor(lse_j, shift)[None, :])
        elif col_factor is None:
            w = tl.exp2(t) * factor_i[:, None]
        elif factor_i is None:
            w = tl.exp2(t) * factor_j[None, :]
        else:
            w = tl.exp2(t) * (factor_i[:, None] + factor_j[None, :])
    elif factor_i is None:
        w = tl.exp2((t - level_j[None, :]) * rate2) * factor_j[None, :]
    else:
        w = tl.exp2((t - level_i[:, None]) * rate2) * factor_i[:, None]
        if col_lse is not None:
            level_of_lse, factor_of_lse = level_and_factor(lse_j, shift, rate)
            w += tl.exp2((t - level_of_lse[None, :]) * rate2) * factor_of_lse[None, :]
        if col_factor is not None:
            w += tl.exp2((t - level_j[None, :]) * rate2) * factor_j[None, :]
    return w, ()


@triton.jit
def add(sums, terms):
    return (sums[0] + terms[0], sums[1] + terms[1], sums[2] + terms[2])


@triton.jit
def gradient(
    out, x, y, row_ids, col_ids, period, row0, row_mask, m, n, first, last, unscale, weigh: tl.constexpr, state, sums,
    WIDTH: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, RESIDENT: tl.constexpr,
    BLOCK_SLICE: tl.constexpr, MASK_ALL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Store unscale sum_j W_ij y_j, first <= j < last, in the rows of out, and return row sums of what `weigh` gives.

    out or sums may be None.

    RESIDENT keeps the row block in shared memory and its whole sum in registers. Otherwise BLOCK_SLICE columns of the
    sum are made at a time, with the scores computed again for each slice.
    """
    CHUNKS: tl.constexpr = (WIDTH + BLOCK_D - 1) // BLOCK_D
    row_id = None
    if row_ids is not None:
        rows = row0 + tl.arange(0, BLOCK_M)
        row_id = tl.load(row_ids + rows, mask=rows < m, other=0)
    if RESIDENT:
        xi = load_rows(x, row0, m, BLOCK_M, WIDTH, BLOCK_D)
        acc = zero_rows(BLOCK_M, WIDTH, BLOCK_D)
        for col0 in range(first, last, BLOCK_N):
            yj = load_rows(y, col0, n, BLOCK_N, WIDTH, BLOCK_D)
            s = scores(xi, yj, CHUNKS, PRECISION)
            w, terms = weigh(s, row0, col0, m, n, row_id, col_ids, period, state, MASK_ALL)
            if sums is not None:
                sums = add(sums, terms)
            if out is not None:
                acc = accumulate(w.to(y.dtype.element_ty), yj, acc, CHUNKS, PRECISION)
        if out is not None:
            for k in tl.static_range(CHUNKS):
                store_chunk(out, acc[k] * unscale, row0, row_mask, k, WIDTH)
    else:
        SLICES: tl.constexpr = 1 if out is None else (WIDTH + BLOCK_SLICE - 1) // BLOCK_SLICE
        for part in range(0, SLICES):
            acc_part = tl.zeros((BLOCK_M, BLOCK_SLICE), tl.float32)
            for col0 in range(first, last, BLOCK_N):
                s = scores_streamed(x, y, row0, col0, m, n, BLOCK_M, BLOCK_N, WIDTH, BLOCK_D, PRECISION)
                w, terms = weigh(s, row0, col0, m, n, row_id, col_ids, period, state, MASK_ALL)
                if sums is not None:
                    if part == 0:
                        sums = add(sums, terms)
                if out is not None:
                    yj_part = load_chunk(y, col0, n, part, BLOCK_N, WIDTH, BLOCK_SLICE)
                    acc_part = dot(w.to(y.dtype.element_ty), yj_part, acc_part, PRECISION)
            if out is not None:
                store_chunk(out, acc_part * unscale, row0, row_mask, part, WIDTH)
    if sums is None:
        return ()
    else:
        return sums


@triton.jit
def scaled(acc, factor, CHUNKS: tl.constexpr):
    """Rows of every chunk times a factor."""
    out = (acc[0] * factor[:, None],)
    for k in tl.static_range(1, CHUNKS):
        out = out + (acc[k] * factor[:, None],)
    return out


@triton.jit
def fade_and_weights(t, row_max, rate2, shift):
    """(new maximum, what to multiply earlier sums by, 2^shift exp2((t - maximum) rate2))."""
    new_max = tl.maximum(row_max, tl.max(t, axis=1))
    safe = finite_maximum(new_max)
    return new_max, tl.exp2((row_max - safe) * rate2), tl.exp2((t - safe[:, None]) * rate2 + shift)


@triton.jit
def attend(
    out, x, y, row_ids, col_ids, row0, m, n, first, last, factor, rate2, shift,
    WIDTH: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, RESIDENT: tl.constexpr,
    BLOCK_SLICE: tl.constexpr, MASK_ALL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """(maximum, sum) as of `exponential_sums`, in online form, and sum_j exp(scale s_ij - maximum) y_j in out."""
    CHUNKS: tl.constexpr = (WIDTH + BLOCK_D - 1) // BLOCK_D
    rows = row0 + tl.arange(0, BLOCK_M)
    row_id = None
    if row_ids is not None:
        row_id = tl.load(row_ids + rows, mask=rows < m, other=0)
    row_max = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    row_sum = tl.zeros((BLOCK_M,), tl.float32)
    unscale = tl.exp2(-shift)
    if RESIDENT:
        xi = load_rows(x, row0, m, BLOCK_M, WIDTH, BLOCK_D)
        acc = zero_rows(BLOCK_M, WIDTH, BLOCK_D)
        for col0 in range(first, last, BLOCK_N):
            yj = load_rows(y, col0, n, BLOCK_N, WIDTH, BLOCK_D)
            s = scores(xi, yj, CHUNKS, PRECISION)
            t = hide(s * factor, row0, col0, m, n, row_id, col_ids, None, MASK_ALL)
            row_max, fade, e = fade_and_weights(t, row_max, rate2, shift)
            row_sum = row_sum * fade + tl.sum(e, axis=1)
            acc = accumulate(e.to(y.dtype.element_ty), yj, scaled(acc, fade, CHUNKS), CHUNKS, PRECISION)
        for k in tl.static_range(CHUNKS):
            store_chunk(out, acc[k] * unscale, row0, rows < m, k, WIDTH)
    else:
        for part in range(0, (WIDTH + BLOCK_SLICE - 1) // BLOCK_SLICE):
            row_max = tl.full((BLOCK_M,), float("-inf"), tl.float32)
            row_sum = tl.zeros((BLOCK_M,), tl.float32)
            acc_part = tl.zeros((BLOCK_M, BLOCK_SLICE), tl.float32)
            for col0 in range(first, last, BLOCK_N):
                s = scores_streamed(x, y, row0, col0, m, n, BLOCK_M, BLOCK_N, WIDTH, BLOCK_D, PRECISION)
                t = hide(s * factor, row0, col0, m, n, row_id, col_ids, None, MASK_ALL)
                row_max, fade, e = fade_and_weights(t, row_max, rate2, shift)
                row_sum = row_sum * fade + tl.sum(e, axis=1)
                yj_part = load_chunk(y, col0, n, part, BLOCK_N, WIDTH, BLOCK_SLICE)
                acc_part = dot(e.to(y.dtype.element_ty), yj_part, acc_part * fade[:, None], PRECISION)
            store_chunk(out, acc_part * unscale, row0, rows < m, part, WIDTH)
    return row_max, row_sum * unscale
