"""Colours as Lab and as bins in torch ops, a chunk of images at a time, for any device and float type."""

from __future__ import annotations

import torch
from torch import Tensor

from .tokens import chunks

# sRGB's linear values to CIE XYZ: rows give X, Y and Z, each relative to white: D65, 2 degrees.
TO_XYZ = (
    (0.412453 / 0.95047, 0.357580 / 0.95047, 0.180423 / 0.95047),
    (0.212671, 0.715160, 0.072169),
    (0.019334 / 1.08883, 0.119193 / 1.08883, 0.950227 / 1.08883),
)
SLOT_BITS = 4  # of the square of a distance, which do not count


def lab_bins_fwd(
    images: Tensor, bins: Tensor, neighbors: int, sigma: float, stride: int, scale: list[float], shift: list[float]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return Lab [N, 3, H, W], the nearest bins [N, K, h, w] at every stride-th pixel, and their weights."""
    n, _, height, width = images.shape
    lab = torch.empty(images.shape, dtype=torch.float32, device=images.device)
    shape = (n, neighbors, -(-height // stride), -(-width // stride))
    index = torch.empty(shape, dtype=torch.int32, device=images.device)
    weight = torch.empty(shape, dtype=torch.float32, device=images.device)
    for part in chunks(n, height * width):
        lab[part] = _lab(images[part], scale, shift)
    # A row of pixels is as good a chunk as an image, and smaller.
    for i in range(n):
        for part in chunks(shape[2], 4 * shape[3] * len(bins)):
            points = lab[i, 1:, ::stride, ::stride][:, part]
            index[i, :, part], weight[i, :, part] = _nearest(points, bins, neighbors, sigma)
    return lab, index, weight


def _lab(images: Tensor, scale: list[float], shift: list[float]) -> Tensor:
    linear = []
    for x, factor, offset in zip(images.float().unbind(1), scale, shift, strict=True):
        x = x * factor + offset
        linear.append(torch.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4))
    x, y, z = (_root(sum(part * factor for part, factor in zip(linear, row, strict=True))) for row in TO_XYZ)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


def _root(t: Tensor) -> Tensor:
    return torch.where(t > 0.008856, t ** (1 / 3), 7.787 * t + 16 / 116)


def _nearest(points: Tensor, bins: Tensor, neighbors: int, sigma: float) -> tuple[Tensor, Tensor]:
    """The nearest bins of points [2, h, w], and their weights: [K, h, w] both."""
    a, b = bins[:, :, None, None].unbind(1)
    square = (points[0] - a).square() + (points[1] - b).square()
    leading = square.nan_to_num(nan=torch.inf, posinf=torch.inf).view(torch.int32) >> SLOT_BITS
    number = torch.arange(len(bins), device=bins.device)[:, None, None]
    # In one integer, as the order of equal values is not topk's to keep.
    key = (leading.long() << 32 | number).topk(neighbors, 0, largest=False).values
    index = key & 0xFFFFFFFF
    square = square.gather(0, index)
    return index.int(), torch.softmax((square[:1] - square) * min(0.5 / sigma / sigma, 1e30), 0)
