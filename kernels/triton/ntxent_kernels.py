"""Device code of NT-Xent; the formulas are in ntxent.py, which launches it."""

import triton
import triton.language as tl

from .pairwise_loops import combined, exponent, gradient, level_and_factor, plain_factor, softmax_weights
from .tiles import EPS, LN2, LOG2E, log1p, normalize, one_minus_exp_minus, temperature


@triton.jit
def ntxent_normalize_kernel(
    z0,  # [N, d], any strides
    z1,  # [N, d], any strides
    zn,  # out [m, d]
    inv_norm,  # out [m] float32
    pos,  # out [m] float64: s_{i p(i)}
    sums,  # out [m] float32: zeroed for the atomics of pairwise_sums_kernel
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
    plain, _, rate = exponent(inv_tau, True)
    shared = False if DETERMINISTIC else plain
    rate2 = (rate * LOG2E).to(tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    for row0 in range(0, m, BLOCK_M):
        rows = row0 + tl.arange(0, BLOCK_M)
        mask = rows < m
        top, r = combined(part_max, part_sum, rows, mask, m, splits, shared, rate2)
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
    m = 2 * n
    tau = temperature(tau)
    plain, factor, rate = exponent(1.0 / tau, True)

    # A block of rows lies in one view, so that one set of pointers and strides serves it.
    view_blocks = tl.num_programs(0) // 2
    second = tl.program_id(0) >= view_blocks
    view_row0 = (tl.program_id(0) - second.to(tl.int32) * view_blocks) * BLOCK_M
    view_rows = view_row0 + tl.arange(0, BLOCK_M)
    row_mask = view_rows < n
    row0 = view_row0 + second.to(tl.int32) * n
    rows = row0 + tl.arange(0, BLOCK_M)
    lse_i = tl.load(lse + rows, mask=rows < m, other=0.0)
    level_i, factor_i = level_and_factor(lse_i, w_shift, rate)
    if plain:
        factor_i = plain_factor(lse_i, w_shift)
    coef = tl.load(grad) / (tau * m).to(tl.float32)
    state = (plain, factor, rate, (rate * LOG2E).to(tl.float32), w_shift, level_i, factor_i, lse, None, None)
    gradient(
        grad_zn, zn, zn, None, None, n, row0, row_mask, m, m, 0, m, coef * tl.exp2(-w_shift),
        softmax_weights, state, None, WIDTH, BLOCK_D, BLOCK_M, BLOCK_N, RESIDENT, BLOCK_SLICE, MASK_ALL, PRECISION,
    )  # fmt: skip

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
