"""Tokens back in their places and mask tokens in the others, in Triton: one launch forward, three backward.

Backward: the visible rows are collected; one pass over the gradient adds up the masked rows and the positions over
parts of the batch; the parts are added up.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from . import launch
from .tokens import collect_kernel, load_ids, locate, sum_parts_kernel, tile_at


def restore_tokens_fwd(
    visible: torch.Tensor, ids_restore: torch.Tensor, mask_token: torch.Tensor, pos: torch.Tensor | None, prefix: int,
    dtype: torch.dtype,
) -> torch.Tensor:  # fmt: skip
    """Return [N, P + L, D]: visible rows, the mask token where ids_restore names none of them; plus pos."""
    n, num_visible, width = visible.shape
    rows = prefix + ids_restore.shape[1]
    out = torch.empty((n, rows, width), dtype=dtype, device=visible.device)
    with torch.cuda.device_of(visible):
        restore_tokens_kernel[(launch.tiles(n, rows, width),)](
            visible, ids_restore, mask_token, pos, out, num_visible - prefix, ids_restore.shape[1], prefix,
            *visible.stride(), *ids_restore.stride(), mask_token.stride(0), *((0, 0) if pos is None else pos.stride()),
            WIDTH=width, **launch.tile(width),
        )  # fmt: skip
    return out


def restore_tokens_bwd(
    grad: torch.Tensor, ids_restore: torch.Tensor, num_visible: int, prefix: int, with_pos: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the gradients of visible [N, num_visible, D], mask_token [D] and pos [P + L, D] or [0]."""
    n, rows, width = grad.shape
    block = launch.tile(width)
    blocks = triton.cdiv(rows, block["BLOCK_ROWS"])
    splits = launch.splits_of_samples(launch.tiles(1, rows, width), n)
    grad_visible = torch.empty((n, num_visible, width), dtype=grad.dtype, device=grad.device)
    token_parts, pos_parts, grad_token, grad_pos = (
        torch.empty(shape, dtype=torch.float32, device=grad.device)
        for shape in (
            (splits * blocks, width),
            (splits, rows, width) if with_pos and splits > 1 else (0,),
            (width,),
            (rows, width) if with_pos else (0,),
        )
    )
    with torch.cuda.device_of(grad):
        collect_kernel[(launch.tiles(n, num_visible, width),)](
            grad, ids_restore, grad_visible, num_visible, ids_restore.shape[1], prefix, *grad.stride(),
            *ids_restore.stride(), WIDTH=width, **launch.collect_tile(width),
        )  # fmt: skip
        restore_tokens_sum_kernel[(launch.tiles(splits, rows, width),)](
            grad, ids_restore, token_parts, pos_parts if splits > 1 else grad_pos, n, num_visible - prefix,
            ids_restore.shape[1], prefix, triton.cdiv(n, splits), *grad.stride(), *ids_restore.stride(),
            WITH_POS=with_pos, WIDTH=width, **block, **launch.SUMS,
        )  # fmt: skip
        columns = rows * width if with_pos and splits > 1 else 0
        sum_parts_kernel[(launch.column_blocks(width, columns),)](
            token_parts, grad_token, len(token_parts), width, pos_parts, grad_pos, splits, columns, **launch.PARTS
        )  # fmt: skip
    return grad_visible, grad_token, grad_pos


@triton.jit(do_not_specialize=["kept", "count", "prefix"])
def restore_tokens_kernel(
    visible,  # [N, P + kept, D], any strides
    ids,  # [N, count] int64, any strides
    mask_token,  # [D]
    pos,  # [P + count, D], or None
    out,  # out [N, P + count, D]
    kept,
    count,
    prefix,
    stride_n,
    stride_row,
    stride_column,
    stride_ids_n,
    stride_ids,
    stride_token,
    stride_pos_row,
    stride_pos_column,
    WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """One program a tile of a sample's output."""
    rows = prefix + count
    sample, row, column = locate(rows, WIDTH, BLOCK_ROWS, BLOCK_D)
    place = load_ids(ids + sample * stride_ids_n, row - prefix, count, kept, stride_ids)
    source = tl.where(row < prefix, row, prefix + place)
    inside = (row < rows)[:, None] & (column < WIDTH)[None, :]
    there = ((row < prefix) | (place >= 0))[:, None]
    at = tile_at(visible + sample * stride_n, source, column, stride_row, stride_column)
    value = tl.load(at, mask=inside & there, other=0.0).to(tl.float32)
    token = tl.load(mask_token + column * stride_token, mask=column < WIDTH, other=0.0).to(tl.float32)
    value = tl.where(there, value, token[None, :])
    if pos is not None:
        value += tl.load(tile_at(pos, row, column, stride_pos_row, stride_pos_column), mask=inside, other=0.0)
    tl.store(tile_at(out + sample * rows * WIDTH, row, column, WIDTH, 1), value.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["n", "kept", "count", "prefix", "per_split"])
def restore_tokens_sum_kernel(
    grad,  # [N, P + count, D], any strides
    ids,  # [N, count] int64, any strides
    token_parts,  # out [splits x blocks of rows, D] float32
    pos_parts,  # out [splits, P + count, D] float32
    n,
    kept,
    count,
    prefix,
    per_split,
    stride_n,
    stride_row,
    stride_column,
    stride_ids_n,
    stride_ids,
    WITH_POS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """One program a tile of the sums over some of the samples."""
    rows = prefix + count
    split, row, column = locate(rows, WIDTH, BLOCK_ROWS, BLOCK_D)
    inside = (row < rows)[:, None] & (column < WIDTH)[None, :]
    end = tl.minimum((split + 1) * per_split, n)
    token_total = tl.zeros((BLOCK_ROWS, BLOCK_D), tl.float32)
    pos_total = tl.zeros((BLOCK_ROWS, BLOCK_D), tl.float32)
    for sample in tl.range(split * per_split, end, loop_unroll_factor=2):
        place = load_ids(ids + sample * stride_ids_n, row - prefix, count, kept, stride_ids)
        masked = inside & ((row >= prefix) & (place < 0))[:, None]
        at = tile_at(grad + sample * stride_n, row, column, stride_row, stride_column)
        if WITH_POS:
            value = tl.load(at, mask=inside, other=0.0).to(tl.float32)
            pos_total += value
            token_total += tl.where(masked, value, 0.0)
        else:
            token_total += tl.load(at, mask=masked, other=0.0).to(tl.float32)
    block = tl.program_id(0) // ((WIDTH + BLOCK_D - 1) // BLOCK_D)
    tl.store(token_parts + block.to(tl.int64) * WIDTH + column, tl.sum(token_total, 0), mask=column < WIDTH)
    if WITH_POS:
        tl.store(tile_at(pos_parts + split * rows * WIDTH, row, column, WIDTH, 1), pos_total, mask=inside)
