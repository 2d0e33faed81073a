"""Augmentation of one view after another in eager PyTorch; the numbers are those of torchvision's v2 functions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..functional import AugmentParams

LUMA = (0.2989, 0.587, 0.114)


def augment(
    images: list[Tensor], params: AugmentParams, size: tuple[int, int], *, interpolation: str = "bilinear",
    blur_kernel: int | None = None, mean: tuple[float, ...], std: tuple[float, ...],
    rounding: str = "none", dtype: torch.dtype = torch.float32,
) -> list[Tensor]:  # fmt: skip
    """Views [n, C, h, w] of `dtype` for uint8 images [C, H, W]; see `fastssl.functional.augment`."""
    views = []
    for v in range(params.views):
        rows = [
            augment_one(image, params, i, v, size, interpolation, blur_kernel, rounding, dtype)
            for i, image in enumerate(images)
        ]
        x = torch.stack(rows)
        scale = torch.tensor(std, dtype=dtype)[:, None, None]
        views.append((x - torch.tensor(mean, dtype=dtype)[:, None, None]) / scale)
    return views


def augment_one(
    image: Tensor, params: AugmentParams, i: int, v: int, size: tuple[int, int], interpolation: str,
    blur_kernel: int | None, rounding: str, dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """One view [C, h, w] in [0, 1], not normalised."""
    top, left, height, width = params.crop[i, v].tolist()
    x = image[:, top : top + height, left : left + width]
    x = x if rounding == "uint8" else x.to(dtype) * torch.tensor(1 / 255, dtype=dtype)
    x = resize(x, size, interpolation)
    x = x.flip(-1) if params.hflip[i, v] else x
    x = x.flip(-2) if params.vflip[i, v] else x
    x = torch.rot90(x, int(params.turns[i, v]), (-2, -1))
    steps = (brightness, contrast, saturation, hue)
    factors = [float(f[i, v]) for f in (params.brightness, params.contrast, params.saturation, params.hue)]
    for which in params.order[i, v].tolist():
        if factors[which] != (0 if which == 3 else 1):
            x = steps[which](x, factors[which])
    if params.gray[i, v] and len(x) == 3:
        x = luma(x).to(x.dtype).expand(x.shape)
    sigma, threshold = float(params.sigma[i, v]), float(params.threshold[i, v])
    if sigma > 0:
        x = blur(x, sigma, blur_kernel)
    if threshold != float("inf"):
        bound = 255 if x.dtype == torch.uint8 else 1
        x = torch.where(x >= threshold * bound, bound - x, x)
    return x if x.is_floating_point() else x.to(dtype) * torch.tensor(1 / 255, dtype=dtype)


def resize(x: Tensor, size: tuple[int, int], interpolation: str) -> Tensor:
    """Antialiased resize of [C, H, W], around two faults of PyTorch 2.11 at views one pixel wide."""
    if x.shape[1:] == size:
        return x
    # uint8 images of three channels and one pixel stop it, so each channel is an image of its own. Images of one
    # column come out with the wrong rows, so that the pass down the columns is done on the transposed image.
    images = x[:, None]
    first = (x.shape[1], 1) if size[1] == 1 else size
    images = F.interpolate(images, first, mode=interpolation, antialias=True)
    if size[1] == 1:
        images = F.interpolate(images.transpose(2, 3), size[::-1], mode=interpolation, antialias=True).transpose(2, 3)
    out: Tensor = images[:, 0]
    return out


def luma(x: Tensor) -> Tensor:
    """Grey value [1, h, w] of RGB, in float."""
    if len(x) == 1:
        return x if x.is_floating_point() else x.float()
    r, g, b = x.unbind(0)
    return r.mul(LUMA[0]).add_(g, alpha=LUMA[1]).add_(b, alpha=LUMA[2])[None]


def _floored(x: Tensor, grey: Tensor) -> Tensor:
    return grey if x.is_floating_point() else grey.floor()


def _blend(x: Tensor, other: Tensor, factor: float) -> Tensor:
    bound = 1 if x.is_floating_point() else 255
    return x.mul(factor).add_(other, alpha=1 - factor).clamp_(0, bound).to(x.dtype)


def brightness(x: Tensor, factor: float) -> Tensor:
    """The product with the factor, clamped."""
    return x.mul(factor).clamp_(0, 1 if x.is_floating_point() else 255).to(x.dtype)


def contrast(x: Tensor, factor: float) -> Tensor:
    """Blend with the mean grey value of the view."""
    return _blend(x, _floored(x, luma(x)).mean(), factor)


def saturation(x: Tensor, factor: float) -> Tensor:
    """Blend with the grey value of the pixel."""
    return x if len(x) == 1 else _blend(x, _floored(x, luma(x)), factor)


def hue(x: Tensor, shift: float) -> Tensor:
    """Shift the hue in HSV."""
    if len(x) == 1:
        return x
    if x.dtype == torch.uint8:
        return _hue_rounded(x.float().mul_(1 / 255), shift).mul_(255.999).to(x.dtype)
    high, low = x.amax(0), x.amin(0)
    delta = high - low
    red, green, blue = x / torch.where(delta == 0, 1, delta)
    sector = torch.where(high == x[1], 2 + blue - red, 4 + red - green)
    sector = torch.where(high == x[0], green - blue, sector) + 6 * shift
    # A channel is high - delta * fall, fall going from 0 to 1 and back as the hue turns away from the channel's own:
    # no division by `high`, which overshoots of a bicubic resize can make 0 or less.
    fall = [torch.remainder(sector + n, 6) for n in (5, 3, 1)]
    fall = [torch.minimum(k, 4 - k).clamp(0, 1) for k in fall]
    return torch.stack([torch.where(f == 0, high, (high - delta * f).clamp(0, 1)) for f in fall])


def _hue_rounded(x: Tensor, shift: float) -> Tensor:
    """The same for values in [0, 1], with torchvision's sequence of roundings, on which truncated values depend."""
    high, low = x.amax(0), x.amin(0)
    delta = high - low
    saturation = delta / torch.where(delta == 0, 1, high)
    red, green, blue = (high - x) / torch.where(delta == 0, 1, delta)
    sector = torch.where(high == x[1], (red + 2) - blue, (green + 4) - red)
    sector = torch.where(high == x[0], blue - green, sector)
    turned = (sector.mul(1 / 6).add_(1).fmod_(1) + shift).remainder_(1).mul_(6)
    part = turned - turned.floor()
    product, rest = saturation * part, 1 - saturation
    falling, rising, least = ((share * high).clamp(0, 1) for share in (1 - product, product + rest, rest))
    wheel = torch.stack([high, falling, least, least, rising, high])  # red in sectors 0 to 5
    at = turned.floor().long() % 6
    return torch.stack([wheel.gather(0, ((at + turn) % 6)[None])[0] for turn in (0, 4, 2)])


def blur(x: Tensor, sigma: float, kernel: int | None) -> Tensor:
    """Gaussian blur with reflected edges; the taps beyond 5 sigma carry less than 6e-7 of the weight."""
    unit = x if x.is_floating_point() else x.float()
    radius = -(-5 * sigma // 1) if kernel is None else min(kernel // 2, -(-5 * sigma // 1))
    for axis in (1, 2):
        r = int(min(radius, x.shape[axis] - 1))
        at = torch.arange(-r, r + 1, dtype=unit.dtype)
        weight = torch.softmax(-(at**2) / (2 * sigma**2), 0)
        padded = F.pad(unit[None], (0, 0, r, r) if axis == 1 else (r, r, 0, 0), mode="reflect")[0]
        unit = torch.stack([w * padded.narrow(axis, j, x.shape[axis]) for j, w in enumerate(weight)]).sum(0)
    return unit if x.is_floating_point() else unit.round().to(x.dtype)
