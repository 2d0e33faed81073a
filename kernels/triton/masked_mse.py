"""Loss of masked patches in Triton, three launches: patches and predictions read once, the gradient written along.

1. `masked_mse_weights_kernel`: the sum of the weights, in up to 128 parts, which every later program adds up.
2. `masked_mse_kernel`, one program a few tokens: the patch from the image, its mean and variance in registers, the
   loss, and the gradient, which needs the sum of the weights alone. Patches of more than 4096 numbers go in pieces,
   and are read once more for each of mean, variance and loss.
3. `masked_mse_finish_kernel`: the sum of the programs' losses, in one order.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

from . import launch
from .patches import affine, load_patches
from .tokens import tile_at

EPS = tl.constexpr(1e-6)  # added to the variance of a patch
MSE, L1 = tl.constexpr(0), tl.constexpr(1)
GROUPS = 128  # parts of the sum of the weights
BLOCK, WEIGHT_WARPS = 1024, 8  # weights a step
REDUCTION = 4096  # losses of programs a step
BLOCK_SCALE = 8192


def masked_mse_fwd(
    pred: torch.Tensor, images: torch.Tensor, ids: torch.Tensor | None, weights: torch.Tensor | None, patch: list[int],
    loss: int, beta: float, norm_pix: bool, channels_last: bool, scale: list[float], shift: list[float],
    with_grad: bool,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Return the loss [] and its gradient by pred, in float32 for float16, or [0].

    Row j of pred [N, R, E] is of patch ids[:, j] with weight 1, -1 being none, or of patch j with weight weights[:, j].
    """
    n, rows, elements = pred.shape
    device = pred.device
    grid = [size // side for size, side in zip(images.shape[2:], patch, strict=True)]
    chosen = ids if weights is None else weights
    assert chosen is not None
    # A gradient over as many numbers is too small for float16.
    kept = torch.float32 if pred.dtype == torch.float16 else pred.dtype
    grad = torch.empty(pred.shape if with_grad else 0, dtype=kept, device=device)
    span = triton.cdiv(triton.cdiv(n * rows, GROUPS), BLOCK) * BLOCK
    groups = triton.cdiv(n * rows, span) if rows else 0
    block = launch.loss_tile(elements)
    programs = n * triton.cdiv(rows, block["BLOCK_ROWS"])
    totals, partials, out = (torch.empty(s, dtype=torch.float32, device=device) for s in (GROUPS, programs, ()))
    with torch.cuda.device_of(pred):
        masked_mse_weights_kernel[(groups,)](
            ids, weights, totals, n * rows, rows, math.prod(grid), span, *chosen.stride(), BLOCK=BLOCK,
            num_warps=WEIGHT_WARPS,
        )  # fmt: skip
        masked_mse_kernel[(programs,)](
            pred, images, ids, weights, totals, partials, grad, rows, math.prod(grid), groups, *grid[:0:-1],
            *pred.stride(), *images.stride(), *chosen.stride(), beta, *affine(scale, shift, device), LOSS=loss,
            NORM_PIX=norm_pix, WITH_GRAD=with_grad, PATCH=(images.shape[1], *patch), CHANNELS_LAST=channels_last,
            GROUPS=GROUPS, **block,
        )  # fmt: skip
        masked_mse_finish_kernel[(1,)](
            partials, totals, out, programs, groups, GROUPS=GROUPS, BLOCK=REDUCTION, num_warps=16
        )
    return out, grad


def scale_(x: torch.Tensor, factor: torch.Tensor) -> None:
    """Multiply x in place by the 0-d factor; nothing is read or written where that is 1."""
    with torch.cuda.device_of(x):
        masked_mse_scale_kernel[(triton.cdiv(x.numel(), BLOCK_SCALE),)](
            x, factor, x.numel(), BLOCK=BLOCK_SCALE, num_warps=8
        )


@triton.jit
def chosen_patch(ids, weights, sample, row, inside, tokens, stride_n, stride_row):
    """Patch and weight of rows of pred."""
    at = sample * stride_n + row.to(tl.int64) * stride_row
    if ids is None:
        return row, tl.load(weights + at, mask=inside, other=0.0).to(tl.float32)
    else:
        found = tl.load(ids + at, mask=inside, other=-1)
        there = (found >= 0) & (found < tokens)
        return tl.where(there, found, 0).to(tl.int32), there.to(tl.float32)


@triton.jit
def weight_sum(totals, groups, GROUPS: tl.constexpr):
    """Float64, by the same additions in every program."""
    group = tl.arange(0, GROUPS)
    return tl.sum(tl.load(totals + group, mask=group < groups, other=0.0).to(tl.float64), 0)


@triton.jit(do_not_specialize=["count", "rows", "tokens", "span"])
def masked_mse_weights_kernel(
    ids,  # [N, R] int64, or None
    weights,  # [N, R] float, or None
    totals,  # out [groups] float32
    count,  # N R
    rows,
    tokens,
    span,  # rows a program
    stride_n,
    stride_row,
    BLOCK: tl.constexpr,
):
    start = tl.program_id(0).to(tl.int64) * span
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, span, BLOCK):
        at = start + first + tl.arange(0, BLOCK)
        _, weight = chosen_patch(ids, weights, at // rows, at % rows, at < count, tokens, stride_n, stride_row)
        total += weight
    tl.store(totals + tl.program_id(0), tl.sum(total, 0))


@triton.jit
def sign(x):
    """1, -1, 0 or NaN."""
    return tl.where(x > 0, 1.0, tl.where(x < 0, -1.0, x))


@triton.jit
def loss_of(x, beta, LOSS: tl.constexpr):
    """Loss of a difference, and its derivative."""
    if LOSS == MSE:
        return x * x, 2.0 * x
    elif LOSS == L1:
        return tl.abs(x), sign(x)
    else:
        near = tl.abs(x) < beta
        value = tl.where(near, 0.5 * x * x / beta, tl.abs(x) - 0.5 * beta)
        return value, tl.where(near, x / beta, sign(x))


@triton.jit(do_not_specialize=["rows", "tokens", "groups", "across", "down", "stride_n"])
def masked_mse_kernel(
    pred,  # [N, R, E], any strides
    images,  # [N, C, T, H, W], any strides
    ids,  # [N, R] int64, or None
    weights,  # [N, R] float, or None
    totals,  # [groups] float32
    partials,  # out [programs] float32
    grad,  # out [N, R, E]
    rows,
    tokens,
    groups,
    across,
    down,
    stride_pred_n,
    stride_pred_row,
    stride_pred_e,
    stride_n,
    stride_c,
    stride_t,
    stride_h,
    stride_w,
    stride_chosen_n,
    stride_chosen_row,
    beta,
    scale,  # a number a channel, or None
    shift,
    LOSS: tl.constexpr,
    NORM_PIX: tl.constexpr,
    WITH_GRAD: tl.constexpr,
    PATCH: tl.constexpr,  # C, t, p, q
    CHANNELS_LAST: tl.constexpr,
    GROUPS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    """One program a block of rows of a sample."""
    ELEMENTS: tl.constexpr = PATCH[0] * PATCH[1] * PATCH[2] * PATCH[3]
    WHOLE: tl.constexpr = ELEMENTS <= BLOCK_E  # the patch stays in registers
    blocks = tl.cdiv(rows, BLOCK_ROWS)
    sample = (tl.program_id(0) // blocks).to(tl.int64)
    row = tl.program_id(0) % blocks * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    patch, weight = chosen_patch(ids, weights, sample, row, row < rows, tokens, stride_chosen_n, stride_chosen_row)
    counted = weight != 0.0
    images += sample * stride_n
    layout = (across, down, stride_c, stride_t, stride_h, stride_w)

    lane = tl.arange(0, BLOCK_E)
    element = lane
    here = counted[:, None] & (element < ELEMENTS)[None, :]
    target = load_patches(images, layout, patch, element, here, scale, shift, PATCH, CHANNELS_LAST)
    mean = tl.zeros((BLOCK_ROWS,), tl.float32)
    inverse = mean + 1.0
    if NORM_PIX:
        total = tl.where(here, target, 0.0)
        for start in range(BLOCK_E, ELEMENTS, BLOCK_E):
            element = start + lane
            here = counted[:, None] & (element < ELEMENTS)[None, :]
            target = load_patches(images, layout, patch, element, here, scale, shift, PATCH, CHANNELS_LAST)
            total += tl.where(here, target, 0.0)
        mean = tl.sum(total, 1) / ELEMENTS
        total = tl.zeros((BLOCK_ROWS, BLOCK_E), tl.float32)
        for start in range(0, ELEMENTS, BLOCK_E):
            if not WHOLE:
                element = start + lane
                here = counted[:, None] & (element < ELEMENTS)[None, :]
                target = load_patches(images, layout, patch, element, here, scale, shift, PATCH, CHANNELS_LAST)
            away = tl.where(here, target - mean[:, None], 0.0)
            total += away * away
        inverse = 1.0 / tl.sqrt_rn(tl.sum(total, 1) / (ELEMENTS - 1) + EPS)

    share = weight / (weight_sum(totals, groups, GROUPS).to(tl.float32) * ELEMENTS)
    total = tl.zeros((BLOCK_ROWS, BLOCK_E), tl.float32)
    for start in range(0, ELEMENTS, BLOCK_E):
        if not WHOLE:
            element = start + lane
            here = counted[:, None] & (element < ELEMENTS)[None, :]
            target = load_patches(images, layout, patch, element, here, scale, shift, PATCH, CHANNELS_LAST)
        at = tile_at(pred + sample * stride_pred_n, row, element, stride_pred_row, stride_pred_e)
        x = tl.load(at, mask=here, other=0.0).to(tl.float32)
        value, slope = loss_of(x - (target - mean[:, None]) * inverse[:, None], beta, LOSS)
        total += tl.where(here, value, 0.0)
        if WITH_GRAD:
            slope = tl.where(here, slope * share[:, None], 0.0).to(grad.dtype.element_ty)
            inside = (row < rows)[:, None] & (element < ELEMENTS)[None, :]
            tl.store(tile_at(grad + sample * rows * ELEMENTS, row, element, ELEMENTS, 1), slope, mask=inside)
    losses = tl.where(counted, tl.sum(total, 1) / ELEMENTS * weight, 0.0)
    tl.store(partials + tl.program_id(0), tl.sum(losses, 0))


@triton.jit(do_not_specialize=["count", "groups"])
def masked_mse_finish_kernel(
    partials,  # [count] float32
    totals,  # [groups] float32
    loss,  # out [] float32
    count,
    groups,
    GROUPS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program."""
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, count, BLOCK):
        at = start + tl.arange(0, BLOCK)
        total += tl.load(partials + at, mask=at < count, other=0.0)
    tl.store(loss, (tl.sum(total.to(tl.float64), 0) / weight_sum(totals, groups, GROUPS)).to(tl.float32))


@triton.jit
def masked_mse_scale_kernel(
    x,  # [count]
    factor,  # []
    count,
    BLOCK: tl.constexpr,
):
    """One program a block."""
    value = tl.load(factor).to(tl.float32)
    if value != 1.0:
        at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        scaled = tl.load(x + at, mask=at < count, other=0.0).to(tl.float32) * value
        tl.store(x + at, scaled.to(x.dtype.element_ty), mask=at < count)
