"""What a view has to cost: the bytes that must move and the operations of its steps, averaged over a recipe's draws.

They are counted on parameters that are drawn from the recipe: steps that do not fire cost nothing, and a resize has
the taps of its crop. A multiplication, an addition, a comparison or a rounding counts as one operation.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastssl.functional import AugmentParams, Recipe, sample_params

SAMPLES = 4096
# Operations a pixel of three channels, as csrc/common/color.h computes them.
CONVERT = 3  # from uint8, a pixel of the crop
BRIGHTNESS = 9  # product and two clamps a channel
LUMA = 5
CONTRAST = LUMA + 1 + 12  # the sum of grey values; product, sum and two clamps a channel
SATURATION = LUMA + 1 + 12
HUE = 4 + 9 + 3 * 13  # extremes; sector; falls of three channels
SOLARIZE = 6
NORMALIZE = 6
# What an H200 can do, by its data sheet: bytes a second, and float32 operations a second outside the tensor cores.
H200_BYTES, H200_OPERATIONS = 4.8e12, 67e12


@dataclass(frozen=True)
class Cost:
    """Bytes and operations of a view, the mean over the views of a recipe."""

    bytes: float
    operations: float

    @property
    def h200_us(self) -> float:
        """Microseconds below which no H200 can make the view: a prediction from the data sheet, not a measurement."""
        return 1e6 * max(self.bytes / H200_BYTES, self.operations / H200_OPERATIONS)


def cost(recipe: Recipe, image_size: tuple[int, int], element_bytes: int) -> Cost:
    """What a view of RGB images of that size costs: its crop read once, and the view written once."""
    params = sample_params(recipe, SAMPLES, 0, image_size=image_size)
    read_and_written, operations = 0.0, 0.0
    for v, size in enumerate(recipe.sizes):
        crop = params.crop[:, v, 2:].double()
        read_and_written += (3 * crop.prod(1) + 3 * size[0] * size[1] * element_bytes).mean().item()
        operations += _operations(params[:, v], size, recipe).mean().item()
    return Cost(read_and_written / len(recipe.views), operations / len(recipe.views))


def _operations(params: AugmentParams, size: tuple[int, int], recipe: Recipe) -> Tensor:
    """Of each sample of one view, float64 [n]."""
    height, width = size
    p = {name: getattr(params, name)[:, 0] for name in ("crop", "sigma", "gray", "threshold", "hue")}
    h, w = p["crop"][:, 2].double(), p["crop"][:, 3].double()
    reach = 4 if recipe.interpolation == "bicubic" else 2
    taps_h, taps_w = (torch.minimum(reach * (n / m).clamp(min=1), n) for n, m in ((h, height), (w, width)))
    # Rows first, then columns; a product and a sum a tap and channel. A crop of the view's size is only read.
    resize = CONVERT * h * w + (6 * h * width * taps_w + 6 * height * width * taps_h) * ((h != height) | (w != width))
    radius = torch.ceil(5 * p["sigma"].double())
    if recipe.blur_kernel is not None:
        radius = radius.clamp(max=recipe.blur_kernel // 2)
    blur = sum(6 * (2 * radius.clamp(max=side - 1) + 1) for side in size) * (p["sigma"] > 0)
    colour = (
        BRIGHTNESS * (params.brightness[:, 0] != 1)
        + CONTRAST * (params.contrast[:, 0] != 1)
        + SATURATION * (params.saturation[:, 0] != 1)
        + HUE * (p["hue"] != 0)
        + LUMA * p["gray"]
        + SOLARIZE * p["threshold"].isfinite()
    )
    return resize + height * width * (colour + blur + NORMALIZE)
