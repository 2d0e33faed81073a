"""Patches of the kept tokens in Triton, with their positions: one launch forward, one or two backward."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

from . import launch
from .patches import affine, load_patches
from .tokens import collect_sum_kernel, load_ids, sum_parts_kernel, tile_at


def mask_patchify_fwd(
    images: torch.Tensor, ids: torch.Tensor, patch: list[int], pos: torch.Tensor | None, scale: list[float],
    shift: list[float], channels_last: bool, dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Return patches [N, K, C t p q] and positions [N, K, D], or [0] without pos; zeros where ids name no token."""
    n, channels, *sides = images.shape
    count = ids.shape[1]
    grid = [size // side for size, side in zip(sides, patch, strict=True)]
    elements, width = channels * math.prod(patch), 0 if pos is None else pos.shape[1]
    out = torch.empty((n, count, elements), dtype=dtype, device=images.device)
    positions = torch.empty(
        0 if pos is None else (n, count, width), dtype=torch.float32 if pos is None else pos.dtype, device=images.device
    )
    blocks = launch.patch_tile(elements, width)
    with torch.cuda.device_of(images):
        mask_patchify_kernel[(launch.patch_tiles(n, count, elements, width, blocks),)](
            images, ids, pos, out, positions, math.prod(grid), count, *grid[:0:-1], *images.stride(), *ids.stride(),
            *((0, 0) if pos is None else pos.stride()), *affine(scale, shift, images.device),
            PATCH=(channels, *patch), WIDTH=width, CHANNELS_LAST=channels_last, **blocks,
        )  # fmt: skip
    return out, positions


def mask_patchify_bwd(grad_positions: torch.Tensor, ids: torch.Tensor, tokens: int) -> torch.Tensor:
    """Return the gradient of pos [tokens, D], summed over the batch."""
    n, count, width = grad_positions.shape
    block = launch.tile(width)
    splits = launch.splits_of_samples(launch.tiles(1, tokens, width), n)
    out = torch.empty((tokens, width), dtype=torch.float32, device=ids.device)
    parts = torch.empty((splits, tokens, width), dtype=torch.float32, device=ids.device) if splits > 1 else out
    with torch.cuda.device_of(ids):
        collect_sum_kernel[(launch.tiles(splits, tokens, width),)](
            grad_positions, ids, parts, n, tokens, count, triton.cdiv(n, splits), *grad_positions.stride(),
            *ids.stride(), WIDTH=width, **block, **launch.SUMS,
        )  # fmt: skip
        if splits > 1:
            sum_parts_kernel[(launch.column_blocks(tokens * width),)](
                parts, out, splits, tokens * width, parts, out, 0, 0, **launch.PARTS
            )  # fmt: skip
    return out


@triton.jit(do_not_specialize=["tokens", "count", "across", "down", "stride_n"])
def mask_patchify_kernel(
    images,  # [N, C, T, H, W], any strides
    ids,  # [N, count] int64, any strides
    pos,  # [tokens, D], or None
    out,  # out [N, count, C t p q]
    positions,  # out [N, count, D]
    tokens,
    count,
    across,  # patches in a row
    down,  # rows of patches in a frame
    stride_n,
    stride_c,
    stride_t,
    stride_h,
    stride_w,
    stride_ids_n,
    stride_ids,
    stride_pos_row,
    stride_pos_column,
    scale,  # a number a channel, or None
    shift,
    PATCH: tl.constexpr,  # C, t, p, q
    WIDTH: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """One program a tile of a sample's patches or, beyond their elements, of its positions."""
    ELEMENTS: tl.constexpr = PATCH[0] * PATCH[1] * PATCH[2] * PATCH[3]
    first: tl.constexpr = (ELEMENTS + BLOCK_E - 1) // BLOCK_E
    chunks: tl.constexpr = first + (WIDTH + BLOCK_D - 1) // BLOCK_D
    chunk = tl.program_id(0) % chunks
    blocks = tl.cdiv(count, BLOCK_ROWS)
    row = tl.program_id(0) // chunks % blocks * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    sample = (tl.program_id(0) // chunks // blocks).to(tl.int64)
    token = load_ids(ids + sample * stride_ids_n, row, count, tokens, stride_ids)
    if chunk < first:
        element = chunk * BLOCK_E + tl.arange(0, BLOCK_E)
        inside = (row < count)[:, None] & (element < ELEMENTS)[None, :]
        there = inside & (token >= 0)[:, None]
        layout = (across, down, stride_c, stride_t, stride_h, stride_w)
        value = load_patches(
            images + sample * stride_n, layout, token, element, there, scale, shift, PATCH, CHANNELS_LAST
        )  # fmt: skip
        value = tl.where(there, value, 0.0).to(out.dtype.element_ty)
        tl.store(tile_at(out + sample * count * ELEMENTS, row, element, ELEMENTS, 1), value, mask=inside)
    else:
        if pos is not None:
            column = (chunk - first) * BLOCK_D + tl.arange(0, BLOCK_D)
            within = (row < count)[:, None] & (column < WIDTH)[None, :]
            at = tile_at(pos, token, column, stride_pos_row, stride_pos_column)
            taken = tl.load(at, mask=within & (token >= 0)[:, None], other=0.0)
            tl.store(tile_at(positions + sample * count * WIDTH, row, column, WIDTH, 1), taken, mask=within)
