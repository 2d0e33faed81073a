"""Colours as Lab and as bins in Triton, two launches: the cells of the plane of a and b, then the pixels.

A cell has the bins that may be among the nearest ones of a point in it, as csrc/cpu/lab_bins.cpp has it. Cells are made
anew each time, as bins on a device are not looked at from the host, and making them takes a few microseconds. With a
stride the pixels whose colours are encoded are read again by a launch of their own.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from . import launch
from .patches import affine

CELL = tl.constexpr(2.0)  # side of a cell
FIRST_A, FIRST_B = tl.constexpr(-88.0), tl.constexpr(-110.0)
CELLS_A, CELLS_B = tl.constexpr(94), tl.constexpr(103)  # which is where sRGB has colours
SLOTS = tl.constexpr(16)  # of a cell: its bins in the order of their numbers, and points that are too far away
SLOT = tl.constexpr(15)  # last bits of a square, which do not count
MARGIN = tl.constexpr(1e-2)  # by which a cell is larger than its side, for points that rounding puts there
LEEWAY = tl.constexpr(1.00001)  # of squared distances that are equal but for rounding
FAR = tl.constexpr(1e18)  # a point whose squared distance is still finite
LOG2_E = 1.4426950408889634
MAX_BINS = 4096  # of cells
NO_KEY = tl.constexpr(2**63 - 1)


def lab_bins_fwd(
    images: torch.Tensor, bins: torch.Tensor, neighbors: int, sigma: float, stride: int, scale: list[float],
    shift: list[float],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """Return Lab [N, 3, H, W], the nearest bins [N, K, h, w] at every stride-th pixel, and their weights."""
    n, _, height, width = images.shape
    device, count = images.device, len(bins)
    shape = (n, neighbors, triton.cdiv(height, stride), triton.cdiv(width, stride))
    lab = torch.empty(images.shape, dtype=torch.float32, device=device)
    index = torch.empty(shape, dtype=torch.int32, device=device)
    weight = torch.empty(shape, dtype=torch.float32, device=device)
    falloff = min(0.5 / sigma / sigma, 1e30) * LOG2_E
    numbers = affine(scale, shift, device)
    celled = neighbors <= SLOTS.value and count <= MAX_BINS
    cells = torch.empty((3, CELLS_A.value * CELLS_B.value, SLOTS.value) if celled else 0, dtype=torch.int32,
                        device=device)  # fmt: skip

    def pixels(rows: int, columns: int, step: int, *, with_lab: bool, with_bins: bool) -> None:
        block = launch.points_tile(neighbors if with_bins else 1)
        lab_bins_kernel[(n * triton.cdiv(rows * columns, block["BLOCK"]),)](
            images, bins, cells, lab, index, weight, rows, columns, count, *images.stride()[:2],
            *(s * step for s in images.stride()[2:]), *bins.stride(), falloff, *numbers, NEIGHBORS=neighbors,
            CELLED=celled, WITH_LAB=with_lab, WITH_BINS=with_bins, **block,
        )  # fmt: skip

    with torch.cuda.device_of(images):
        if celled:
            block = launch.bins_tile(count, device)
            cells_kernel[(triton.cdiv(CELLS_A.value * CELLS_B.value, block["BLOCK_CELLS"]),)](
                bins, cells, count, *bins.stride(), NEIGHBORS=neighbors, **block
            )
        pixels(height, width, 1, with_lab=True, with_bins=stride == 1)
        if stride > 1:
            pixels(*shape[2:], stride, with_lab=False, with_bins=True)
    return lab, index, weight


@triton.jit
def reach(x, low, NEAREST: tl.constexpr):
    """The square of the least or the largest distance of x from a side of a cell."""
    below, above = low - MARGIN - x, x - (low + CELL + MARGIN)
    away = tl.maximum(tl.maximum(below, above), 0.0) if NEAREST else tl.maximum(tl.abs(below), tl.abs(above))
    return away * away


@triton.jit(do_not_specialize=["count"])
def cells_kernel(
    bins,  # [count, 2], any strides
    cells,  # out [3, CELLS, SLOTS]: a and b of bins as the bits of floats, their numbers; -1 in a cell with too many
    count,
    stride_bin,
    stride_axis,
    NEIGHBORS: tl.constexpr,
    BLOCK_CELLS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program a few cells."""
    cell = tl.program_id(0) * BLOCK_CELLS + tl.arange(0, BLOCK_CELLS)
    exists = cell < CELLS_A * CELLS_B
    low_a = ((cell // CELLS_B).to(tl.float32) * CELL + FIRST_A)[:, None]
    low_b = ((cell % CELLS_B).to(tl.float32) * CELL + FIRST_B)[:, None]
    q = tl.arange(0, BLOCK)
    a = tl.load(bins + q * stride_bin, mask=q < count, other=0.0)[None, :]
    b = tl.load(bins + q * stride_bin + stride_axis, mask=q < count, other=0.0)[None, :]
    there = (q < count)[None, :] & exists[:, None]
    farthest = tl.where(there, reach(a, low_a, False) + reach(b, low_b, False), float("inf"))
    bound = tl.min(farthest, 1)
    for _ in range(1, NEIGHBORS):
        # Equal ones at once, which widens the bound.
        farthest = tl.where(farthest <= bound[:, None], float("inf"), farthest)
        bound = tl.min(farthest, 1)
    near = there & (reach(a, low_a, True) + reach(b, low_b, True) <= bound[:, None] * LEEWAY)
    slot = tl.cumsum(near.to(tl.int32), 1) - 1
    found = tl.sum(near.to(tl.int32), 1)[:, None]
    out = cells + cell[:, None] * SLOTS
    PLANE: tl.constexpr = CELLS_A * CELLS_B * SLOTS
    near = near & (slot < SLOTS)
    tl.store(out + slot, a.to(tl.int32, bitcast=True), mask=near)
    tl.store(out + PLANE + slot, b.to(tl.int32, bitcast=True), mask=near)
    tl.store(out + 2 * PLANE + slot, tl.where((slot == 0) & (found > SLOTS), -1, q[None, :]), mask=near)
    rest = tl.arange(0, SLOTS)[None, :]
    free = (rest >= found) & exists[:, None]
    far = (tl.zeros((BLOCK_CELLS, SLOTS), tl.float32) + FAR).to(tl.int32, bitcast=True)
    tl.store(out + rest, far, mask=free)
    tl.store(out + PLANE + rest, far, mask=free)
    tl.store(out + 2 * PLANE + rest, tl.zeros((BLOCK_CELLS, SLOTS), tl.int32), mask=free)


@triton.jit
def light_of(image, offset, inside, channel: tl.constexpr, stride_c, scale, shift):
    """The light of a channel, by the curve of sRGB."""
    x = tl.load(image + channel * stride_c + offset, mask=inside, other=0).to(tl.float32)
    if scale is not None:
        x = x * scale[channel] + shift[channel]
    power = tl.exp2(2.4 * tl.log2(tl.maximum(x * (1 / 1.055) + 0.055 / 1.055, 1e-3)))
    return tl.where(x <= 0.04045, x * (1 / 12.92), tl.where(x == x, power, x))


@triton.jit
def root_of(t):
    """The cube root, with a step of Newton's, or the line below."""
    y = tl.exp2(tl.log2(tl.maximum(t, 1e-3)) * (1 / 3))
    y += (t / (y * y) - y) * (1 / 3)
    return tl.where(t > 0.008856, y, t * 7.787 + 16 / 116)


@triton.jit
def lab_of(r, g, b):
    """D65, 2 degrees; X, Y and Z are relative to those of white."""
    x = root_of(r * (0.412453 / 0.95047) + g * (0.357580 / 0.95047) + b * (0.180423 / 0.95047))
    y = root_of(r * 0.212671 + g * 0.715160 + b * 0.072169)
    z = root_of(r * (0.019334 / 1.08883) + g * (0.119193 / 1.08883) + b * (0.950227 / 1.08883))
    return 116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)


@triton.jit
def nearest_of_cells(cells, cell, a, b):
    """Squares of distances of the bins of a cell, ascending, and the bins: [BLOCK, SLOTS]."""
    PLANE: tl.constexpr = CELLS_A * CELLS_B * SLOTS
    slot = tl.arange(0, SLOTS)
    row = cells + cell[:, None] * SLOTS
    away_a = a[:, None] - tl.load(row + slot[None, :]).to(tl.float32, bitcast=True)
    away_b = b[:, None] - tl.load(row + PLANE + slot[None, :]).to(tl.float32, bitcast=True)
    key = (away_a * away_a + away_b * away_b).to(tl.int32, bitcast=True)
    key = tl.sort((key & ~SLOT) | slot[None, :], 1)
    return ((key & ~SLOT) + SLOTS // 2).to(tl.float32, bitcast=True), tl.load(row + 2 * PLANE + (key & SLOT))


@triton.jit
def square_of(bins, q, there, a, b, stride_bin, stride_axis):
    away_a = a - tl.load(bins + q * stride_bin, mask=there, other=0.0)
    away_b = b - tl.load(bins + q * stride_bin + stride_axis, mask=there, other=0.0)
    return away_a * away_a + away_b * away_b


@triton.jit
def nearest_of_all(
    bins, count, a, b, stride_bin, stride_axis, NEIGHBORS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr
):
    """The same from all bins, one neighbour after the other: [BLOCK, WIDTH], of which NEIGHBORS are."""
    column = tl.arange(0, WIDTH)
    square = tl.zeros((BLOCK, WIDTH), tl.float32)
    index = tl.zeros((BLOCK, WIDTH), tl.int32)
    last = tl.zeros((BLOCK,), tl.int64) - 1
    for k in range(NEIGHBORS):
        best = tl.zeros((BLOCK,), tl.int64) + NO_KEY
        for start in range(0, count, SLOTS):
            q = start + tl.arange(0, SLOTS)
            there = (q < count)[None, :]
            away = square_of(bins, q[None, :], there, a[:, None], b[:, None], stride_bin, stride_axis)
            bits = tl.where(away == away, away, float("inf")).to(tl.int32, bitcast=True) & ~SLOT
            key = (bits.to(tl.int64) << 32) | q[None, :]
            best = tl.minimum(best, tl.min(tl.where(there & (key > last[:, None]), key, NO_KEY), 1))
        found = (best & 0x7FFFFFFF).to(tl.int32)
        away = square_of(bins, found, found >= 0, a, b, stride_bin, stride_axis)
        square = tl.where(column[None, :] == k, away[:, None], square)
        index = tl.where(column[None, :] == k, found[:, None], index)
        last = best
    return square, index


@triton.jit(do_not_specialize=["height", "width", "count", "falloff", "stride_n"])
def lab_bins_kernel(
    images,  # [N, 3, height, width], any strides
    bins,  # [count, 2], any strides
    cells,  # [3, CELLS, SLOTS]
    lab,  # out [N, 3, height, width]
    index,  # out [N, NEIGHBORS, height, width]
    weight,  # out [N, NEIGHBORS, height, width]
    height,
    width,
    count,
    stride_n,
    stride_c,
    stride_h,
    stride_w,
    stride_bin,
    stride_axis,
    falloff,  # log2(e) / (2 sigma^2)
    scale,  # a number a channel, or None
    shift,
    NEIGHBORS: tl.constexpr,
    CELLED: tl.constexpr,
    WITH_LAB: tl.constexpr,
    WITH_BINS: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """One program a block of an image's pixels."""
    plane = height * width
    blocks = tl.cdiv(plane, BLOCK)
    n = (tl.program_id(0) // blocks).to(tl.int64)
    pixel = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < plane
    image = images + n * stride_n
    offset = (pixel // width).to(tl.int64) * stride_h + (pixel % width).to(tl.int64) * stride_w
    red = light_of(image, offset, inside, 0, stride_c, scale, shift)
    green = light_of(image, offset, inside, 1, stride_c, scale, shift)
    blue = light_of(image, offset, inside, 2, stride_c, scale, shift)
    lightness, a, b = lab_of(red, green, blue)
    if WITH_LAB:
        out = lab + n * 3 * plane + pixel
        tl.store(out, lightness, mask=inside)
        tl.store(out + plane, a, mask=inside)
        tl.store(out + 2 * plane.to(tl.int64), b, mask=inside)
    if WITH_BINS:
        if CELLED:
            row, column = (a - FIRST_A) / CELL, (b - FIRST_B) / CELL
            known = (row >= 0) & (row < CELLS_A) & (column >= 0) & (column < CELLS_B)
            cell = tl.where(known, row.to(tl.int32) * CELLS_B + column.to(tl.int32), 0)
            PLANE: tl.constexpr = CELLS_A * CELLS_B * SLOTS
            known = known & (tl.load(cells + 2 * PLANE + cell * SLOTS) >= 0)
            if tl.min(known.to(tl.int32), 0) > 0:
                square, found = nearest_of_cells(cells, cell, a, b)
            else:
                square, found = nearest_of_all(bins, count, a, b, stride_bin, stride_axis, NEIGHBORS, WIDTH, BLOCK)
        else:
            square, found = nearest_of_all(bins, count, a, b, stride_bin, stride_axis, NEIGHBORS, WIDTH, BLOCK)
        k = tl.arange(0, WIDTH)
        least = tl.sum(tl.where(k[None, :] == 0, square, 0.0), 1)
        e = tl.where((k < NEIGHBORS)[None, :], tl.exp2((least[:, None] - square) * falloff), 0.0)
        e = e / tl.sum(e, 1)[:, None]
        at = (n * NEIGHBORS + k[None, :]) * plane + pixel[:, None]
        mask = inside[:, None] & (k < NEIGHBORS)[None, :]
        tl.store(index + at, found, mask=mask)
        tl.store(weight + at, e, mask=mask)
