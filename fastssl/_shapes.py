"""The pictures behind the data set ``shapes``: one object each on a cluttered background, drawn in torch."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

SHAPE_NAMES = ("disc", "square", "triangle", "star", "plus", "ring", "crescent", "half", "bar", "corner")


def draw(labels: Tensor, size: int, rng: torch.Generator) -> Tensor:
    """One picture a label: uint8 ``[n, 3, size, size]``; everything but the shape is drawn independently of it."""
    n = len(labels)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(n, *shape, generator=rng)

    axis = (torch.arange(size) + 0.5) / size * 2 - 1
    y, x = axis[None, :, None], axis[None, None, :]  # picture coordinates in [-1, 1]

    # Background: a linear gradient between two colours, faint stripes, and blobs of other colours.
    angle = uniform(0, 2 * math.pi, 1, 1)
    ramp = ((x * angle.cos() + y * angle.sin()) / 2.83 + 0.5)[:, None]
    first, second = uniform(0, 1, 3, 1, 1), uniform(0, 1, 3, 1, 1)
    picture = first + (second - first) * ramp
    angle, frequency = uniform(0, math.pi, 1, 1), uniform(3, 12, 1, 1)
    stripes = ((x * angle.cos() + y * angle.sin()) * frequency + uniform(0, 6.3, 1, 1)).sin()[:, None]
    picture = picture + uniform(0, 0.05, 1, 1, 1) * stripes
    for _ in range(3):
        cx, cy, r = uniform(-1, 1, 1, 1), uniform(-1, 1, 1, 1), uniform(0.1, 0.4, 1, 1)
        blob = (-((x - cx) ** 2 + (y - cy) ** 2) / r**2).exp()[:, None]
        picture = picture + 0.25 * blob * (uniform(0, 1, 3, 1, 1) - picture)

    # The object, in its own rotated and scaled coordinates u, v, where it fills about the unit disc.
    scale = uniform(0.44, 0.68, 1, 1)
    cx, cy = ((1.05 - scale) * uniform(-1, 1, 1, 1) for _ in range(2))  # anywhere that keeps it in the picture
    angle = uniform(-0.5, 0.5, 1, 1)
    u = ((x - cx) * angle.cos() + (y - cy) * angle.sin()) / scale
    v = ((y - cy) * angle.cos() - (x - cx) * angle.sin()) / scale
    distance = signed_distance(labels, u, v)
    cover = (0.5 - distance * scale * (size / 2)).clamp(0, 1)[:, None]  # an edge one pixel wide

    # A colour far enough from the background behind the object for the object to be visible.
    behind = (picture * cover).sum((2, 3), keepdim=True) / cover.sum((2, 3), keepdim=True).clamp(min=1)
    colour = uniform(0, 1, 3, 1, 1)
    away = torch.where(behind.mean(1, keepdim=True) < 0.5, 1.0, 0.0)
    colour = torch.where((colour - behind).abs().amax(1, keepdim=True) < 0.4, 0.25 * colour + 0.75 * away, colour)
    picture = picture + cover * (colour - picture)
    picture = picture + 0.04 * torch.randn(n, 3, size, size, generator=rng)
    return (picture * 255).round().clamp(0, 255).to(torch.uint8)


def signed_distance(labels: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Return about the distance to the edge of each label's shape, negative inside, at coordinates ``[n, ...]``."""
    distance = torch.empty_like(u)
    for index, of_shape in enumerate(_SIGNED_DISTANCES):
        of_class = labels == index
        distance[of_class] = of_shape(u[of_class], v[of_class])
    return distance


def _box(u: Tensor, v: Tensor, half_u: float, half_v: float) -> Tensor:
    return torch.maximum(u.abs() - half_u, v.abs() - half_v)


def _regular(u: Tensor, v: Tensor, sides: int, apothem: float) -> Tensor:
    turn = 2 * math.pi / sides
    angle = torch.remainder(torch.atan2(v, u), turn) - turn / 2
    return torch.hypot(u, v) * angle.cos() - apothem


def _star(u: Tensor, v: Tensor) -> Tensor:
    # Five points: the radius falls linearly in angle from tip (1) to notch (0.42).
    turn = 2 * math.pi / 5
    towards_notch = (torch.remainder(torch.atan2(v, u), turn) - turn / 2).abs() / (turn / 2)
    return (torch.hypot(u, v) - (0.42 + 0.6 * (1 - towards_notch))) * 0.7


def _disc(u: Tensor, v: Tensor, radius: float = 0.9) -> Tensor:
    return torch.hypot(u, v) - radius


# In the order of SHAPE_NAMES: negative inside, positive outside, about the distance to the edge.
_SIGNED_DISTANCES: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    _disc,
    lambda u, v: _box(u, v, 0.75, 0.75),
    lambda u, v: _regular(u, v, 3, 0.5),
    _star,
    lambda u, v: torch.minimum(_box(u, v, 0.95, 0.28), _box(u, v, 0.28, 0.95)),
    lambda u, v: (torch.hypot(u, v) - 0.72).abs() - 0.2,
    lambda u, v: torch.maximum(_disc(u, v), -_disc(u - 0.5, v, 0.75)),
    lambda u, v: torch.maximum(_disc(u, v + 0.35, 1.0), -(v + 0.35)),
    lambda u, v: _box(u, v, 0.98, 0.28),
    lambda u, v: torch.minimum(_box(u + 0.55, v, 0.25, 0.85), _box(u, v + 0.6, 0.8, 0.25)),
)
