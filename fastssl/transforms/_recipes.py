"""The published recipes. Each takes what its users change, and `output`, the keyword arguments of `Transform`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from .. import _checks
from ..functional import Recipe, View
from ._transform import Transform

_SWAV_STD = (0.228, 0.224, 0.225)


class SimCLR(Transform):
    """SimCLR on ImageNet: crop, flip, strong colour jitter, grey, blur; two views alike.

    Args:
        size: height and width of the views in pixels.
        views: how many views of each image.
        scale: least and greatest area of the crop as a fraction of the image.
        jitter: strength of brightness, contrast, saturation and hue.
        jitter_p, gray_p, blur_p, flip_p: probability of each step.
        interpolation: "bicubic" as in the paper's code, or "bilinear" as in lightly and most PyTorch ports.
        output: `dtype`, `memory_format`, `rounding` of `Transform`.

    Raises:
        ValueError: an argument is out of range.

    Source: Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations", appendix A.

    >>> view0, view1 = fastssl.transforms.SimCLR(size=224)(images)
    """

    def __init__(
        self,
        size: int = 224,
        *,
        views: int = 2,
        scale: tuple[float, float] = (0.08, 1.0),
        jitter: tuple[float, float, float, float] = (0.8, 0.8, 0.8, 0.2),
        jitter_p: float = 0.8,
        gray_p: float = 0.2,
        blur_p: float = 0.5,
        flip_p: float = 0.5,
        interpolation: str = "bicubic",
        **output: Any,
    ) -> None:
        _checks.positive_int("views", views)
        view = View(
            size, scale=scale, jitter=jitter, jitter_p=jitter_p, gray_p=gray_p, blur_p=blur_p, hflip_p=flip_p
        )  # fmt: skip
        # SimCLR's blur kernel is a tenth of the view.
        kernel = 2 * max(1, round(view.height / 20)) + 1
        super().__init__(Recipe((view,) * views, interpolation, kernel), **output)


class SimCLRSmall(SimCLR):
    """SimCLR for small images such as 32 x 32: half the colour jitter and no blur.

    Args and behaviour: see `SimCLR`. Source: Chen et al. 2020, appendix B.9 (CIFAR-10).
    """

    def __init__(
        self,
        size: int = 32,
        *,
        views: int = 2,
        scale: tuple[float, float] = (0.08, 1.0),
        jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1),
        jitter_p: float = 0.8,
        gray_p: float = 0.2,
        blur_p: float = 0.0,
        flip_p: float = 0.5,
        interpolation: str = "bilinear",
        **output: Any,
    ) -> None:
        super().__init__(
            size, views=views, scale=scale, jitter=jitter, jitter_p=jitter_p, gray_p=gray_p,
            blur_p=blur_p, flip_p=flip_p, interpolation=interpolation, **output,
        )  # fmt: skip


class SimCLRDigits(SimCLRSmall):
    """SimCLR for small grey characters: mild crops and no mirror images.

    A mirrored character is another character, and a crop of a tenth of 8 x 8 pixels is one pixel.

    Args:
        size: height and width of the views in pixels.
        views: how many views of each image.
        output: `dtype`, `memory_format`, `rounding` of `Transform`.
    """

    def __init__(self, size: int = 8, *, views: int = 2, **output: Any) -> None:
        super().__init__(size, views=views, scale=(0.5, 1.0), flip_p=0.0, gray_p=0.0, **output)


class MoCoV2(Transform):
    """MoCo v2: a milder crop and jitter than SimCLR's; two views alike.

    Args:
        size: height and width of the views in pixels.
        output: `dtype`, `memory_format`, `rounding` of `Transform`.

    Source: Chen et al. 2020, "Improved Baselines with Momentum Contrastive Learning".
    """

    def __init__(self, size: int = 224, **output: Any) -> None:
        view = View(size, (0.2, 1.0), jitter=(0.4, 0.4, 0.4, 0.1), jitter_p=0.8, gray_p=0.2, blur_p=0.5)
        super().__init__(Recipe((view, view)), **output)


class BYOL(Transform):
    """BYOL: two views that differ: the first always blurred, the second rarely, and sometimes solarized.

    Args:
        size: height and width of the views in pixels.
        output: `dtype`, `memory_format`, `rounding` of `Transform`.

    Source: Grill et al. 2020, "Bootstrap Your Own Latent", appendix B.
    """

    def __init__(self, size: int = 224, **output: Any) -> None:
        first = View(size, jitter=(0.4, 0.4, 0.2, 0.1), jitter_p=0.8, gray_p=0.2, blur_p=1.0)
        second = replace(first, blur_p=0.1, solarize_p=0.2)
        super().__init__(Recipe((first, second), "bicubic", 2 * max(1, round(first.height / 20)) + 1), **output)


class DINO(Transform):
    """DINO: two large views, which differ as BYOL's do, and small ones of small crops.

    Args:
        size: height and width of the two global views in pixels.
        local_size: height and width of the local views in pixels.
        local_views: how many local views.
        global_scale, local_scale: area of the crops as a fraction of the image.
        output: `dtype`, `memory_format`, `rounding` of `Transform`.

    Source: Caron et al. 2021, "Emerging Properties in Self-Supervised Vision Transformers"; its code.
    """

    def __init__(
        self,
        size: int = 224,
        *,
        local_size: int = 96,
        local_views: int = 8,
        global_scale: tuple[float, float] = (0.4, 1.0),
        local_scale: tuple[float, float] = (0.05, 0.4),
        **output: Any,
    ) -> None:
        _check_count(local_views)
        first = View(size, global_scale, jitter=(0.4, 0.4, 0.2, 0.1), jitter_p=0.8, gray_p=0.2, blur_p=1.0)
        second = replace(first, blur_p=0.1, solarize_p=0.2)
        local = replace(first, size=local_size, scale=local_scale, blur_p=0.5)
        super().__init__(Recipe((first, second, *(local,) * local_views), "bicubic"), **output)


class SwAV(Transform):
    """SwAV: two large views and small ones of small crops, all with SimCLR's strong jitter.

    Args:
        size: height and width of the two large views in pixels.
        local_size: height and width of the small views in pixels.
        local_views: how many small views.
        output: `dtype`, `memory_format`, `rounding` of `Transform`.

    Source: Caron et al. 2020, "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments".
    """

    def __init__(self, size: int = 224, *, local_size: int = 96, local_views: int = 6, **output: Any) -> None:
        _check_count(local_views)
        large = View(size, (0.14, 1.0), jitter=(0.8, 0.8, 0.8, 0.2), jitter_p=0.8, gray_p=0.2, blur_p=0.5)
        small = replace(large, size=local_size, scale=(0.05, 0.14))
        super().__init__(Recipe((large, large, *(small,) * local_views), std=_SWAV_STD), **output)


class MAE(Transform):
    """MAE: one view, cropped and flipped, with no colour step.

    Args:
        size: height and width of the view in pixels.
        output: `dtype`, `memory_format`, `rounding` of `Transform`.

    Source: He et al. 2022, "Masked Autoencoders Are Scalable Vision Learners", appendix A.
    """

    def __init__(self, size: int = 224, **output: Any) -> None:
        super().__init__(Recipe((View(size, (0.2, 1.0)),), "bicubic"), **output)


# What the command line and the benchmarks call the recipes.
RECIPES: dict[str, type[Transform]] = {
    "simclr": SimCLR, "simclr-small": SimCLRSmall, "mocov2": MoCoV2, "byol": BYOL, "dino": DINO, "swav": SwAV,
    "mae": MAE,
}  # fmt: skip


def _check_count(local_views: object) -> None:
    if isinstance(local_views, bool) or not isinstance(local_views, int) or local_views < 0:
        raise ValueError(f"local_views: got {local_views!r}, want an int >= 0")


def default_simclr(channels: int, size: int) -> Transform:
    """The SimCLR recipe that fits images of `channels` and `size` pixels, with views for convolutions."""
    recipe = SimCLR if size > 64 else SimCLRDigits if channels == 1 and size <= 16 else SimCLRSmall
    return recipe(size, memory_format=torch.channels_last)
