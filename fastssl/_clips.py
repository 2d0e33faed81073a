"""The clips behind `fastssl.data.clips`: moving objects before a moving background, drawn in torch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ._shapes import SHAPE_NAMES, signed_distance

OBJECTS = 2


def draw(n: int, frames: int, size: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return clips uint8 ``[n, frames, 3, size, size]`` and masks uint8 ``[n, frames, size, size]``."""
    clips = torch.empty(n, frames, 3, size, size, dtype=torch.uint8)
    masks = torch.empty(n, frames, size, size, dtype=torch.uint8)
    for start in range(0, n, 128):  # chunks bound the memory of the float intermediates
        part = slice(start, start + 128)
        clips[part], masks[part] = _draw(len(clips[part]), frames, size, rng)
    return clips, masks


def _draw(n: int, frames: int, size: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(n, 1, *shape, generator=rng)

    axis = (torch.arange(size) + 0.5) / size * 2 - 1
    y, x = axis[:, None], axis[None, :]  # picture coordinates in [-1, 1]
    time = torch.arange(frames)[None, :, None, None].float()

    # The background stands in coordinates of its own, over which the camera moves and turns.
    angle = uniform(-0.03, 0.03, 1, 1) * time
    bx = x * angle.cos() + y * angle.sin() + uniform(-0.06, 0.06, 1, 1) * time
    by = y * angle.cos() - x * angle.sin() + uniform(-0.06, 0.06, 1, 1) * time
    angle = uniform(0, 2 * math.pi, 1, 1)
    ramp = ((bx * angle.cos() + by * angle.sin()) / 2.83 + 0.5)[:, :, None]
    first, second = uniform(0, 1, 3, 1, 1), uniform(0, 1, 3, 1, 1)
    picture = first + (second - first) * ramp
    for _ in range(4):
        cx, cy, r = uniform(-1.2, 1.2, 1, 1), uniform(-1.2, 1.2, 1, 1), uniform(0.15, 0.5, 1, 1)
        blob = (-((bx - cx) ** 2 + (by - cy) ** 2) / r**2).exp()[:, :, None]
        picture = picture + 0.7 * blob * (uniform(0, 1, 3, 1, 1) - picture)

    mask = torch.zeros(n, frames, size, size, dtype=torch.uint8)
    for index in range(1, OBJECTS + 1):
        scale = uniform(0.35, 0.55, 1, 1)
        cx, cy = ((1 - scale) * _bounce(uniform(-1, 1, 1, 1) + uniform(-0.2, 0.2, 1, 1) * time) for _ in range(2))
        angle = uniform(0, 2 * math.pi, 1, 1) + uniform(-0.15, 0.15, 1, 1) * time
        u = ((x - cx) * angle.cos() + (y - cy) * angle.sin()) / scale
        v = ((y - cy) * angle.cos() - (x - cx) * angle.sin()) / scale
        labels = torch.randint(len(SHAPE_NAMES), (n,), generator=rng)
        distance = signed_distance(labels, u, v) * scale * (size / 2)
        stripes = 0.5 + 0.5 * (uniform(4, 8, 1, 1) * u + uniform(0, 6.3, 1, 1)).sin()[:, :, None]
        light, dark = uniform(0, 1, 3, 1, 1), uniform(0, 1, 3, 1, 1)
        colour = light + (dark - light) * (4 * stripes - 1.5).clamp(0, 1)
        cover = (0.5 - distance).clamp(0, 1)[:, :, None]  # an edge one pixel wide
        picture = picture + cover * (colour - picture)
        mask[distance < 0] = index
    picture = picture + 0.02 * torch.randn(n, frames, 3, size, size, generator=rng)
    return (picture * 255).round().clamp(0, 255).to(torch.uint8), mask


def _bounce(x: Tensor) -> Tensor:
    """Fold a straight path into [-1, 1], at whose ends it turns round."""
    return 1 - (torch.remainder(x + 1, 4) - 2).abs()
