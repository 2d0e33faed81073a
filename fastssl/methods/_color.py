"""What methods that learn from colours have in common: CIE Lab, encoders that see a part of it, and a decoder."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import transforms
from .._extras import require
from .._images import RaggedImages
from .._wide import Wide
from ..kernels.torch.lab_bins import TO_XYZ
from ._encoder import Wrapper, build_encoder, encode, feature_map, input_channels, is_vit
from ._one_view import OneView, Size, only_view

_UNIT = 50.0  # L - 50, a and b are given to encoders in units of so many


def rgb_to_lab(rgb: Tensor) -> Tensor:
    """Return CIE Lab float32 [N, 3, H, W], L in [0, 100], of sRGB pictures [N, 3, H, W] in [0, 1]."""
    rgb = rgb.float()
    linear = torch.where(rgb > 0.04045, ((rgb + 0.055) / 1.055).clamp_min(0) ** 2.4, rgb / 12.92)
    xyz = torch.einsum("ij, njhw -> nihw", linear.new_tensor(TO_XYZ), linear)
    x, y, z = torch.where(xyz > 0.008856, xyz.clamp_min(1e-4) ** (1 / 3), 7.787 * xyz + 16 / 116).unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


def lab_to_rgb(lab: Tensor) -> Tensor:
    """Return sRGB pictures float32 [N, 3, H, W] in [0, 1] of CIE Lab [N, 3, H, W]; what has no such colour is cut."""
    lightness, a, b = lab.float().unbind(1)
    y = (lightness + 16) / 116
    f = torch.stack([y + a / 500, y, y - b / 200], 1)
    xyz = torch.where(f > 0.008856 ** (1 / 3), f**3, (f - 16 / 116) / 7.787)
    linear = torch.einsum("ij, njhw -> nihw", torch.linalg.inv(xyz.new_tensor(TO_XYZ)), xyz).clamp(0, 1)
    return torch.where(linear > 0.0031308, 1.055 * linear.clamp_min(1e-4) ** (1 / 2.4) - 0.055, 12.92 * linear)


_ELSEWHERE = """

class LabInput(torch.nn.Module):
    def __init__(self, encoders, channels):
        super().__init__()
        self.encoders, self.channels = torch.nn.ModuleList(encoders), channels

    def forward(self, x):
        mean, std = (torch.tensor(s)[:, None, None] for s in MEAN_AND_STD)
        lab = rgb_to_lab((x * std + mean).clamp(0, 1)) - torch.tensor([50.0, 0.0, 0.0])[:, None, None]
        seen = (lab[:, channels] / UNIT for channels in self.channels)
        return torch.cat([encoder(part) for encoder, part in zip(self.encoders, seen)], 1)
"""


class LabWrapper(Wrapper):
    """Base of encoders of RGB images that show other encoders parts of them in CIE Lab."""

    def seen_channels(self) -> list[list[int]]:
        """Return which of L - 50, a and b each encoder sees, all in units of 50."""
        raise NotImplementedError

    def elsewhere(self, encoders: str) -> list[str]:
        """Return the lines of Python that make the wrapper without fastssl, around encoders that have a name."""
        text = _ELSEWHERE.replace("MEAN_AND_STD", repr(transforms.statistics(3))).replace("UNIT", repr(_UNIT))
        formula = [
            "from torch import Tensor",
            "",
            f"TO_XYZ = {TO_XYZ}",
            "",
            "",
            inspect.getsource(rgb_to_lab).rstrip(),
        ]
        return [*formula, *text.splitlines(), "", "", f"model = LabInput({encoders}, {self.seen_channels()})"]


class LightnessInput(LabWrapper):
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

    def seen_channels(self) -> list[list[int]]:
        """Return which of L - 50, a and b the encoder sees: the first, in each channel that it takes."""
        return [[0] * self.channels]

    def seen(self, lab: Tensor) -> Tensor:
        """Return what the encoder sees of images in Lab [B, 3, H, W]."""
        return ((lab[:, :1] - 50) / _UNIT).expand(-1, self.channels, -1, -1)

    def map(self, lab: Tensor) -> Tensor:
        """Return the features [B, f, h, w], before these are pooled, of images in Lab [B, 3, H, W]."""
        return feature_map(self.encoders[0], self.seen(lab))


class SplitBrainEncoder(LabWrapper):
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

    def seen_channels(self) -> list[list[int]]:
        """Return which of L - 50, a and b either half sees."""
        return [[0] * self.channels, [1, 2]]

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

    def forward(self, features: Tensor, size: Sequence[int]) -> Tensor:
        """Return the logits, at `size`."""
        x = F.interpolate(self.coarse(features), size=tuple(size), mode="bilinear")
        logits: Tensor = self.last(self.fine(x))
        return logits


def dense_encoder(name: str, in_chans: int, image_size: Size | None = None) -> nn.Module:
    """Make an encoder by name for methods that predict pixels: ResNets keep a map of an eighth of the image."""
    more: dict[str, Any] = {}
    if is_vit(name):
        more = {} if image_size is None else {"img_size": image_size}
    elif require("timm.models", "an encoder by name").is_model_in_modules(name, {"resnet"}):
        more = {"output_stride": 8}
    return build_encoder(name, in_chans=in_chans, **more)


class ClassPrior(Wide):
    """How often each class has been met, over the batches so far: in soft targets, and as the nearest.

    Args:
        classes: Q, which are taken to be equally frequent before the first batch.
    """

    soft: Tensor
    nearest: Tensor
    batches: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        for name in ("soft", "nearest"):
            self.register_buffer(name, torch.full((classes,), 1 / classes))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def update(self, index: Tensor, weight: Tensor) -> None:
        """Count a batch: classes [N, K, h, w], the nearest first, and their weights, which add up to 1 over K."""
        self.batches += 1
        for mean, at, share in (
            (self.soft, index, weight),
            (self.nearest, index[:, 0], torch.ones_like(weight[:, 0])),
        ):
            met = torch.zeros_like(mean).index_add_(0, at.flatten(), share.flatten().to(mean))
            mean.lerp_(met / met.sum(), 1 / self.batches)

    def balance(self, uniform: float) -> Tensor:
        """Return v = 1 / ((1 - uniform) soft + uniform / Q) [Q], scaled such that its mean over nearest ones is 1."""
        v = 1 / ((1 - uniform) * self.soft + uniform / len(self.soft))
        return v / (self.nearest * v).sum()


def annealed_mean(logits: Tensor, values: Tensor, size: Sequence[int], temperature: float = 0.38) -> Tensor:
    """Return the mean [N, C, H, W] of values [Q, C] under softmax(logits [N, Q, h, w] / temperature), at another size.

    Source: Zhang et al. 2016, eq. 5.
    """
    mean = torch.einsum("nqhw, qc -> nchw", (logits.float() / temperature).softmax(1), values)
    return F.interpolate(mean, size=tuple(size), mode="bilinear")


@torch.no_grad()
def kmeans(points: Tensor, clusters: int, iterations: int = 20, most: int = 8192) -> Tensor:
    """Return the centres [clusters, d] of points [n, d], of at most so many, thinned evenly; the first ones are drawn.

    Source: Lloyd 1982, "Least Squares Quantization in PCM"; Arthur and Vassilvitskii 2007, "k-means++".
    """
    points = points[:: -(-len(points) // most)].double()
    centers = points[torch.randint(len(points), (1,)).to(points.device)]
    while len(centers) < clusters:
        # The further a point is from all centres, the likelier it becomes one; a small constant lets copies do so, too.
        far = torch.cdist(points, centers).amin(1).square().cumsum(0) + 1e-9
        drawn = torch.rand((), dtype=torch.float64).to(points.device) * far[-1]
        centers = torch.cat([centers, points[torch.searchsorted(far, drawn).clamp_max(len(points) - 1)][None]])
    for _ in range(iterations):
        nearest = torch.cdist(points, centers).argmin(1)
        sums = torch.zeros_like(centers).index_add_(0, nearest, points)
        counts = nearest.bincount(minlength=clusters)[:, None]
        centers = torch.where(counts > 0, sums / counts.clamp_min(1), centers)
    return centers.float()


class ColorMethod(OneView):
    """Base of methods that learn from the colours of one view."""

    channels: ClassVar[int] = 3  # of the images that it learns from, which `fastssl.fit` checks

    def augment(self, images: Tensor | RaggedImages) -> list[Tensor]:
        """Return one float32 view [B, 3, H, W] of uint8 images [B, 3, H, W] or `RaggedImages`, in a list.

        Raises:
            ValueError: the images are grey.
        """
        check_colored(self, "images", images)
        return super().augment(images)

    def only_view(self, views: Sequence[Tensor]) -> Tensor:
        """Return the one view of a list.

        Raises:
            ValueError: there are more or fewer, or it is grey.
        """
        view = only_view(views)
        check_colored(self, "views", view)
        return view


def check_colored(method: nn.Module, name: str, images: Tensor | RaggedImages) -> None:
    """Check that images [B, C, H, W] or clips [B, T, C, H, W] have colours.

    Raises:
        ValueError: they are grey.
    """
    channels = images.channels if isinstance(images, RaggedImages) else images.shape[-3]
    if channels != 3:
        raise ValueError(f"{name}: got {channels} channel, want 3: {type(method).__name__} learns from colours")
