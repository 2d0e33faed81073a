"""Patches of a jittered grid in Triton, one launch: a program a channel of a patch, which draws for itself."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from ..torch import extract_patches as host
from . import launch
from .draws import NOISE, PATCHES, below, id_of, key_of, normal_pair, words
from .patches import affine, of_channel

EPS, DEVIATION = tl.constexpr(host.EPS), tl.constexpr(host.NOISE)


def extract_patches_fwd(
    images: torch.Tensor, seed: torch.Tensor, sample_ids: torch.Tensor | None, patch: list[int], grid: list[int],
    gap: int, jitter: int, standardize: bool, keep_channel_p: float, scale: list[float], shift: list[float],
    dtype: torch.dtype, view: int,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Return patches [N, P, C, h, w] and their corners int64 [N, P, 2]."""
    n, channels, height, width = images.shape
    count = grid[0] * grid[1]
    patches = torch.empty((n, count, channels, *patch), dtype=dtype, device=images.device)
    corners = torch.empty((n, count, 2), dtype=torch.int64, device=images.device)
    slack = [size - g * (p + gap) + gap - 2 * jitter for size, g, p in zip((height, width), grid, patch, strict=True)]
    block = launch.plane_tile(patch[0] * patch[1])
    whole = standardize or keep_channel_p > 0  # statistics are of whole channels
    pieces = 1 if whole else triton.cdiv(patch[0] * patch[1], block["BLOCK"])
    with torch.cuda.device_of(images):
        extract_patches_kernel[(n * count * channels * pieces,)](
            images, seed if seed.device == images.device else int(seed), sample_ids, patches, corners, count, grid[1],
            *(side + gap for side in patch), *slack, jitter, int(keep_channel_p * 2**32), view, *images.stride(),
            0 if sample_ids is None else sample_ids.stride(0), *affine(scale, shift, images.device),
            CHANNELS=channels, HEIGHT=patch[0], WIDTH=patch[1], STANDARDIZE=standardize, KEEP=keep_channel_p > 0,
            PIECES=pieces, enable_fp_fusion=False, **block,
        )  # fmt: skip
    return patches, corners


@triton.jit
def load_plane(images, start, stride_h, stride_w, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Pixels from `start` on as float32, and which of them there are."""
    at = start + tl.arange(0, BLOCK)
    inside = at < HEIGHT * WIDTH
    offset = (at // WIDTH).to(tl.int64) * stride_h + (at % WIDTH).to(tl.int64) * stride_w
    return tl.load(images + offset, mask=inside, other=0).to(tl.float32), inside


@triton.jit
def moments(images, x, inside, stride_h, stride_w, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Mean and variance of a channel, of which x is the first block; differences to its first pixel are summed."""
    PIXELS: tl.constexpr = HEIGHT * WIDTH
    first = tl.load(images).to(tl.float32)
    total = tl.sum(tl.where(inside, x - first, 0.0), 0).to(tl.float64)
    for start in range(BLOCK, PIXELS, BLOCK):
        more, here = load_plane(images, start, stride_h, stride_w, HEIGHT, WIDTH, BLOCK)
        total += tl.sum(tl.where(here, more - first, 0.0), 0).to(tl.float64)
    mean = (first.to(tl.float64) + total / PIXELS).to(tl.float32)
    away = tl.where(inside, x - mean, 0.0)
    total = tl.sum(away * away, 0).to(tl.float64)
    for start in range(BLOCK, PIXELS, BLOCK):
        more, here = load_plane(images, start, stride_h, stride_w, HEIGHT, WIDTH, BLOCK)
        away = tl.where(here, more - mean, 0.0)
        total += tl.sum(away * away, 0).to(tl.float64)
    return mean, (total / PIXELS).to(tl.float32)


@triton.jit(
    do_not_specialize=[
        "seed", "count", "columns", "pitch_y", "pitch_x", "slack_y", "slack_x", "jitter", "keep", "view", "stride_n",
    ]
)  # fmt: skip
def extract_patches_kernel(
    images,  # [N, C, H, W], any strides
    seed,  # [] int64, or a number
    sample_ids,  # [N] int64, or None: 0, 1 ...
    patches,  # out [N, count, C, h, w]
    corners,  # out [N, count, 2] int64
    count,
    columns,  # of the grid
    pitch_y,  # pixels from one cell to the next
    pitch_x,
    slack_y,  # pixels that the grid may be moved by
    slack_x,
    jitter,
    keep,  # below which a word has a patch keep one channel
    view,
    stride_n,
    stride_c,
    stride_h,
    stride_w,
    stride_ids,
    scale,  # a number a channel, or None
    shift,
    CHANNELS: tl.constexpr,
    HEIGHT: tl.constexpr,  # of a patch
    WIDTH: tl.constexpr,
    STANDARDIZE: tl.constexpr,
    KEEP: tl.constexpr,
    PIECES: tl.constexpr,  # programs a channel
    BLOCK: tl.constexpr,
):
    """One program a channel of a patch, or a piece of it."""
    PIXELS: tl.constexpr = HEIGHT * WIDTH
    plane = tl.program_id(0) // PIECES
    piece = tl.program_id(0) % PIECES
    channel = plane % CHANNELS
    patch = plane // CHANNELS % count
    sample = (plane // CHANNELS // count).to(tl.int64)
    key = key_of(seed)
    sample_id = id_of(sample_ids, sample, stride_ids)
    origin_y, origin_x, _, _ = words(key, sample_id, view, PATCHES, 0)
    move_y, move_x, gate, which = words(key, sample_id, view, PATCHES, patch + 1)
    top = patch // columns * pitch_y.to(tl.int64) + below(origin_y, slack_y + 1) + below(move_y, 2 * jitter + 1)
    left = patch % columns * pitch_x.to(tl.int64) + below(origin_x, slack_x + 1) + below(move_x, 2 * jitter + 1)
    if (channel == 0) & (piece == 0):
        corner = corners + (sample * count + patch) * 2
        tl.store(corner, top)
        tl.store(corner + 1, left)

    alone = False
    source = channel
    if KEEP and CHANNELS > 1:
        alone = gate.to(tl.int64) < keep.to(tl.int64)
        source = tl.where(alone, below(which, CHANNELS).to(tl.int32), channel)
    images += sample * stride_n + source.to(tl.int64) * stride_c + top * stride_h + left * stride_w
    patches += plane.to(tl.int64) * PIXELS
    factor = 1.0
    offset = 0.0
    if scale is not None:
        factor = of_channel(scale, source, CHANNELS)
        offset = of_channel(shift, source, CHANNELS)

    x, inside = load_plane(images, piece * BLOCK, stride_h, stride_w, HEIGHT, WIDTH, BLOCK)
    mean = 0.0
    deviation = 0.0  # of noise
    if STANDARDIZE or KEEP:
        mean, variance = moments(images, x, inside, stride_h, stride_w, HEIGHT, WIDTH, BLOCK)
        variance *= factor * factor
        deviation = DEVIATION * tl.sqrt_rn(variance)
        if STANDARDIZE:
            inverse = 1.0 / tl.sqrt_rn(variance + EPS)
            deviation *= inverse
            factor *= inverse
            offset = 0.0
        else:
            mean = 0.0
    if KEEP and source != channel:
        QUARTER: tl.constexpr = (PIXELS + 3) // 4
        STEP: tl.constexpr = BLOCK // 4
        for start in range(0, QUARTER, STEP):
            i = start + tl.arange(0, STEP)
            block = (patch * CHANNELS + channel) * QUARTER + i
            w0, w1, w2, w3 = words(key, sample_id, view, NOISE, block)
            a, b = normal_pair(w0, w1)
            c, d = normal_pair(w2, w3)
            for j in tl.static_range(4):
                z = (a, b, c, d)[j]
                there = (i < QUARTER) & (j * QUARTER + i < PIXELS)
                tl.store(patches + j * QUARTER + i, (z * deviation).to(patches.dtype.element_ty), mask=there)
    else:
        at = piece * BLOCK + tl.arange(0, BLOCK)
        tl.store(patches + at, ((x - mean) * factor + offset).to(patches.dtype.element_ty), mask=inside)
        if PIECES == 1:
            for start in range(BLOCK, PIXELS, BLOCK):
                x, inside = load_plane(images, start, stride_h, stride_w, HEIGHT, WIDTH, BLOCK)
                at = start + tl.arange(0, BLOCK)
                tl.store(patches + at, ((x - mean) * factor + offset).to(patches.dtype.element_ty), mask=inside)
