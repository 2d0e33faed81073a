"""Tokens by id in Triton, one launch forward and one backward."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from . import launch
from .tokens import collect_kernel, load_ids, locate, tile_at


def gather_tokens_fwd(x: torch.Tensor, ids: torch.Tensor, prefix: int) -> torch.Tensor:
    """Return [N, P + K, D], the prefix rows and the rows that ids [N, K] name; zeros where they name none."""
    n, length, width = x.shape
    rows = prefix + ids.shape[1]
    out = torch.empty((n, rows, width), dtype=x.dtype, device=x.device)
    with torch.cuda.device_of(x):
        gather_tokens_kernel[(launch.tiles(n, rows, width),)](
            x, ids, out, length - prefix, ids.shape[1], prefix, *x.stride(), *ids.stride(),
            WIDTH=width, **launch.tile(width),
        )  # fmt: skip
    return out


def gather_tokens_bwd(grad: torch.Tensor, ids: torch.Tensor, length: int, prefix: int) -> torch.Tensor:
    """Return the gradient of x [N, length, D] from that of the result [N, P + K, D]."""
    n, _, width = grad.shape
    out = torch.empty((n, length, width), dtype=grad.dtype, device=grad.device)
    with torch.cuda.device_of(grad):
        collect_kernel[(launch.tiles(n, length, width),)](
            grad, ids, out, length, ids.shape[1], prefix, *grad.stride(), *ids.stride(),
            WIDTH=width, **launch.collect_tile(width),
        )  # fmt: skip
    return out


@triton.jit(do_not_specialize=["tokens", "count", "prefix"])
def gather_tokens_kernel(
    x,  # [N, P + tokens, D], any strides
    ids,  # [N, count] int64, any strides
    out,  # out [N, P + count, D]
    tokens,
    count,
    prefix,
    stride_n,
    stride_row,
    stride_column,
    stride_ids_n,
    stride_ids,
    WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """One program a tile of a sample's output."""
    rows = prefix + count
    sample, row, column = locate(rows, WIDTH, BLOCK_ROWS, BLOCK_D)
    token = load_ids(ids + sample * stride_ids_n, row - prefix, count, tokens, stride_ids)
    source = tl.where(row < prefix, row, prefix + token)
    inside = (row < rows)[:, None] & (column < WIDTH)[None, :]
    there = inside & ((row < prefix) | (token >= 0))[:, None]
    value = tl.load(tile_at(x + sample * stride_n, source, column, stride_row, stride_column), mask=there, other=0.0)
    tl.store(tile_at(out + sample * rows * WIDTH, row, column, WIDTH, 1), value, mask=inside)
