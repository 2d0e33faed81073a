"""Augmentation in torch ops, for any device; the maths is that of csrc/common/resize.h and color.h.

A chunk of views is made at a time, whatever the batch, so that memory stays bounded. On the CPU a step runs on the
samples that take it. On other devices it runs on all of them and the result is selected, for asking which samples take
it would wait for the device; only images of different sizes cost one wait, for the largest height and width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

CHUNK_BYTES = 64 * 2**20
LUMA = (0.2989, 0.587, 0.114)


def augment_fwd(
    pixels: Tensor, extents: Tensor | None, params: Tensor, heights: list[int], widths: list[int], counts: list[int],
    bicubic: bool, blur_kernel: int, mean: list[float], std: list[float], dtype: torch.dtype, channels_last: bool,
    uint8: bool,
) -> list[Tensor]:  # fmt: skip
    """Views [count, n, C, h, w] of each group; the arguments are those of the op, params int32 [n, V, 12]."""
    n, channels = len(params), len(mean)
    images = _images(pixels, extents, channels)
    shift, scale = (torch.tensor(c, device=pixels.device)[:, None, None] for c in (mean, std))
    views, first = [], 0
    for h, w, count in zip(heights, widths, counts, strict=True):
        # In the order of the output: views, then samples.
        records = params[:, first : first + count].transpose(0, 1).reshape(count * n, -1)
        first += count
        bounds = _bounds(images, records)
        samples = torch.arange(n, device=params.device).repeat(count)
        shape = (count * n, h, w, channels) if channels_last else (count * n, channels, h, w)
        out = params.new_empty(shape, dtype=dtype)
        planes = out.permute(0, 3, 1, 2) if channels_last else out
        # A row of the horizontal pass has, for each element, an int64 index and three floats.
        chunk = max(1, CHUNK_BYTES // (20 * channels * max(bounds[0], h) * w))
        for at in range(0, count * n, chunk):
            part = slice(at, at + chunk)
            x = _view(images, samples[part], records[part], (h, w), bounds, bicubic, blur_kernel, uint8)
            planes[part] = (x * (1 / 255 if uint8 else 1) - shift) / scale
        views.append(planes.unflatten(0, (count, n)))
    return views


class _Images(NamedTuple):
    """Pixel (c, y, x) of image b is flat[base[b] + y * row[b] + x * column + c * channel].

    `largest` is the largest height and width, where it is known without asking the device.
    """

    flat: Tensor
    base: Tensor
    row: Tensor
    height: Tensor
    width: Tensor
    column: int
    channel: int
    channels: int
    largest: tuple[int, int] | None


def _images(pixels: Tensor, extents: Tensor | None, channels: int) -> _Images:
    if extents is not None:
        offset, height, width = extents.unbind(1)
        return _Images(pixels, offset, width * channels, height, width, channels, 1, channels, None)
    n, _, height, width = pixels.shape
    span = 1 + sum((size - 1) * stride for size, stride in zip(pixels.shape, pixels.stride(), strict=True))
    image, channel, row, column = pixels.stride()
    index = torch.arange(n, device=pixels.device)
    sides = (torch.full_like(index, side) for side in (row, height, width))
    return _Images(pixels.as_strided((span,), (1,)), index * image, *sides, column, channel, channels, (height, width))


def _bounds(images: _Images, records: Tensor) -> tuple[int, int]:
    """A height and width that no crop exceeds."""
    if records.device.type == "cpu":
        height, width = records[:, 2:4].amax(0).tolist()
    elif images.largest is not None:
        height, width = images.largest
    else:
        height, width = torch.stack([images.height, images.width]).amax(1).tolist()
    return height, width


def _view(
    images: _Images, samples: Tensor, records: Tensor, size: tuple[int, int], bounds: tuple[int, int], bicubic: bool,
    blur_kernel: int, uint8: bool,
) -> Tensor:  # fmt: skip
    """Views [m, C, h, w], in [0, 1] or integers in [0, 255]."""
    flags, floats = records.view(torch.uint8)[:, 16:24], records.view(torch.float32)[:, 6:]
    hflip, vflip, turns, gray, *order = flags.unbind(1)
    *factors, sigma, threshold = (f[:, None, None, None] for f in floats.unbind(1))
    x = _resize(images, samples, records[:, :4].long(), size, bounds, bicubic, uint8)
    half = turns // 2 % 2  # two turns are both mirror images, and commute with one
    x = _apply(x, (hflip != 0) ^ (half != 0), lambda x: x.flip(3))
    x = _apply(x, (vflip != 0) ^ (half != 0), lambda x: x.flip(2))
    if size[0] == size[1]:
        x = _apply(x, turns % 2 != 0, lambda x: x.rot90(1, (2, 3)))
    colour = x.shape[1] == 3
    steps = (brightness, contrast, saturation, hue) if colour else (brightness, contrast)
    for place in order:
        for which, (step, factor) in enumerate(zip(steps, factors, strict=False)):
            takes = (place == which) & (factor != (0 if step is hue else 1)).flatten()
            x = _apply(x, takes, lambda x, factor, step=step: step(x, factor, uint8), factor)
    if colour:
        x = _apply(x, gray != 0, lambda x: gray_value(x, uint8).expand(x.shape))
    x = _apply(x, sigma.flatten() > 0, lambda x, sigma: blur(x, sigma.flatten(), blur_kernel, uint8), sigma)
    return _apply(x, threshold.flatten() < torch.inf, lambda x, limit: solarize(x, limit, uint8), threshold)


def _apply(x: Tensor, takes: Tensor, step: Callable[..., Tensor], *arguments: Tensor) -> Tensor:
    """Do a step on the samples that take it; `arguments` have one row a sample."""
    if x.device.type != "cpu":
        return torch.where(takes[:, None, None, None], step(x, *arguments), x)
    index = takes.nonzero()[:, 0]
    if len(index) == len(x):
        return step(x, *arguments)
    return x.index_copy(0, index, step(x[index], *(a[index] for a in arguments))) if len(index) else x


def _resize(
    images: _Images, samples: Tensor, crop: Tensor, size: tuple[int, int], bounds: tuple[int, int], bicubic: bool,
    uint8: bool,
) -> Tensor:  # fmt: skip
    """The crops [m, 4], clamped to their images and resized with antialias: float32 [m, C, h, w]."""
    image_height, image_width = images.height[samples], images.width[samples]
    height, width = (
        torch.minimum(side.clamp(min=1), limit)
        for side, limit in ((crop[:, 2], image_height), (crop[:, 3], image_width))
    )
    top = torch.minimum(crop[:, 0].clamp(min=0), image_height - height)
    left = torch.minimum(crop[:, 1].clamp(min=0), image_width - width)
    device = samples.device

    y = top[:, None] + torch.arange(bounds[0], device=device).minimum((height - 1)[:, None])
    rows = images.base[samples, None] + y * images.row[samples, None]
    planes = rows[:, :, None] + images.channel * torch.arange(images.channels, device=device)  # [m, rows, C]

    def columns(at: Tensor) -> Tensor:
        return images.flat[planes[..., None] + (images.column * (left[:, None] + at))[:, None, None, :]]

    wide = _weighted(columns, width, size[1], bounds[1], bicubic, uint8, (1, 2))  # [m, rows, C, w]
    lines = wide.flatten(0, 1)
    start = (torch.arange(len(samples), device=device) * bounds[0])[:, None]
    x = _weighted(lambda at: lines[start + at], height, size[0], bounds[0], bicubic, uint8, (2, 3))
    x = x.transpose(1, 2).float()
    return x if uint8 else x * (1 / 255)


def _weighted(
    samples: Callable[[Tensor], Tensor], length: Tensor, out: int, bound: int, bicubic: bool, uint8: bool,
    spread: tuple[int, int],
) -> Tensor:  # fmt: skip
    """One axis of the resize, from `length` [m] samples to `out`; samples(at) gives those at `at` [m, out].

    Float weights, or for uint8 images integers over 2^bits and a sum rounded to uint8, as PyTorch has them.
    `spread` are the dimensions to be put into weights [m, out] to multiply the samples.
    """
    first, weights = resize_weights(length, out, bound, bicubic, torch.float64 if uint8 else torch.float32)
    if uint8:
        largest = weights.flatten(1).amax(1)[:, None]
        power = 2.0 ** torch.arange(1, 23, device=length.device, dtype=torch.float64)
        bits = ((0.5 + largest * power).floor() < 2**15).sum(1)[:, None, None]
        weights = (weights * (1 << bits) + torch.where(weights < 0, -0.5, 0.5)).int()
    total: Tensor | None = None
    for tap in range(weights.shape[2]):
        weight = weights[..., tap]
        for dim in spread:
            weight = weight.unsqueeze(dim)
        value = samples((first + tap).minimum((length - 1)[:, None]))
        total = value * weight if total is None else total.addcmul_(value.to(weight.dtype), weight)
    assert total is not None
    if not uint8:
        return total
    bits = bits[..., None].int()
    return (total.add_(1 << (bits - 1)) >> bits).clamp_(0, 255)


def resize_weights(length: Tensor, out: int, bound: int, bicubic: bool, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """First sample of each output, int64 [m, out], and the weights of the samples from there on, [m, out, taps].

    `bound` is a length that none exceeds: it gives the number of taps.
    """
    reach = 2 if bicubic else 1
    taps = min(2 * (int(reach * max(bound / out, 1)) + 1) + 1, bound)
    scale = length.to(dtype)[:, None] / out
    stretch = scale.clamp(min=1)
    center = scale * (torch.arange(out, device=length.device, dtype=dtype) + 0.5)
    first = (center - reach * stretch + 0.5).long().clamp(min=0)
    end = (center + reach * stretch + 0.5).long().minimum(length[:, None])
    at = first[..., None] + torch.arange(taps, device=length.device)
    x = ((at - center[..., None] + 0.5) * (1 / stretch)[..., None]).abs()
    if bicubic:  # Keys, a = -0.5
        near, far = (1.5 * x - 2.5) * x * x + 1, -0.5 * (((x - 5) * x + 8) * x - 4)
        weights = torch.where(x < 1, near, torch.where(x < 2, far, 0))
    else:
        weights = (1 - x).clamp(min=0)
    weights = weights * (at < end[..., None])
    # Added in this order, which decides a rounding in a million.
    return first, weights / sum(weights.unbind(2)).unsqueeze(2)


def gray_value(x: Tensor, uint8: bool) -> Tensor:
    """Grey value [m, 1, h, w]; a grey image is its own."""
    if x.shape[1] == 1:
        return x
    r, g, b = x.split(1, 1)
    value = r.mul(LUMA[0]).add_(g, alpha=LUMA[1]).add_(b, alpha=LUMA[2])
    return value.floor_() if uint8 else value


def _settle(x: Tensor, uint8: bool) -> Tensor:
    return x.clamp_(0, 255).floor_() if uint8 else x.clamp_(0, 1)


def _blend(x: Tensor, other: Tensor, factor: Tensor, uint8: bool) -> Tensor:
    rest = (1 - factor.double()).float()
    if uint8:
        # torchvision adds the second product with one rounding, on which truncated values depend.
        return _settle(((x * factor).double() + other.double() * rest.double()).float(), uint8)
    return _settle((x * factor).add_(other * rest), uint8)


def brightness(x: Tensor, factor: Tensor, uint8: bool) -> Tensor:
    """The product with the factor."""
    return _settle(x * factor, uint8)


def contrast(x: Tensor, factor: Tensor, uint8: bool) -> Tensor:
    """Blend with the mean grey value of the view."""
    return _blend(x, gray_value(x, uint8).mean((1, 2, 3), keepdim=True), factor, uint8)


def saturation(x: Tensor, factor: Tensor, uint8: bool) -> Tensor:
    """Blend with the grey value of the pixel."""
    return _blend(x, gray_value(x, uint8), factor, uint8)


def hue(x: Tensor, shift: Tensor, uint8: bool) -> Tensor:
    """Shift the hue in HSV."""
    shift = shift[:, 0]
    if uint8:
        return _hue_rounded(x * (1 / 255), shift).mul_(255.999).floor_()
    high, low = x.amax(1), x.amin(1)
    delta = high - low
    red, green, blue = (x / torch.where(delta == 0, 1, delta)[:, None]).unbind(1)
    sector = torch.where(high == x[:, 1], 2 + blue - red, 4 + red - green)
    sector = torch.where(high == x[:, 0], green - blue, sector) + 6 * shift
    # A channel is high - delta * fall, fall going from 0 to 1 and back as the hue turns away from the channel's own.
    fall = [torch.remainder(sector + n, 6) for n in (5, 3, 1)]
    fall = [torch.minimum(k, 4 - k).clamp_(0, 1) for k in fall]
    return torch.stack([torch.where(f == 0, high, (high - delta * f).clamp_(0, 1)) for f in fall], 1)


def _hue_rounded(x: Tensor, shift: Tensor) -> Tensor:
    """The same for values in [0, 1], with torchvision's sequence of roundings, on which truncated values depend."""
    high, low = x.amax(1), x.amin(1)
    delta = high - low
    saturation = delta / torch.where(delta == 0, 1, high)
    red, green, blue = ((high[:, None] - x) / torch.where(delta == 0, 1, delta)[:, None]).unbind(1)
    sector = torch.where(high == x[:, 1], (red + 2) - blue, (green + 4) - red)
    sector = torch.where(high == x[:, 0], blue - green, sector)
    turned = (sector.mul_(1 / 6).add_(1).fmod_(1) + shift).remainder_(1).mul_(6)
    part = turned - turned.floor()
    product, rest = saturation * part, 1 - saturation
    falling, rising, least = ((share * high).clamp_(0, 1) for share in (1 - product, product + rest, rest))
    wheel = torch.stack([high, falling, least, least, rising, high], 1)  # red in sectors 0 to 5
    at = turned.floor().long() % 6
    return torch.cat([wheel.gather(1, ((at + turn) % 6)[:, None]) for turn in (0, 4, 2)], 1)


def blur(x: Tensor, sigma: Tensor, kernel: int, uint8: bool) -> Tensor:
    """Gaussian blur as two products with banded matrices: float64, for matmul may round float32 to less than that."""
    rows, columns = (blur_weights(sigma, side, kernel)[:, None] for side in x.shape[2:])
    x = (rows @ x.double() @ columns.mT).float()
    return x.round_() if uint8 else x


def blur_weights(sigma: Tensor, side: int, kernel: int) -> Tensor:
    """Float64 [m, side, side], the image reflected at its edges."""
    sigma = sigma.double()[:, None]
    reach = min(kernel // 2, side - 1) if kernel else side - 1
    radius = (5 * sigma).ceil().clamp(max=reach)
    if sigma.device.type == "cpu":
        reach = int(radius.max())
    taps = torch.arange(-reach, reach + 1, device=sigma.device)
    weights = torch.exp(-(taps**2) / (2 * sigma**2)) * (taps.abs() <= radius)
    weights = weights / weights.sum(1, keepdim=True)
    at = (torch.arange(side, device=sigma.device)[:, None] + taps).abs()
    at = torch.where(at >= side, 2 * (side - 1) - at, at)
    shape = (len(sigma), *at.shape)
    matrix = weights.new_zeros(len(sigma), side, side)
    return matrix.scatter_add_(2, at.expand(shape), weights[:, None].expand(shape))


def solarize(x: Tensor, threshold: Tensor, uint8: bool) -> Tensor:
    """Invert the values from the threshold on."""
    bound = 255 if uint8 else 1
    return torch.where(x >= threshold * bound, bound - x, x)
