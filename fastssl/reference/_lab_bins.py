"""Colours as CIE Lab, and softly as bins, in eager PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor


def rgb_to_lab(images: Tensor) -> Tensor:
    """CIE Lab of sRGB images [N, 3, H, W] in [0, 1], under D65 and for 2 degrees."""
    linear = torch.where(images <= 0.04045, images / 12.92, ((images + 0.055) / 1.055) ** 2.4)
    to_xyz = images.new_tensor([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169],
                                [0.019334, 0.119193, 0.950227]])  # fmt: skip
    white = images.new_tensor([0.95047, 1.0, 1.08883])
    t = torch.einsum("ij,njhw->nihw", to_xyz, linear) / white[:, None, None]
    x, y, z = torch.where(t > 0.008856, t.clamp_min(0.008856) ** (1 / 3), 7.787 * t + 16 / 116).unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


def lab_bins(
    images: Tensor, bins: Tensor, neighbors: int = 10, sigma: float = 5.0, stride: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """Lab of float images [N, 3, H, W], the nearest bins [Q, 2] of every stride-th (a, b), and their weights."""
    lab = rgb_to_lab(images)
    points = lab[:, 1:, ::stride, ::stride].movedim(1, -1)
    square = (points[..., None, :] - bins.to(lab)).square().sum(-1)
    square, index = square.sort(dim=-1, stable=True)
    square, index = (x[..., :neighbors].movedim(-1, 1) for x in (square, index))
    return lab, index.int(), torch.softmax(-square / (2 * sigma**2), 1)
