"""The steps of a recipe on a batch, each with parameters of its own for every sample.

The reference for every step is torchvision's v2 transform on float tensors in [0, 1]. Parameters arrive as CPU
tensors, so which samples a step touches is known without asking the device.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LUMA = (0.2989, 0.587, 0.114)


def random_crops(
    n: int, height: int, width: int, scale: tuple[float, float], rng: torch.Generator | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw (top, left, height, width), each int64 [n], as torchvision's RandomResizedCrop does.

    Ten tries a sample at an area in `scale` of the image and an aspect ratio log-uniform in [3/4, 4/3]; where
    none fits, the largest central crop within those ratios.
    """
    ratio = (3 / 4, 4 / 3)
    area = height * width * (scale[0] + (scale[1] - scale[0]) * torch.rand(n, 10, generator=rng))
    log_ratio = math.log(ratio[0]) + math.log(ratio[1] / ratio[0]) * torch.rand(n, 10, generator=rng)
    w = (area * log_ratio.exp()).sqrt().round().long()
    h = (area / log_ratio.exp()).sqrt().round().long()
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    first = fits.int().argmax(1, keepdim=True)
    w, h, fits = (t.gather(1, first)[:, 0] for t in (w, h, fits))
    fallback = (
        min(height, round(width / ratio[0])),
        min(width, round(height * ratio[1])),
    )
    h, w = h.where(fits, torch.tensor(fallback[0])), w.where(fits, torch.tensor(fallback[1]))
    u, v = torch.rand(2, n, generator=rng)
    top = torch.where(fits, (u * (height - h + 1)).long(), (height - h) // 2)
    left = torch.where(fits, (v * (width - w + 1)).long(), (width - w) // 2)
    return top, left, h, w


def resize_weights(start: Tensor, length: Tensor, source: int, size: int) -> Tensor:
    """Antialiased bilinear weights [n, size, source] that resize [start, start + length) to `size` samples."""
    ratio = (length.float() / size)[:, None, None]
    at = torch.arange(source, device=start.device)[None, None] + 0.5
    centre = (torch.arange(size, device=start.device)[None, :, None] + 0.5) * ratio + start[:, None, None]
    weight = (1 - (at - centre).abs() / ratio.clamp(min=1)).clamp(min=0)
    inside = (at > start[:, None, None]) & (at < (start + length)[:, None, None])
    weight = weight * inside
    return weight / weight.sum(2, keepdim=True)


def crop_resize_flip(
    x: Tensor, top: Tensor, left: Tensor, height: Tensor, width: Tensor, flip: Tensor, size: int
) -> Tensor:
    """Crop, resize to size x size and mirror, as two small matrix products a sample; x float32 [n, C, H, W]."""
    device, (n, channels, h, w) = x.device, x.shape
    rows = resize_weights(top, height, h, size)
    columns = resize_weights(left, width, w, size)
    columns = torch.where(flip[:, None, None], columns.flip(1), columns)
    rows, columns = rows.to(device), columns.to(device)
    wide = torch.bmm(x.reshape(n, channels * h, w), columns.transpose(1, 2))
    return torch.matmul(rows[:, None], wide.reshape(n, channels, h, size))


def rotate(x: Tensor, degrees: Tensor) -> Tensor:
    """Rotate about the centre by `degrees` [n], bilinear, the edge pixels continued outwards."""
    angle = torch.deg2rad(degrees)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    theta = torch.stack([torch.stack([cos, -sin, zero], 1), torch.stack([sin, cos, zero], 1)], 1)
    grid = torch.nn.functional.affine_grid(theta.to(x.device), list(x.shape), align_corners=False)
    return torch.nn.functional.grid_sample(x, grid, padding_mode="border", align_corners=False)


def luma(x: Tensor) -> Tensor:
    """Grey value [n, 1, H, W] of x [n, C, H, W]."""
    if x.shape[1] == 1:
        return x
    return (x * torch.tensor(LUMA, device=x.device)[:, None, None]).sum(1, keepdim=True)


def brightness(x: Tensor, factor: Tensor) -> Tensor:
    """X factor, clamped to [0, 1]."""
    return (x * factor).clamp(0, 1)


def contrast(x: Tensor, factor: Tensor) -> Tensor:
    """Blend with the mean grey value of the sample, clamped to [0, 1]."""
    mean = luma(x).mean((2, 3), keepdim=True)
    return (mean + factor * (x - mean)).clamp(0, 1)


def saturation(x: Tensor, factor: Tensor) -> Tensor:
    """Blend with the grey value of the pixel, clamped to [0, 1]."""
    grey = luma(x)
    return (grey + factor * (x - grey)).clamp(0, 1)


def hue(x: Tensor, shift: Tensor) -> Tensor:
    """Shift the hue in HSV by `shift` turns; a grey image stays as it is."""
    if x.shape[1] == 1:
        return x
    red, green, blue = x.unbind(1)
    high, low = x.amax(1), x.amin(1)
    delta = high - low
    safe = torch.where(delta == 0, 1.0, delta)
    sector = torch.where(
        high == red,
        (green - blue) / safe,
        torch.where(high == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    turned = (sector / 6 + shift[:, 0]) * 6

    def channel(offset: int) -> Tensor:
        # HSV to RGB without branches: the channel is high - delta * clamp(min(k, 4 - k), 0, 1).
        k = torch.remainder(turned + offset, 6)
        return high - delta * torch.minimum(k, 4 - k).clamp(0, 1)

    return torch.stack([channel(5), channel(3), channel(1)], 1)


def blur(x: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """Gaussian blur with `sigma` [n] pixels over 2 radius + 1 taps, the image reflected at its edges."""
    size = x.shape[-1]
    taps = torch.arange(-radius, radius + 1, device=sigma.device)
    weight = torch.softmax(-(taps**2) / (2 * sigma[:, None] ** 2), 1)
    at = (torch.arange(size, device=sigma.device)[:, None] + taps).abs()
    at = torch.where(at >= size, 2 * (size - 1) - at, at)
    matrix = torch.zeros(len(x), size, size, device=sigma.device)
    matrix.scatter_add_(2, at.expand(len(x), -1, -1), weight[:, None].expand(-1, size, -1))
    matrix = matrix.to(x.device)[:, None]
    return matrix @ x @ matrix.transpose(2, 3)
