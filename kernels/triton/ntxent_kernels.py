"""Device code of NT-Xent; the formulas are in ntxent.py, which launches it."""

# What the compiler of @triton.jit wants differs from plain Python: no starred tuples, no `or` with a constexpr.
# ruff: noqa: B007, RUF005, SIM114

import triton
import triton.language as tl

from .tiles import (
    EPS,
    LN2,
    LOG2E,
    MAX_PLAIN_INV_TAU,
    accumulate,
    dot,
    load_chunk,
    load_rows,
    log1p,
    mask_scores,
    needs_mask,
    normalize,
    one_minus_exp_minus,
    scores,
    scores_streamed,
    store_chunk,
    temperature,
)


@triton.jit
def ntxent_normalize_kernel(
    z0,  # [N, d], any strides
    z1,  # [N, d], any strides
    zn,  # out [m, d]
    inv_norm,  # out [m] float32
    pos,  # out [m] float64: s_{i p(i)}
    sums,  # out [m] float32: zeroed for the atomics of ntxent_fwd_kernel
    n,
    stride_z0_row,
    stride_z0_col,
    stride_z1_row,
    stride_z1_col,
    WIDTH: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """One program takes BLOCK_M pairs, so that the positive's score needs no second pass."""
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = tl.arange(0, BLOCK_D)
    row_mask = rows < n
    mask = row_mask[:, None] & (cols < WIDTH)[None, :]
    r = rows.to(tl.int64)[:, None]
    c = cols.to(tl.int64)[None, :]
    x0 = tl.load(z0 + r * stride_z0_row + c * stride_z0_col, mask=mask, other=0.0).to(tl.float32)
    x1 = tl.load(z1 + r * stride_z1_row + c * stride_z1_col, mask=mask, other=0.0).to(tl.float32)
    y0, inv0 = normalize(x0)
    y1, inv1 = normalize(x1)
    y0 = y0.to(zn.dtype.element_ty)
    y1 = y1.to(zn.dtype.element_ty)
    # From the rounded rows, as the tiles see them: both terms of nll then belong to the same vectors.
    s = tl.sum(y0.to(tl.float64) * y1.to(tl.float64), axis=1)
    out = r * WIDTH + c
    shift = tl.cast(n, tl.int64) * WIDTH
    tl.store(zn + out, y0, mask=mask)
    tl.store(zn + shift + out, y1, mask=mask)
    tl.store(inv_norm + rows, inv0, mask=row_mask)
    tl.store(inv_norm + n + rows, inv1, mask=row_mask)
    tl.store(pos + rows, s, mask=row_mask)
    tl.store(pos + n + rows, s, mask=row_mask)
    tl.store(sums + rows, tl.zeros_like(inv0), mask=row_mask)
    tl.store(sums + n + rows, tl.zeros_like(inv1), mask=row_mask)


@triton.jit
def ntxent_fwd_kernel(
    zn,  # [m, d]
    tau,  # [] or scalar
    part_max,  # out [SPLITS, m] float32, of scores; written by the full grid only
    part_sum,  # out [SPLITS, m] float32; the half grid adds into row 0, which holds zeros
    n,
    splits,
    WIDTH: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    RESIDENT: tl.constexpr,  # the row block stays in shared memory, or is read again for every column block
    PRECISION: tl.constexpr,
    DETERMINISTIC: tl.constexpr,
):
    """Sums of exp2(s_ij log2(e) / tau) over j not in {i, p(i)}; program (I, split): row block I, part of the columns.

    Half grid (1 / tau <= 64): s is symmetric, so row block I takes only the column blocks I .. I + nb / 2 (mod nb),
    whose tiles give row sums to I and column sums to the other block: every pair of blocks once, equal work for all.
    Full grid (larger 1 / tau, or deterministic): every column block, row sums only, running maximum, no atomics.
    """
    CHUNKS: tl.constexpr = (WIDTH + BLOCK_D - 1) // BLOCK_D
    RATIO: tl.constexpr = BLOCK_M // BLOCK_N  # column blocks per row block
    m = 2 * n
    block = tl.program_id(0)
    split = tl.program_id(1)
    blocks = tl.num_programs(0)
    inv_tau = 1.0 / temperature(tau)
    scale = (inv_tau * LOG2E).to(tl.float32)
    half = False if DETERMINISTIC else inv_tau <= MAX_PLAIN_INV_TAU
    # With a maximum, x stays a plain score: s - max is exact where it matters, s / tau would be rounded.
    plain_scale = tl.where(half, scale, 1.0)

    steps = blocks
    if half:
        # An even ring meets the opposite block from both sides: only the first half of the blocks takes that one.
        steps = blocks // 2 + ((blocks % 2 == 1) | (block < blocks // 2)).to(tl.int32)
    steps = steps * RATIO
    per_split = (steps + splits - 1) // splits
    first = split * per_split
    last = tl.minimum(first + per_split, steps)

    row0 = block * BLOCK_M
    rows = row0 + tl.arange(0, BLOCK_M)
    if RESIDENT:
        zi = load_rows(zn, row0, m, BLOCK_M, WIDTH, BLOCK_D)
    row_max = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    row_sum = tl.zeros((BLOCK_M,), tl.float32)
    for step in range(first, last):
        col_block = block * RATIO + step
        col_block = tl.where(col_block >= blocks * RATIO, col_block - blocks * RATIO, col_block)
        col0 = col_block * BLOCK_N
        cols = col0 + tl.arange(0, BLOCK_N)
        if RESIDENT:
            s = scores(zi, load_rows(zn, col0, m, BLOCK_N, WIDTH, BLOCK_D), CHUNKS, PRECISION)
        else:
            s = scores_streamed(zn, row0, col0, m, BLOCK_M, BLOCK_N, WIDTH, BLOCK_D, PRECISION)
        x = s * plain_scale
        if needs_mask(row0, col0, n, m, BLOCK_M, BLOCK_N):
            x = mask_scores(x, rows, cols, n, m)
        if half:
            e = tl.exp2(x)
            row_sum += tl.sum(e, axis=1)
            if step >= RATIO:  # the diagonal block holds both (i, j) and (j, i)
                tl.atomic_add(part_sum + cols, tl.sum(e, axis=0), mask=cols < m, sem="relaxed")
        else:
            new_max = tl.maximum(row_max, tl.max(x, axis=1))
            safe = tl.where(new_max == float("-inf"), 0.0, new_max)  # a row may be all masked so far
            row_sum = row_sum * tl.exp2((row_max - safe) * scale) + tl.sum(tl.exp2((x - safe[:, None]) * scale), axis=1)
            row_max = new_max

    if half:
        tl.atomic_add(part_sum + rows, row_sum, mask=rows < m, sem="relaxed")
    else:
        out = split * m + rows
        tl.store(part_max + out, row_max, mask=rows < m)
        tl.store(part_sum + out, row_sum, mask=rows < m)


@triton.jit
def ntxent_finish_kernel(
    tau,  # [] or scalar
    pos,  # [m] float64
    part_max,  # [SPLITS, m] float32
    part_sum,  # [SPLITS, m] float32
    nll,  # out [m] float32
    lse,  # out [m] float64
    loss,  # out [] float32
    n,
    splits,
    BLOCK_M: tl.constexpr,
    DETERMINISTIC: tl.constexpr,
):
    """Per-row losses and their mean, in one program: a fixed order of summation and no counter to reset."""
    m = 2 * n
    inv_tau = 1.0 / temperature(tau)
    scale = (inv_tau * LOG2E).to(tl.float32)
    half = False if DETERMINISTIC else inv_tau <= MAX_PLAIN_INV_TAU
    total = tl.zeros((BLOCK_M,), tl.float32)
    for row0 in range(0, m, BLOCK_M):
        rows = row0 + tl.arange(0, BLOCK_M)
        mask = rows < m
        top = tl.zeros((BLOCK_M,), tl.float32)
        if half:
            r = tl.load(part_sum + rows, mask=mask, other=1.0)
        else:
            top = tl.full((BLOCK_M,), float("-inf"), tl.float32)
            r = tl.zeros((BLOCK_M,), tl.float32)
            for split in range(0, splits):
                at = split * m + rows  # splits > 1 only where m is small
                part_top = tl.load(part_max + at, mask=mask, other=0.0)
                part = tl.load(part_sum + at, mask=mask, other=1.0)
                new_top = tl.maximum(top, part_top)
                safe = tl.where(new_top == float("-inf"), 0.0, new_top)
                r = r * tl.exp2((top - safe) * scale) + part * tl.exp2((part_top - safe) * scale)
                top = new_top
            top = tl.where(top == float("-inf"), 0.0, top)
        own = tl.load(pos + rows, mask=mask, other=0.0)
        # In float64, as lse is 1 / tau in size: its float32 rounding would shift every probability of the row.
        u = (top.to(tl.float64) - own) * inv_tau + (tl.log2(r) * LN2).to(tl.float64)  # -inf when N = 1: loss 0
        exact_nll = tl.maximum(u, 0.0) + log1p(tl.exp(-tl.abs(u).to(tl.float32))).to(tl.float64)
        row_nll = exact_nll.to(tl.float32)
        tl.store(nll + rows, row_nll, mask=mask)
        tl.store(lse + rows, own * inv_tau + exact_nll, mask=mask)
        total += tl.where(mask, row_nll, 0.0)
    tl.store(loss, tl.sum(total, axis=0) / m)


@triton.jit
def _plain_factor(lse, w_shift):
    """2^w_shift exp(-lse)."""
    return tl.exp2(w_shift - lse.to(tl.float32) * LOG2E)


@triton.jit
def _level_and_factor(lse, tau, w_shift):
    """(level, factor) such that 2^w_shift exp(s / tau - lse) = exp2((s - level) log2(e) / tau) factor.

    The level is lse in units of scores, rounded: s - level is exact where it matters, s / tau would be rounded. The
    factor gives back what rounding the level took.
    """
    level = (lse * tau).to(tl.float32)
    return level, tl.exp2(w_shift - (lse * tau - level).to(tl.float32) / tau.to(tl.float32) * LOG2E)


@triton.jit
def _weights(
    s, lse, level_i, factor_i, row0, col0, n, m, tau, scale, plain, w_shift,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, MASK_ALL: tl.constexpr,
):  # fmt: skip
    """2^w_shift W_ij for a tile of scores.  # [BLOCK_M, BLOCK_N]"""
    rows = row0 + tl.arange(0, BLOCK_M)
    cols = col0 + tl.arange(0, BLOCK_N)
    lse_j = tl.load(lse + cols, mask=cols < m, other=0.0)
    x = s * tl.where(plain, scale, 1.0)
    if MASK_ALL:
        x = mask_scores(x, rows, cols, n, m)
    elif needs_mask(row0, col0, n, m, BLOCK_M, BLOCK_N):
        x = mask_scores(x, rows, cols, n, m)
    if plain:  # one exponential an element; neither factor leaves float32's range
        w = tl.exp2(x) * (factor_i[:, None] + _plain_factor(lse_j, w_shift)[None, :])
    else:
        level_j, factor_j = _level_and_factor(lse_j, tau, w_shift)
        w = tl.exp2((x - level_i[:, None]) * scale) * factor_i[:, None]
        w += tl.exp2((x - level_j[None, :]) * scale) * factor_j[None, :]
    return w


@triton.jit
def _finish_gradient(
    grad_zn, own, own_row, own_col, other, other_row, other_col, grad_own, inv_norm, nll, row_dot,
    coef, rows, view_rows, to_pair, n, WIDTH: tl.constexpr, BLOCK_WIDTH: tl.constexpr,
):  # fmt: skip
    """Add the positive and apply the normalisation's Jacobian to whole rows, in float32 from the inputs themselves."""
    valid = view_rows < n
    q = one_minus_exp_minus(tl.load(nll + rows, mask=valid, other=0.0))
    q += one_minus_exp_minus(tl.load(nll + rows + to_pair, mask=valid, other=0.0))
    norm_own = tl.load(inv_norm + rows, mask=valid, other=0.0)
    norm_other = tl.load(inv_norm + rows + to_pair, mask=valid, other=0.0)

    c = tl.arange(0, BLOCK_WIDTH)[None, :]
    r = view_rows.to(tl.int64)[:, None]
    mask = valid[:, None] & (c < WIDTH)
    g = tl.load(grad_zn + rows.to(tl.int64)[:, None] * WIDTH + c, mask=mask, other=0.0)
    z_other = tl.load(other + r * other_row + c.to(tl.int64) * other_col, mask=mask, other=0.0).to(tl.float32)
    g -= (z_other * norm_other[:, None]) * (coef * q)[:, None]
    z_own = tl.load(own + r * own_row + c.to(tl.int64) * own_col, mask=mask, other=0.0).to(tl.float32)
    unit = z_own * norm_own[:, None]
    t = tl.sum(g * unit, axis=1)
    tl.store(row_dot + rows, t, mask=valid)
    # Where the norm was clamped the factor is a constant, and the projection drops out.
    radial = tl.where(norm_own < 1.0 / EPS, t, 0.0)
    dz = (g - unit * radial[:, None]) * norm_own[:, None]
    tl.store(grad_own + r * WIDTH + c, dz.to(grad_own.dtype.element_ty), mask=mask)


@triton.jit
def ntxent_bwd_kernel(
    grad,  # [] float32
    z0,  # [N, d], any strides
    z1,  # [N, d], any strides
    tau,  # [] or scalar
    zn,  # [m, d]
    inv_norm,  # [m] float32
    lse,  # [m] float64
    nll,  # [m] float32
    grad_z0,  # out [N, d]
    grad_z1,  # out [N, d]
    grad_zn,  # workspace [m, d] float32
    row_dot,  # out [m] float32: <dL/dzn_i, zn_i>
    n,
    stride_z0_row,
    stride_z0_col,
    stride_z1_row,
    stride_z1_col,
    w_shift,  # W is held times 2^w_shift: in float16 it would underflow, being about 1 / m
    WIDTH: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,  # power of two, at least WIDTH
    EPILOGUE_M: tl.constexpr,
    RESIDENT: tl.constexpr,  # the row block stays in shared memory and its whole sum in registers
    BLOCK_SLICE: tl.constexpr,  # otherwise: columns of the sum at a time, with the scores computed again for each slice
    MASK_ALL: tl.constexpr,  # mask every tile: a few more instructions, but no branch beside the products
    PRECISION: tl.constexpr,
):
    """Gradient of a block of rows: one recompute of the scores serves both roles of a row, as anchor and as negative.

    W_ij = exp(s_ij / tau - lse_i) + exp(s_ij / tau - lse_j) for j not in {i, p(i)}
    dL/dzn_i = grad / (m tau) (sum_j W_ij zn_j - (q_i + q_p(i)) zn_p(i)),  q = 1 - exp(-nll)
    """
    CHUNKS: tl.constexpr = (WIDTH + BLOCK_D - 1) // BLOCK_D
    m = 2 * n
    tau = temperature(tau)
    scale = (1.0 / tau * LOG2E).to(tl.float32)
    plain = 1.0 / tau <= MAX_PLAIN_INV_TAU

    # A block of rows lies in one view, so that one set of pointers and strides serves it.
    view_blocks = tl.num_programs(0) // 2
    second = tl.program_id(0) >= view_blocks
    view_row0 = (tl.program_id(0) - second.to(tl.int32) * view_blocks) * BLOCK_M
    view_rows = view_row0 + tl.arange(0, BLOCK_M)
    row_mask = view_rows < n
    row0 = view_row0 + second.to(tl.int32) * n
    rows = row0 + tl.arange(0, BLOCK_M)
    lse_i = tl.load(lse + rows, mask=rows < m, other=0.0)
    level_i, factor_i = _level_and_factor(lse_i, tau, w_shift)
    if plain:
        factor_i = _plain_factor(lse_i, w_shift)
    coef = tl.load(grad) / (tau * m).to(tl.float32)
    w_unscale = coef * tl.exp2(-w_shift)
    if RESIDENT:
        zi = load_rows(zn, row0, m, BLOCK_M, WIDTH, BLOCK_D)
        acc = (tl.zeros((BLOCK_M, BLOCK_D), tl.float32),)
        for k in tl.static_range(1, CHUNKS):
            acc = acc + (tl.zeros((BLOCK_M, BLOCK_D), tl.float32),)
        for col0 in range(0, m, BLOCK_N):
            zj = load_rows(zn, col0, m, BLOCK_N, WIDTH, BLOCK_D)
            s = scores(zi, zj, CHUNKS, PRECISION)
            w = _weights(
                s, lse, level_i, factor_i, row0, col0, n, m, tau, scale, plain, w_shift, BLOCK_M, BLOCK_N, MASK_ALL
            )
            acc = accumulate(w.to(zn.dtype.element_ty), zj, acc, CHUNKS, PRECISION)
        for k in tl.static_range(CHUNKS):
            store_chunk(grad_zn, acc[k] * w_unscale, row0, row_mask, k, WIDTH)
    else:
        for part in range(0, (WIDTH + BLOCK_SLICE - 1) // BLOCK_SLICE):
            acc_part = tl.zeros((BLOCK_M, BLOCK_SLICE), tl.float32)
            for col0 in range(0, m, BLOCK_N):
                s = scores_streamed(zn, row0, col0, m, BLOCK_M, BLOCK_N, WIDTH, BLOCK_D, PRECISION)
                w = _weights(
                    s, lse, level_i, factor_i, row0, col0, n, m, tau, scale, plain, w_shift, BLOCK_M, BLOCK_N, MASK_ALL
                )
                zj_part = load_chunk(zn, col0, m, part, BLOCK_N, WIDTH, BLOCK_SLICE)
                acc_part = dot(w.to(zn.dtype.element_ty), zj_part, acc_part, PRECISION)
            store_chunk(grad_zn, acc_part * w_unscale, row0, row_mask, part, WIDTH)

    # Whole rows at a time from here on: registers cannot hold the sums beside the inputs, so they went through memory.
    # The barrier makes this program's stores visible to all of its threads; no other program touches these rows.
    tl.debug_barrier()
    own = tl.where(second, z1, z0)
    own_row = tl.where(second, stride_z1_row, stride_z0_row)
    own_col = tl.where(second, stride_z1_col, stride_z0_col)
    other = tl.where(second, z0, z1)
    other_row = tl.where(second, stride_z0_row, stride_z1_row)
    other_col = tl.where(second, stride_z0_col, stride_z1_col)
    grad_own = tl.where(second, grad_z1, grad_z0)
    to_pair = tl.where(second, -n, n)
    for sub_row0 in range(0, BLOCK_M, EPILOGUE_M):
        view_sub = view_row0 + sub_row0 + tl.arange(0, EPILOGUE_M)
        sub = row0 + sub_row0 + tl.arange(0, EPILOGUE_M)
        _finish_gradient(
            grad_zn, own, own_row, own_col, other, other_row, other_col, grad_own, inv_norm, nll, row_dot,
            coef, sub, view_sub, to_pair, n, WIDTH, BLOCK_WIDTH,
        )  # fmt: skip


@triton.jit
def ntxent_bwd_tau_kernel(
    tau,  # [] or scalar
    row_dot,  # [m] float32
    grad_tau,  # out []
    n,
    BLOCK_M: tl.constexpr,
):
    """dL/dtau = -sum_i <dL/dzn_i, zn_i> / (2 tau): every score is in two rows' sums."""
    m = 2 * n
    total = tl.zeros((BLOCK_M,), tl.float32)
    for row0 in range(0, m, BLOCK_M):
        rows = row0 + tl.arange(0, BLOCK_M)
        total += tl.load(row_dot + rows, mask=rows < m, other=0.0)
    value = tl.sum(total, axis=0) * (-0.5 / temperature(tau)).to(tl.float32)
    tl.store(grad_tau, value.to(grad_tau.dtype.element_ty))
