"""Device code of augmentation; the plan is in augment.py, which launches it."""

# What the compiler of @triton.jit wants differs from plain Python: no `and` of a constexpr and a tensor.
# ruff: noqa: SIM102

import triton
import triton.language as tl

from .blur import blurred, gaussian
from .color import blend, brightness, gray_value, hue, solarize
from .planes import load_planes, store_planes
from .resize import resized

# Integers that change from batch to batch: no kernel is compiled anew for their being 1 or a multiple of 16.
CHANGING = ["start", "n", "views", "first_view", "height", "width"]
BRIGHTNESS, CONTRAST, SATURATION, HUE, NONE = (tl.constexpr(step) for step in range(5))


@triton.jit
def number(record, word):
    """A float32 of a record of 12 int32 words."""
    return tl.load(record + word).to(tl.float32, bitcast=True)


@triton.jit
def flag(record, byte):
    """One of the bytes hflip, vflip, turns, gray, and the order's four."""
    return (tl.load(record + 4 + byte // 4) >> (8 * (byte % 4))) & 255


@triton.jit
def contrast_place(record):
    """The contrast's place in the order; 4 where it is skipped."""
    place = NONE
    for k in tl.static_range(4):
        place = tl.where(flag(record, 4 + k) == CONTRAST, k, place)
    return tl.where(number(record, 6 + CONTRAST) != 1.0, place, NONE)


@triton.jit
def jitter(r, g, b, record, first, last, UINT8: tl.constexpr, CHANNELS: tl.constexpr):
    """The steps at places first .. last - 1 of the order, which do not hold the contrast."""
    for place in range(first, last):
        step = tl.minimum(flag(record, 4 + place), NONE)
        factor = number(record, 6 + step)
        if (step == BRIGHTNESS) & (factor != 1.0):
            r, g, b = brightness(r, g, b, factor, UINT8)
        if CHANNELS == 3:
            if (step == SATURATION) & (factor != 1.0):
                r, g, b = blend(r, g, b, gray_value(r, g, b, UINT8, CHANNELS), factor, UINT8)
            if (step == HUE) & (factor != 0.0):
                r, g, b = hue(r, g, b, factor, UINT8)
    return r, g, b


@triton.jit
def grayscale(r, g, b, record, UINT8: tl.constexpr, CHANNELS: tl.constexpr):
    if CHANNELS == 3:
        if flag(record, 3) != 0:
            r = gray_value(r, g, b, UINT8, CHANNELS)
            g = r
            b = r
    return r, g, b


@triton.jit
def finish(
    out, at, mask, r, g, b, record, area, scale0, scale1, scale2, shift0, shift1, shift2,
    CHANNELS: tl.constexpr, CHANNELS_LAST: tl.constexpr, UINT8: tl.constexpr,
):  # fmt: skip
    """Solarize, normalise and store at places `at` of a view of `area` pixels."""
    threshold = number(record, 11)
    r = tl.fma(solarize(r, threshold, UINT8), scale0, shift0)
    g = tl.fma(solarize(g, threshold, UINT8), scale1, shift1)
    b = tl.fma(solarize(b, threshold, UINT8), scale2, shift2)
    if CHANNELS_LAST:
        store_planes(out, at * CHANNELS, mask, 1, r, g, b, CHANNELS)
    else:
        store_planes(out, at, mask, area, r, g, b, CHANNELS)


@triton.jit
def locate(start, params, n, views, first_view, height, width, BLOCK: tl.constexpr):
    """A program's view in the chunk and in the output, its sample, record, and the tile's first row and column."""
    across = tl.cdiv(width, BLOCK)
    tiles = tl.cdiv(height, BLOCK) * across
    local = tl.program_id(0) // tiles
    tile = tl.program_id(0) % tiles
    view = start + local
    sample = (view % n).to(tl.int64)
    record = params + (sample * views + first_view + view // n) * 12
    return local.to(tl.int64), view.to(tl.int64), sample, record, tile // across * BLOCK, tile % across * BLOCK


@triton.jit
def place_in_view(rows, columns, record, height, width):
    """Where the pixels of a tile end up, mirrored and rotated: rows x columns -> y * width + x."""
    turns = flag(record, 2)
    half = (turns // 2) % 2  # two turns are both mirror images, and commute with one
    y = tl.where((flag(record, 1) != 0) != (half != 0), height - 1 - rows, rows)[:, None]
    x = tl.where((flag(record, 0) != 0) != (half != 0), width - 1 - columns, columns)[None, :]
    return tl.where((turns % 2 != 0) & (height == width), (height - 1 - x) * width + y, y * width + x)


@triton.jit(do_not_specialize=[*CHANGING, "image_height", "image_width", "stride_b", "stride_y"])
def augment_resize_kernel(
    pixels,  # uint8 [B, C, H, W], any strides, or [total] with extents
    extents,  # [B, 3] int64: offset, height, width
    params,  # [n, V, 12] int32
    state,  # out [chunk, C, h, w] float32: views that another kernel finishes
    sums,  # out [chunk, tiles] float32: grey values before the contrast
    out,  # out [count n, C, h, w], or [count n, h, w, C]
    start,  # of the chunk
    n,
    views,  # V
    first_view,
    image_height,
    image_width,
    stride_b,
    stride_c,
    stride_y,
    stride_x,
    height,
    width,
    scale0,
    scale1,
    scale2,
    shift0,
    shift1,
    shift2,
    RAGGED: tl.constexpr,
    BICUBIC: tl.constexpr,
    UINT8: tl.constexpr,
    CHANNELS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program a tile of a view: crop, resize, mirror, the jitter up to the contrast."""
    local, view, sample, record, row0, column0 = locate(start, params, n, views, first_view, height, width, BLOCK)
    area = height * width
    rows = row0 + tl.arange(0, BLOCK)
    columns = column0 + tl.arange(0, BLOCK)
    mask = (rows < height)[:, None] & (columns < width)[None, :]
    if RAGGED:
        image = pixels + tl.load(extents + 3 * sample)
        image_height = tl.load(extents + 3 * sample + 1).to(tl.int32)
        image_width = tl.load(extents + 3 * sample + 2).to(tl.int32)
        stride_y = image_width * CHANNELS
    else:
        image = pixels + sample * stride_b
    r, g, b = resized(
        image, record, image_height, image_width, stride_c, stride_y, stride_x,
        tl.minimum(rows, height - 1), tl.minimum(columns, width - 1), height, width, BLOCK, BICUBIC, UINT8, CHANNELS,
    )  # fmt: skip
    place = contrast_place(record)
    r, g, b = jitter(r, g, b, record, 0, place, UINT8, CHANNELS)
    at = place_in_view(rows, columns, record, height, width)
    if place < NONE:
        gray = tl.where(mask, gray_value(r, g, b, UINT8, CHANNELS), 0.0)
        tl.store(sums + tl.program_id(0), tl.sum(tl.sum(gray, 1), 0))
    else:
        r, g, b = grayscale(r, g, b, record, UINT8, CHANNELS)
    if (place < NONE) | (number(record, 10) > 0.0):
        store_planes(state + local * area * CHANNELS, at, mask, area, r, g, b, CHANNELS)
    else:
        finish(
            out + view * area * CHANNELS, at, mask, r, g, b, record, area,
            scale0, scale1, scale2, shift0, shift1, shift2, CHANNELS, CHANNELS_LAST, UINT8,
        )  # fmt: skip


@triton.jit(do_not_specialize=CHANGING)
def augment_contrast_kernel(
    params,  # [n, V, 12] int32
    state,  # [chunk, C, h, w] float32
    sums,  # [chunk, tiles] float32
    out,  # out [count n, C, h, w], or [count n, h, w, C]
    start,
    n,
    views,
    first_view,
    height,
    width,
    scale0,
    scale1,
    scale2,
    shift0,
    shift1,
    shift2,
    UINT8: tl.constexpr,
    CHANNELS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program a tile of a view: contrast, the jitter after it, grey."""
    local, view, _, record, row0, column0 = locate(start, params, n, views, first_view, height, width, BLOCK)
    place = contrast_place(record)
    if place < NONE:
        # Added in one order, so that the result does not vary from run to run.
        tiles = tl.cdiv(height, BLOCK) * tl.cdiv(width, BLOCK)
        total = tl.zeros((BLOCK,), tl.float64)
        for first in range(0, tiles, BLOCK):
            k = first + tl.arange(0, BLOCK)
            total += tl.load(sums + local * tiles + k, mask=k < tiles, other=0.0)
        area = height * width
        mean = (tl.sum(total, 0) / area).to(tl.float32)
        rows = row0 + tl.arange(0, BLOCK)
        columns = column0 + tl.arange(0, BLOCK)
        mask = (rows < height)[:, None] & (columns < width)[None, :]
        at = rows[:, None] * width + columns[None, :]
        x = state + local * area * CHANNELS
        r, g, b = load_planes(x, at, mask, area, CHANNELS)
        r, g, b = blend(r, g, b, mean, number(record, 6 + CONTRAST), UINT8)
        r, g, b = jitter(r, g, b, record, place + 1, NONE, UINT8, CHANNELS)
        r, g, b = grayscale(r, g, b, record, UINT8, CHANNELS)
        if number(record, 10) > 0.0:
            store_planes(x, at, mask, area, r, g, b, CHANNELS)
        else:
            finish(
                out + view * area * CHANNELS, at, mask, r, g, b, record, area,
                scale0, scale1, scale2, shift0, shift1, shift2, CHANNELS, CHANNELS_LAST, UINT8,
            )  # fmt: skip


@triton.jit(do_not_specialize=[*CHANGING, "limit"])
def augment_blur_kernel(
    params,  # [n, V, 12] int32
    state,  # [chunk, C, h, w] float32
    out,  # out [count n, C, h, w], or [count n, h, w, C]
    start,
    n,
    views,
    first_view,
    height,
    width,
    limit,  # radius that no blur exceeds
    scale0,
    scale1,
    scale2,
    shift0,
    shift1,
    shift2,
    UINT8: tl.constexpr,
    CHANNELS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program a tile of a view."""
    local, view, _, record, row0, column0 = locate(start, params, n, views, first_view, height, width, BLOCK)
    sigma = number(record, 10)
    if sigma > 0.0:
        area = height * width
        radius_y, rate_y, norm_y = gaussian(sigma, limit, height, BLOCK)
        radius_x, rate_x, norm_x = gaussian(sigma, limit, width, BLOCK)
        x = state + local * area * CHANNELS
        r = blurred(
            x, row0, column0, height, width, radius_y, rate_y, norm_y, radius_x, rate_x, norm_x,
            BLOCK, UINT8, PRECISION,
        )  # fmt: skip
        g = r
        b = r
        if CHANNELS == 3:
            g = blurred(
                x + area, row0, column0, height, width, radius_y, rate_y, norm_y, radius_x, rate_x, norm_x,
                BLOCK, UINT8, PRECISION,
            )  # fmt: skip
            b = blurred(
                x + 2 * area, row0, column0, height, width, radius_y, rate_y, norm_y, radius_x, rate_x, norm_x,
                BLOCK, UINT8, PRECISION,
            )  # fmt: skip
        rows = row0 + tl.arange(0, BLOCK)
        columns = column0 + tl.arange(0, BLOCK)
        mask = (rows < height)[:, None] & (columns < width)[None, :]
        finish(
            out + view * area * CHANNELS, rows[:, None] * width + columns[None, :], mask, r, g, b, record, area,
            scale0, scale1, scale2, shift0, shift1, shift2, CHANNELS, CHANNELS_LAST, UINT8,
        )  # fmt: skip
