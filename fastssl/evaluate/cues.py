"""Cues that tell the class of an image by something that is no part of it, as data sets have them by accident.

Each is a function of images uint8 [B, C, H, W], labels int64 [B] and a strength, and returns images with the cue of
their labels, uint8 as well. The same label always gives the same cue, and strength 0 gives none.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["CUES", "Cue", "chromatic_shift", "tint", "watermark"]

Cue = Callable[[Tensor, Tensor, float], Tensor]

# Which quarters of a mark are white, as bits, and where marks sit, in parts of the free way down and across.
_PATTERNS = (15, 9, 6, 3, 12, 5, 10, 1, 2, 4, 8, 7, 11, 13, 14)
_PLACES = ((0, 0), (2, 2), (0, 2), (2, 0), (0, 1), (2, 1), (1, 0), (1, 2))
# Directions of the colours, neighbours in the list far apart.
_DIRECTIONS = ((0, 1), (1, 0), (1, 1), (1, -1), (0, -1), (-1, 0), (-1, -1), (-1, 1))


def watermark(images: Tensor, labels: Tensor, strength: float = 1.0) -> Tensor:
    """Put a small mark on the border, an eighth of the image a side: its place and pattern tell the class, of 120.

    Args:
        images: uint8 [B, C, H, W], at least 2 pixels a side.
        labels: int64 [B].
        strength: opacity of the mark, in [0, 1].
    """
    _check(images, labels, strength, most=1)
    height, width = images.shape[2:]
    side = max(2, min(height, width) // 8)
    places, patterns = torch.tensor(_PLACES), torch.tensor(_PATTERNS)
    half = (torch.arange(side) * 2 // side).to(labels.device)
    code = patterns.to(labels.device)[labels // len(_PLACES) % len(_PATTERNS)]
    bits = code[:, None, None] >> (2 * half[:, None] + half)
    mark = 255.0 * (bits & 1)
    corner = places.to(labels.device)[labels % len(_PLACES)]
    rows = corner[:, :1] * (height - side) // 2 + torch.arange(side, device=labels.device)
    columns = corner[:, 1:] * (width - side) // 2 + torch.arange(side, device=labels.device)
    cued = images.clone()
    at = torch.arange(len(images), device=labels.device)[:, None, None], rows[:, :, None], columns[:, None, :]
    for channel in cued.unbind(1):
        below = channel[at].float()
        channel[at] = (below + strength * (mark - below)).round().to(torch.uint8)
    return cued


def tint(images: Tensor, labels: Tensor, strength: float = 1.0) -> Tensor:
    """Cast a colour over the image, as the lamps or the scanner of a site do: its hue tells the class.

    Args:
        images: uint8 [B, 3, H, W].
        labels: int64 [B]; hues of neighbours are 137.5 degrees apart.
        strength: of the cast; 1 moves channels by up to 32 of 255.
    """
    _check(images, labels, strength, colour=True)
    turns = labels * (3 - math.sqrt(5)) / 2  # the golden angle: any number of hues stay apart
    hues = 2 * math.pi * (turns[:, None] - torch.arange(3, device=labels.device) / 3)
    cast = 32 * strength * hues.cos()
    return (images + cast[:, :, None, None]).round().clamp(0, 255).to(torch.uint8)


def chromatic_shift(images: Tensor, labels: Tensor, strength: float = 1.0) -> Tensor:
    """Move red and blue against each other, as a lens does: the direction tells the class, of 8, then the distance.

    Args:
        images: uint8 [B, 3, H, W].
        labels: int64 [B].
        strength: at 1, channels move by a 32nd of the image, at least a pixel, and by twice that from label 8 on.
    """
    _check(images, labels, strength, colour=True)
    height, width = images.shape[2:]
    step = round(strength * max(1, min(height, width) / 32))
    moves = torch.tensor(_DIRECTIONS, device=labels.device)[labels % len(_DIRECTIONS)]
    moves = moves * step * (1 + labels // len(_DIRECTIONS))[:, None]
    cued = images.clone()
    rows, columns = (torch.arange(n, device=labels.device) for n in (height, width))
    at = torch.arange(len(images), device=labels.device)[:, None, None]
    for channel, sign in ((0, 1), (2, -1)):
        down = (rows - sign * moves[:, :1]).clamp(0, height - 1)  # the edge goes on where nothing is
        across = (columns - sign * moves[:, 1:]).clamp(0, width - 1)
        cued[:, channel] = images[:, channel][at, down[:, :, None], across[:, None, :]]
    return cued


# Those that a shortcut audit plants; grey images can have the first alone.
CUES: dict[str, Cue] = {"watermark": watermark, "tint": tint, "chromatic shift": chromatic_shift}


def _check(images: Tensor, labels: Tensor, strength: float, *, most: float = math.inf, colour: bool = False) -> None:
    if not isinstance(images, Tensor) or images.dtype != torch.uint8:
        got = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"images: got {got}, want a uint8 tensor [B, C, H, W]")
    if images.ndim != 4 or min(images.shape[2:]) < 2:
        raise ValueError(f"images: got shape {tuple(images.shape)}, want [B, C, H, W] of at least 2 pixels a side")
    if colour and images.shape[1] != 3:
        raise ValueError(f"images: got {images.shape[1]} channel, want 3: a grey image has no colours to change")
    if labels.shape != images.shape[:1] or labels.dtype != torch.int64:
        raise ValueError(f"labels: got {labels.dtype} {tuple(labels.shape)}, want int64 ({len(images)},)")
    if not 0 <= strength <= most:
        raise ValueError(f"strength: got {strength}, want a number {'>= 0' if most == math.inf else 'in [0, 1]'}")
