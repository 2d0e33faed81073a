"""What methods that learn from colours have in common: CIE Lab, encoders that see a part of it, and a decoder."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import transforms
from .._images import RaggedImages
from ._encoder import Wrapper, encode, feature_map, input_channels
from ._one_view import OneView

# sRGB's linear values to CIE XYZ, relative to the white D65.
_TO_XYZ = (
    (0.412453 / 0.95047, 0.357580 / 0.95047, 0.180423 / 0.95047),
    (0.212671, 0.715160, 0.072169),
    (0.019334 / 1.08883, 0.119193 / 1.08883, 0.950227 / 1.08883),
)
_UNIT = 50.0  # L - 50, a and b are given to encoders in units of so many


def rgb_to_lab(rgb: Tensor) -> Tensor:
    """Return CIE Lab float32 [N, 3, H, W], L in [0, 100], of sRGB pictures [N, 3, H, W] in [0, 1]."""
    rgb = rgb.float()
    linear = torch.where(rgb > 0.04045, ((rgb + 0.055) / 1.055).clamp_min(0) ** 2.4, rgb / 12.92)
    xyz = torch.einsum("ij, njhw -> nihw", linear.new_tensor(_TO_XYZ), linear)
    x, y, z = torch.where(xyz > 0.008856, xyz.clamp_min(1e-4) ** (1 / 3), 7.787 * xyz + 16 / 116).unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


def lab_to_rgb(lab: Tensor) -> Tensor:
    """Return sRGB pictures float32 [N, 3, H, W] in [0, 1] of CIE Lab [N, 3, H, W]; what has no such colour is cut."""
    lightness, a, b = lab.float().unbind(1)
    y = (lightness + 16) / 116
    f = torch.stack([y + a / 500, y, y - b / 200], 1)
    xyz = torch.where(f > 0.008856 ** (1 / 3), f**3, (f - 16 / 116) / 7.787)
    linear = torch.einsum("ij, njhw -> nihw", torch.linalg.inv(xyz.new_tensor(_TO_XYZ)), xyz).clamp(0, 1)
    return torch.where(linear > 0.0031308, 1.055 * linear.clamp_min(1e-4) ** (1 / 2.4) - 0.055, 12.92 * linear)


class LightnessInput(Wrapper):
    """An encoder of RGB images that sees their lightness alone: (L - 50) / 50, in each channel that it takes.

    Args:
        encoder: a module [B, C, H, W] -> features, such as ``build_encoder(..., in_chans=1)``.
        feature_dim: the width of its features, where it has no attribute `num_features` to tell.

    `forward` takes normalised images [B, 3, H, W], as any other encoder of RGB images.
    """

    def __init__(self, encoder: nn.Module, feature_dim: int | None = None) -> None:
        super().__init__(encoder, feature_dim=feature_dim)
        self.channels = input_channels(encoder)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features [B, f] of normalised images [B, 3, H, W]."""
        return encode(self.encoders[0], self.seen(rgb_to_lab(transforms.to_pixels(x))))

    def forward_features(self, x: Tensor) -> Tensor:
        """Return their features before these are pooled, [B, f, h, w]."""
        return self.map(rgb_to_lab(transforms.to_pixels(x)))

    def seen(self, lab: Tensor) -> Tensor:
        """Return what the encoder sees of images in Lab [B, 3, H, W]."""
        return ((lab[:, :1] - 50) / _UNIT).expand(-1, self.channels, -1, -1)

    def map(self, lab: Tensor) -> Tensor:
        """Return the features [B, f, h, w], before these are pooled, of images in Lab [B, 3, H, W]."""
        return feature_map(self.encoders[0], self.seen(lab))


class SplitBrainEncoder(Wrapper):
    """An encoder of RGB images in two halves, of which one sees the lightness and the other the colours.

    Args:
        lightness_encoder: a module [B, 1, H, W] -> features; or of 3 channels, see `LightnessInput`.
        color_encoder: a module [B, 2, H, W] -> features, which sees a / 50 and b / 50.
        feature_dim: the width of each one's features, where they have no attribute `num_features` to tell.

    `forward` takes normalised images [B, 3, H, W] and returns the features of both, one behind the other.
    """

    def __init__(self, lightness_encoder: nn.Module, color_encoder: nn.Module, feature_dim: int | None = None) -> None:
        super().__init__(lightness_encoder, color_encoder, feature_dim=feature_dim)
        if input_channels(color_encoder) != 2:
            raise ValueError(
                f"color_encoder: got one that takes {input_channels(color_encoder)} channels, want 2: a and b"
            )
        self.channels = input_channels(lightness_encoder)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features [B, f] of normalised images [B, 3, H, W], first those of their lightness."""
        lab = rgb_to_lab(transforms.to_pixels(x))
        return torch.cat([encode(half, seen) for half, seen in zip(self.encoders, self.seen(lab), strict=True)], 1)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return their features before these are pooled, [B, f, h, w]."""
        return torch.cat(self.maps(rgb_to_lab(transforms.to_pixels(x))), 1)

    def seen(self, lab: Tensor) -> tuple[Tensor, Tensor]:
        """Return what either half sees of images in Lab [B, 3, H, W]."""
        return ((lab[:, :1] - 50) / _UNIT).expand(-1, self.channels, -1, -1), lab[:, 1:] / _UNIT

    def maps(self, lab: Tensor) -> list[Tensor]:
        """Return the features [B, f, h, w] of both halves, before these are pooled, of images in Lab [B, 3, H, W]."""
        return [feature_map(half, seen) for half, seen in zip(self.encoders, self.seen(lab), strict=True)]


class MapDecoder(nn.Module):
    """Feature maps [N, width, h, w] -> logits [N, classes, H, W]: two convolutions, one before and one after scaling.

    Args:
        width: of the features.
        dim: of the hidden layers.
        classes: to tell apart.
    """

    def __init__(self, width: int, dim: int, classes: int) -> None:
        super().__init__()
        self.coarse, self.fine = (
            nn.Sequential(nn.Conv2d(inner, dim, 3, padding=1, bias=False), nn.BatchNorm2d(dim), nn.ReLU(inplace=True))
            for inner in (width, dim)
        )
        self.last = nn.Conv2d(dim, classes, 1)

    def forward(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the logits, at `size`."""
        x = F.interpolate(self.coarse(features), size=size, mode="bilinear")
        logits: Tensor = self.last(self.fine(x))
        return logits


class ColorMethod(OneView):
    """Base of methods that learn from the colours of one view."""

    channels: ClassVar[int] = 3  # of the images that it learns from, which `fastssl.fit` checks

    def augment(self, images: Tensor | RaggedImages) -> list[Tensor]:
        """Return one float32 view [B, 3, H, W] of uint8 images [B, 3, H, W] or `RaggedImages`, in a list.

        Raises:
            ValueError: the images are grey.
        """
        check_colored(self, images)
        return super().augment(images)


def check_colored(method: object, images: Any) -> None:
    """Refuse grey images."""
    channels = images.channels if isinstance(images, RaggedImages) else images.shape[-3]
    if channels != 3:
        raise ValueError(
            f"images: got {channels} channel, want 3: {type(method).__name__} learns from colours, which grey images "
            "do not have"
        )
