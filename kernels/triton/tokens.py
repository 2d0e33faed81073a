"""Rows of token sequences: taken by id, given back by id, and summed; device functions and the kernels of several ops.

Giving back looks for the rows that an output row is the sum of, instead of adding rows to where they belong: no
atomics, and the same bits every time. The ids of a sample are scanned once; only rows that several ids name cost more.
"""

import triton
import triton.language as tl

BLOCK_IDS = tl.constexpr(64)  # ids a step of a scan


@triton.jit
def locate(rows, WIDTH: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_D: tl.constexpr):
    """A program's batch entry, rows and columns; those that share rows are neighbours."""
    chunks: tl.constexpr = (WIDTH + BLOCK_D - 1) // BLOCK_D
    blocks = tl.cdiv(rows, BLOCK_ROWS)
    program = tl.program_id(0)
    row = program // chunks % blocks * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = program % chunks * BLOCK_D + tl.arange(0, BLOCK_D)
    return (program // chunks // blocks).to(tl.int64), row, column


@triton.jit
def load_ids(ids, at, count, limit, stride):
    """ids[at] where that names one of `limit` tokens, else -1: int32."""
    found = tl.load(ids + at.to(tl.int64) * stride, mask=(at >= 0) & (at < count), other=-1)
    return tl.where((found >= 0) & (found < limit), found, -1).to(tl.int32)


@triton.jit
def tile_at(x, row, column, stride_row, stride_column):
    """Pointers to x[row, column]."""
    return x + (row.to(tl.int64) * stride_row)[:, None] + (column.to(tl.int64) * stride_column)[None, :]


@triton.jit
def next_match(ids, stride, count, token, after):
    """The first i > after with ids[i] == token >= 0, `count` where there is none; and how many there are."""
    first = tl.zeros_like(token) + count
    hits = tl.zeros_like(token)
    for start in range(0, count, BLOCK_IDS):
        i = start + tl.arange(0, BLOCK_IDS)
        found = tl.load(ids + i.to(tl.int64) * stride, mask=i < count, other=-1)
        hit = (found[None, :] == token[:, None]) & (token >= 0)[:, None] & (i[None, :] > after[:, None])
        first = tl.minimum(first, tl.min(tl.where(hit, i[None, :], count), 1))
        hits += tl.sum(hit.to(tl.int32), 1)
    return first, hits


@triton.jit
def collect(x, ids, row, column, inside, count, prefix, stride_row, stride_column, stride_ids):
    """The sums, in order of i, of rows P + i of x with ids[i] == row - P; row j < P is x[j].  # float32"""
    token = row - prefix
    at, hits = next_match(ids, stride_ids, count, token, tl.zeros_like(token) - 1)
    at = tl.where(token < 0, row - prefix, at)
    rounds = tl.maximum(tl.max(hits, 0), 1)
    total = tl.zeros(inside.shape, tl.float32)
    for i in range(0, rounds):
        there = inside & (at < count)[:, None]
        more = tl.load(tile_at(x, prefix + at, column, stride_row, stride_column), mask=there, other=0.0)
        total += more.to(tl.float32)
        if i + 1 < rounds:
            at, hits = next_match(ids, stride_ids, count, token, at)
    return total


@triton.jit(do_not_specialize=["rows", "count", "prefix"])
def collect_kernel(
    x,  # [N, P + count, D], any strides
    ids,  # [N, count] int64, any strides
    out,  # out [N, rows, D]
    rows,
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
    sample, row, column = locate(rows, WIDTH, BLOCK_ROWS, BLOCK_D)
    inside = (row < rows)[:, None] & (column < WIDTH)[None, :]
    total = collect(
        x + sample * stride_n, ids + sample * stride_ids_n, row, column, inside, count, prefix,
        stride_row, stride_column, stride_ids,
    )  # fmt: skip
    tl.store(tile_at(out + sample * rows * WIDTH, row, column, WIDTH, 1), total.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["n", "rows", "count", "per_split"])
def collect_sum_kernel(
    x,  # [N, count, D], any strides
    ids,  # [N, count] int64, any strides
    parts,  # out [splits, rows, D] float32
    n,
    rows,
    count,
    per_split,
    stride_n,
    stride_row,
    stride_column,
    stride_ids_n,
    stride_ids,
    WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """One program a tile of the sum over some of the samples."""
    split, row, column = locate(rows, WIDTH, BLOCK_ROWS, BLOCK_D)
    inside = (row < rows)[:, None] & (column < WIDTH)[None, :]
    end = tl.minimum((split + 1) * per_split, n)
    total = tl.zeros((BLOCK_ROWS, BLOCK_D), tl.float32)
    for sample in range(split * per_split, end):
        total += collect(
            x + sample * stride_n, ids + sample * stride_ids_n, row, column, inside, count, 0,
            stride_row, stride_column, stride_ids,
        )  # fmt: skip
    tl.store(tile_at(parts + split * rows * WIDTH, row, column, WIDTH, 1), total, mask=inside)


@triton.jit
def sum_parts(parts, out, count, columns, block, BLOCK_PARTS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr):
    column = block.to(tl.int64) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    total = tl.zeros((BLOCK_PARTS, BLOCK_COLUMNS), tl.float32)
    for start in range(0, count, BLOCK_PARTS):
        part = start + tl.arange(0, BLOCK_PARTS)
        inside = (part < count)[:, None] & (column < columns)[None, :]
        total += tl.load(tile_at(parts, part, column, columns, 1), mask=inside, other=0.0)
    tl.store(out + column, tl.sum(total, 0), mask=column < columns)


@triton.jit(do_not_specialize=["count", "columns", "other_count", "other_columns"])
def sum_parts_kernel(
    parts,  # [count, columns] float32
    out,  # out [columns] float32
    count,
    columns,
    other_parts,  # and another such sum
    other_out,
    other_count,
    other_columns,
    BLOCK_PARTS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """One program a block of columns of either sum."""
    block = tl.program_id(0)
    blocks = tl.cdiv(columns, BLOCK_COLUMNS)
    if block < blocks:
        sum_parts(parts, out, count, columns, block, BLOCK_PARTS, BLOCK_COLUMNS)
    else:
        sum_parts(other_parts, other_out, other_count, other_columns, block - blocks, BLOCK_PARTS, BLOCK_COLUMNS)
