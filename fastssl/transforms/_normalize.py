from __future__ import annotations

import torch

# ImageNet's statistics per channel, and their grey counterpart, for values in [0, 1].
MEAN = {3: (0.485, 0.456, 0.406), 1: (0.449,)}
STD = {3: (0.229, 0.224, 0.225), 1: (0.226,)}


def statistics(channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and standard deviation that images of 1 or 3 channels are normalised with."""
    return MEAN[channels], STD[channels]


def check_images(images: object) -> torch.Tensor:
    """Check a batch of uint8 images [B, C, H, W] with C 1 or 3 and B, H, W at least 1."""
    if not isinstance(images, torch.Tensor):
        raise TypeError(f"images: got {type(images).__name__}, want a uint8 tensor [B, C, H, W]")
    if images.dtype != torch.uint8:
        raise TypeError(f"images: got dtype {images.dtype}, want uint8")
    if images.ndim != 4 or images.shape[1] not in MEAN or 0 in images.shape:
        raise ValueError(f"images: got shape {tuple(images.shape)}, want [B, C, H, W] with C 1 or 3, none empty")
    return images


def standardize(x: torch.Tensor) -> torch.Tensor:
    """Subtract the mean and divide by the standard deviation of each channel; x [B, C, H, W] in [0, 1]."""
    channels = x.shape[1]
    mean = torch.tensor(MEAN[channels], device=x.device)[:, None, None]
    std = torch.tensor(STD[channels], device=x.device)[:, None, None]
    return (x - mean) / std


def normalize(images: torch.Tensor) -> torch.Tensor:
    """Turn images into what an encoder takes, without augmentation.

    (x / 255 - mean) / std, with ImageNet's mean and std (0.485, 0.456, 0.406), (0.229, 0.224, 0.225) for RGB,
    and 0.449, 0.226 for grey. The views of every recipe are normalised in the same way.

    Args:
        images: uint8 [B, C, H, W], C 1 or 3.

    Returns:
        float32 [B, C, H, W].

    Raises:
        TypeError, ValueError: `images` is of another type or shape.
    """
    return standardize(check_images(images).float() / 255)
