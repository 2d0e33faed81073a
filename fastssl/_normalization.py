"""The statistics that images are normalised with, and images as an encoder takes them without augmentation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ._images import RaggedImages, as_batch

# ImageNet's statistics per channel, and their grey counterpart, for values in [0, 1].
MEAN = {3: (0.485, 0.456, 0.406), 1: (0.449,)}
STD = {3: (0.229, 0.224, 0.225), 1: (0.226,)}


def statistics(channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and standard deviation that images of 1 or 3 channels are normalised with."""
    return MEAN[channels], STD[channels]


def channel_statistics(
    channels: int, mean: Sequence[float] | None, std: Sequence[float] | None
) -> tuple[list[float], list[float]]:
    """Return the given statistics, checked, or ImageNet's.

    Raises:
        ValueError: not one number a channel, or a standard deviation that is not above 0.
    """
    means = list(MEAN[channels] if mean is None else mean)
    stds = list(STD[channels] if std is None else std)
    for name, values in (("mean", means), ("std", stds)):
        if len(values) != channels:
            raise ValueError(f"{name}: got {len(values)} numbers, want {channels}, one a channel")
    if not all(s > 0 for s in stds):
        raise ValueError(f"std: got {stds}, want numbers > 0")
    return [float(m) for m in means], [float(s) for s in stds]


def normalize(images: Tensor) -> Tensor:
    """Turn images into what an encoder takes, without augmentation.

    (x / 255 - mean) / std, with ImageNet's mean and std (0.485, 0.456, 0.406), (0.229, 0.224, 0.225) for RGB,
    and 0.449, 0.226 for grey. The views of every recipe are normalised in the same way.

    Args:
        images: uint8 [B, C, H, W] or [B, H, W, C], C 1 or 3.

    Returns:
        float32 [B, C, H, W].

    Raises:
        TypeError, ValueError: `images` is of another type or shape.
    """
    batch = as_batch(images)
    if isinstance(batch, RaggedImages):
        raise TypeError("images: got images of different sizes, want one uint8 tensor [B, C, H, W]")
    mean, std = (torch.tensor(s, device=batch.device)[:, None, None] for s in statistics(batch.shape[1]))
    return (batch.float() / 255 - mean) / std


def to_pixels(view: Tensor) -> Tensor:
    """Turn a normalised view float [B, C, H, W] back into a picture: float32 in [0, 1], the contrary of `normalize`."""
    mean, std = (torch.tensor(s, device=view.device)[:, None, None] for s in statistics(view.shape[1]))
    return (view.float() * std + mean).clamp(0, 1)
