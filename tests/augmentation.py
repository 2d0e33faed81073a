"""What the augmentation tests share: images, every step alone, torchvision's own chain, and the bound that is held."""

from __future__ import annotations

import math

import torch
import torchvision.transforms.v2.functional as tv
from torch import Tensor

from fastssl import reference
from fastssl.functional import AugmentParams, Recipe, View, sample_params

# Every step of a view, drawn often.
EVERYTHING = {
    "jitter": (0.8, 0.8, 0.8, 0.4), "jitter_p": 0.9, "jitter_each_p": (0.8, 0.8, 0.8, 0.8), "gray_p": 0.2,
    "blur_p": 0.6, "solarize_p": 0.3, "vflip_p": 0.5,
}  # fmt: skip
# field -> value that switches the step on
STEPS = {
    "resize": {},
    "hflip": {"hflip": True},
    "vflip": {"vflip": True},
    "turns": {"turns": 3},
    "brightness": {"brightness": 1.7},
    "contrast": {"contrast": 1.6},
    "saturation": {"saturation": 1.7},
    "hue": {"hue": -0.37},
    "gray": {"gray": True},
    "blur": {"sigma": 1.3},
    "wide blur": {"sigma": 2.0},
    "solarize": {"threshold": 0.5},
}
UNIT = {3: {"mean": (0.0,) * 3, "std": (1.0,) * 3}, 1: {"mean": (0.0,), "std": (1.0,)}}  # no normalisation


def photographs(n: int, height: int, width: int, channels: int = 3, seed: int = 0) -> Tensor:
    """Smooth random images with flat dark and bright areas and grey ones, uint8 [n, C, H, W]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, channels, max(2, height // 6), max(2, width // 6), generator=generator)
    coarse[::5] = coarse[::5].mean(1, keepdim=True)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic", align_corners=False)
    return (smooth * 1.4 - 0.2).clamp(0, 1).mul(255).to(torch.uint8)


def draw(n: int, size: tuple[int, int], image_size: tuple[int, int], seed: int = 0, **changes) -> AugmentParams:
    """Parameters of one view with every step."""
    options = {**EVERYTHING, "rotate_p": 0.3 if size[0] == size[1] else 0.0, **changes}
    return sample_params(Recipe((View(size, **options),)), n, seed, image_size=image_size)


def torchvision_view(
    image: Tensor, params: AugmentParams, i: int, size: tuple[int, int], interpolation: str, kernel: int, uint8: bool
) -> Tensor:
    """The view by torchvision's functions, on uint8 or on float tensors; in [0, 1]."""
    x = image if uint8 else tv.to_dtype(image, torch.float32, scale=True)
    top, left, height, width = params.crop[i, 0].tolist()
    mode = tv.InterpolationMode(interpolation)
    x = tv.resized_crop(x, top, left, height, width, list(size), interpolation=mode, antialias=True)
    x = tv.horizontal_flip(x) if params.hflip[i, 0] else x
    x = tv.vertical_flip(x) if params.vflip[i, 0] else x
    x = torch.rot90(x, int(params.turns[i, 0]), (-2, -1))
    steps = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)
    factors = (params.brightness, params.contrast, params.saturation, params.hue)
    for which in params.order[i, 0].tolist():
        factor = float(factors[which][i, 0])
        if factor != (0 if which == 3 else 1):
            x = steps[which](x, factor)
    if params.gray[i, 0]:
        x = tv.rgb_to_grayscale(x, num_output_channels=len(x))
    if params.sigma[i, 0] > 0:
        x = tv.gaussian_blur(x, [kernel, kernel], [float(params.sigma[i, 0])] * 2)
    if params.threshold[i, 0] < math.inf:
        x = tv.solarize(x, float(params.threshold[i, 0]) * (255 if uint8 else 1))
    return tv.to_dtype(x, torch.float32, scale=True)


def excess(got: Tensor, want: Tensor, uint8: bool) -> float:
    """The largest error, as a part of what is allowed: 2e-5, or one level of a uint8 image."""
    # Inversion at a threshold of 1/2 is continuous: a rounding before it stays a rounding.
    return float((got.float().cpu() - want).abs().max() / (1.0001 / 255 if uint8 else 2e-5))


def reference_views(images: list[Tensor], params: AugmentParams, size: tuple[int, int], **options) -> Tensor:
    """The reference's only view, not normalised."""
    return reference.augment(images, params, size, **UNIT[images[0].shape[0]], **options)[0]
