"""One iteration of Sinkhorn-Knopp in Triton: log-sum-exps over each sample, then over each prototype.

The sums over prototypes need those of whole samples, so that the logits are read twice, the second time from the L2
cache where they fit it; the first iteration, which has no center, reads them once.

1. `sinkhorn_rows_kernel`, one program a slice of the prototypes of some samples, which share the center; and
   `sinkhorn_rows_combine_kernel`.
2. `sinkhorn_columns_kernel`, one program a block of prototypes and part of the samples; and
   `sinkhorn_columns_combine_kernel`.
"""

# The compiler of @triton.jit knows no starred tuples.
# ruff: noqa: RUF005

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import launch
from .online import LOWEST, NONE, advance, exponent_scale, load_tile, meet, tile_from, tiles_of
from .tiles import temperature


def sinkhorn_pass(logits: Tensor, center: Tensor | None, temp: Tensor, columns: bool) -> tuple[Tensor, Tensor]:
    """Return row_lse [B] and column_lse [K], or [0], in float64. See `fastssl.functional.sinkhorn`.

    Bit-identical from run to run.
    """
    samples, width = logits.shape
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    tau = launch.readable(temp, logits.device)

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=logits.device)

    row_lse = empty(samples, dtype=torch.float64)
    column_lse = empty(width if columns else 0, dtype=torch.float64)
    if center is None or not samples:
        row_lse.zero_()
    if not samples:
        return row_lse, column_lse.fill_(-torch.inf)
    levels = None if center is None else empty(2, samples)
    whole = width % 16 == 0 and logits.stride(0) % 16 == 0
    with torch.cuda.device_of(logits):
        if center is not None:
            tile = launch.rows_of_scores(logits.element_size(), width, whole)
            block = tile["LANES"] * tile["PER"]
            groups = triton.cdiv(samples, tile["ROWS"])
            slices, steps = launch.slices(groups, width, block, logits.device)
            parts = empty(samples, 2, slices)
            sinkhorn_rows_kernel[(groups * slices,)](
                logits, center, tau, parts, samples, width, logits.stride(0), slices, steps,
                MASKED=width % block != 0, **tile,
            )  # fmt: skip
            tile = launch.combine(8, slices)
            sinkhorn_rows_combine_kernel[(triton.cdiv(samples, tile["BLOCK_VIEWS"]),)](
                parts, tau, row_lse, levels, samples, slices, **tile
            )
        if columns:
            tile = launch.columns_of_scores(logits.element_size(), whole)
            blocks = triton.cdiv(width, tile["COLUMNS"])
            count, per_part = launch.parts_of_samples(blocks, samples, tile["ROWS"], logits.device)
            parts = empty(count, 2, width)
            sinkhorn_columns_kernel[(blocks * count,)](
                logits, center, levels, tau, parts, samples, width, logits.stride(0), per_part,
                MASKED=width % tile["COLUMNS"] != 0, **tile,
            )  # fmt: skip
            tile = launch.columns_of_parts()
            sinkhorn_columns_combine_kernel[(triton.cdiv(width, tile["BLOCK"]),)](
                parts, center, tau, column_lse, count, width, **tile
            )
    return row_lse, column_lse


@triton.jit(do_not_specialize=["samples", "slices", "steps"])
def sinkhorn_rows_kernel(
    logits,  # [B, K]
    center,  # [K] float32
    temp,  # [] or scalar
    parts,  # out [B, 2, slices] float32: references, and sums relative to them
    samples,
    width,
    stride,
    slices,
    steps,  # tiles of a slice
    MASKED: tl.constexpr,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
    PER: tl.constexpr,
    STAGES: tl.constexpr,
):
    """One program a slice of ROWS samples."""
    sample = (tl.program_id(0) // slices).to(tl.int64) * ROWS
    part = tl.program_id(0) % slices
    scale, _ = exponent_scale(temp)
    top = (tl.full((LANES,), LOWEST, tl.float32),) * ROWS
    total = (tl.zeros((LANES,), tl.float32),) * ROWS
    for step in tl.range(0, tiles_of(part, steps, width, LANES * PER), num_stages=STAGES):
        at = tile_from((part * steps + step) * (LANES * PER), LANES, PER)
        inside = at < width
        shift = load_tile(center + at, inside, 0.0, MASKED)
        new_top, new_total = (), ()
        for i in tl.static_range(ROWS):
            row = logits + tl.minimum(sample + i, samples - 1) * stride
            reference, moved, far = advance(load_tile(row + at, inside, NONE, MASKED) - shift, top[i], scale)
            new_top = new_top + (reference,)
            new_total = new_total + (total[i] * tl.exp2(moved) + tl.sum(tl.exp2(far), 1),)
        top, total = new_top, new_total
    for i in tl.static_range(ROWS):
        highest, _, factor = meet(top[i])
        out = parts + (sample + i) * 2 * slices + part
        tl.store(out, highest, mask=sample + i < samples)
        tl.store(out + slices, tl.sum(total[i] * factor, 0), mask=sample + i < samples)


@triton.jit(do_not_specialize=["samples", "slices"])
def sinkhorn_rows_combine_kernel(
    parts,  # [B, 2, slices] float32
    temp,  # [] or scalar
    row_lse,  # out [B] float64
    levels,  # out [2, B] float32: row_lse temp, rounded, and what exponentials relative to that are to be multiplied by
    samples,
    slices,
    BLOCK_VIEWS: tl.constexpr,
    BLOCK_SLICES: tl.constexpr,
):
    """One program a few samples."""
    sample = tl.program_id(0) * BLOCK_VIEWS + tl.arange(0, BLOCK_VIEWS)
    part = tl.arange(0, BLOCK_SLICES)
    at = (sample.to(tl.int64) * 2 * slices)[:, None] + part[None, :]
    inside = (sample < samples)[:, None] & (part < slices)[None, :]
    top = tl.load(parts + at, mask=inside, other=LOWEST).to(tl.float64)
    total = tl.load(parts + at + slices, mask=inside, other=0.0).to(tl.float64)
    highest = tl.max(top, 1)
    total = tl.sum(total * tl.exp2(top - highest[:, None]), 1)
    _, base = exponent_scale(temp)
    lse = highest * base + tl.log(total)
    tau = temperature(temp)
    level = (lse * tau).to(tl.float32)
    there = sample < samples
    tl.store(row_lse + sample, lse, mask=there)
    tl.store(levels + sample, level, mask=there)
    tl.store(levels + samples + sample, tl.exp((level.to(tl.float64) / tau - lse).to(tl.float32)), mask=there)


@triton.jit(do_not_specialize=["samples", "per_part"])
def sinkhorn_columns_kernel(
    logits,  # [B, K]
    center,  # [K] float32, or None
    levels,  # [2, B] float32, or None
    temp,  # [] or scalar
    parts,  # out [parts, 2, K] float32
    samples,
    width,
    stride,
    per_part,  # samples of a part, a multiple of ROWS
    MASKED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STAGES: tl.constexpr,
):
    """One program a block of prototypes and part of the samples."""
    blocks = tl.cdiv(width, COLUMNS)
    part = tl.program_id(0) // blocks
    column = tl.program_id(0) % blocks * COLUMNS + tl.arange(0, COLUMNS)
    scale, _ = exponent_scale(temp)
    top = tl.full((COLUMNS,), LOWEST, tl.float32)
    total = tl.zeros((COLUMNS,), tl.float32)
    if center is not None:
        shift = load_tile(center + column, column < width, 0.0, MASKED)[None, :]
    for start in tl.range(part * per_part, tl.minimum(part * per_part + per_part, samples), ROWS, num_stages=STAGES):
        sample = start + tl.arange(0, ROWS)
        # Beyond the end the last sample comes again, times 0: no condition on every score.
        there = sample < samples
        sample = tl.minimum(sample, samples - 1)
        rows = (sample.to(tl.int64) * stride)[:, None]
        x = load_tile(logits + rows + column[None, :], (column < width)[None, :], NONE, MASKED)
        if center is None:
            factor = there.to(tl.float32)
        else:
            x = x - shift - tl.load(levels + sample)[:, None]
            factor = tl.load(levels + samples + sample, mask=there, other=0.0)
        new = tl.maximum(top, tl.max(x, 0) * scale)
        powers = tl.exp2(tl.fma(x, scale, -new[None, :])) * factor[:, None]
        total = total * tl.exp2(top - new) + tl.sum(powers, 0)
        top = new
    out = parts + part.to(tl.int64) * 2 * width + column
    tl.store(out, top, mask=column < width)
    tl.store(out + width, total, mask=column < width)


@triton.jit(do_not_specialize=["count"])
def sinkhorn_columns_combine_kernel(
    parts,  # [count, 2, K] float32
    center,  # [K] float32, or None
    temp,  # [] or scalar
    column_lse,  # out [K] float64
    count,
    width,
    BLOCK: tl.constexpr,
):
    """One program a block of prototypes."""
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    top = tl.full((BLOCK,), LOWEST, tl.float64)
    total = tl.zeros((BLOCK,), tl.float64)
    for part in range(0, count):
        at = parts + tl.cast(part, tl.int64) * 2 * width + column
        other = tl.load(at, mask=inside, other=LOWEST).to(tl.float64)
        new = tl.maximum(top, other)
        more = tl.load(at + width, mask=inside, other=0.0).to(tl.float64)
        total = total * tl.exp2(top - new) + more * tl.exp2(other - new)
        top = new
    _, base = exponent_scale(temp)
    lse = top * base + tl.log(total)
    if center is not None:
        lse += tl.load(center + column, mask=inside, other=0.0).to(tl.float64) / temperature(temp)
    tl.store(column_lse + column, lse, mask=inside)
