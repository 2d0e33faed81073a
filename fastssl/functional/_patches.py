"""Images as patches: what the ops that read patches check alike."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import _checks
from .._normalization import MEAN, channel_statistics

PIXELS = (torch.uint8, torch.float64, torch.float32, torch.float16, torch.bfloat16)
PatchSize = int | Sequence[int]


def as_video(images: object) -> Tensor:
    """Check images [N, C, H, W] or [N, C, T, H, W], and return them as [N, C, T, H, W]."""
    video = _pixels(images, (4, 5), "[N, C, H, W] or [N, C, T, H, W]")
    return video.unsqueeze(2) if video.ndim == 4 else video


def as_images(images: object) -> Tensor:
    """Check images [N, C, H, W]."""
    return _pixels(images, (4,), "[N, C, H, W]")


def _pixels(images: object, axes: tuple[int, ...], shape: str) -> Tensor:
    if not isinstance(images, Tensor):
        raise TypeError(f"images: got {type(images).__name__}, want a tensor {shape}")
    if images.dtype not in PIXELS:
        raise TypeError(f"images: got dtype {images.dtype}, want uint8, float64, float32, float16 or bfloat16")
    if images.ndim not in axes or 0 in images.shape:
        raise ValueError(f"images: got shape {tuple(images.shape)}, want {shape}, none empty")
    if images.requires_grad and torch.is_grad_enabled():
        raise ValueError("images: got a tensor that requires grad, want images.detach(): images are data here")
    return images


def patch_sides(patch_size: object, video: Tensor) -> list[int]:
    """Check a patch size that divides the images [N, C, T, H, W], and return it as [t, p, q]."""
    sides = [patch_size, patch_size] if isinstance(patch_size, int) else patch_size
    if not isinstance(sides, (list, tuple)) or len(sides) not in (2, 3):
        raise ValueError(f"patch_size: got {patch_size!r}, want an int, (height, width) or (frames, height, width)")
    for side in sides:
        _checks.positive_int("patch_size", side)
    patch = [1, *sides] if len(sides) == 2 else list(sides)
    if any(size % side for size, side in zip(video.shape[2:], patch, strict=True)):
        raise ValueError(f"patch_size: got {tuple(patch)}, want a divisor of the images' {tuple(video.shape[2:])}")
    return patch


def tokens_of(video: Tensor, patch: Sequence[int]) -> int:
    """The number of patches of an image."""
    frames, rows, columns = (size // side for size, side in zip(video.shape[2:], patch, strict=True))
    return frames * rows * columns  # torch.compile does not trace math.prod of symbolic sizes


def scale_and_shift(
    video: Tensor, mean: Sequence[float] | None, std: Sequence[float] | None
) -> tuple[list[float], list[float]]:
    """Factors and summands a channel that normalise pixels; integers are scaled to [0, 1] first.

    Floats stay as they are unless there are statistics; integers have ImageNet's by default.
    """
    channels, integers = video.shape[1], video.dtype == torch.uint8
    if mean is None and std is None and not integers:
        return [1.0] * channels, [0.0] * channels
    for name, given in (("mean", mean), ("std", std)):
        if given is None and channels not in MEAN:
            raise ValueError(f"{name}: got None for images of {channels} channels, want {channels} numbers")
    means, stds = channel_statistics(channels, mean, std)
    return [1 / (255 * s if integers else s) for s in stds], [-m / s for m, s in zip(means, stds, strict=True)]


def patches_dtype(dtype: torch.dtype | None, images: Tensor) -> torch.dtype:
    """Check the type of the patches; by default autocast's where it is on, that of float images, or float32."""
    if dtype is None:
        device = images.device.type
        if torch.is_autocast_enabled(device) and images.dtype != torch.float64:
            return torch.get_autocast_dtype(device)
        return images.dtype if images.is_floating_point() else torch.float32
    if dtype not in PIXELS[1:]:
        raise ValueError(f"dtype: got {dtype}, want torch.float64, float32, float16 or bfloat16")
    return dtype
