"""What an augmentation recipe is: the distribution of every step, for each of its views."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

# The columns of a view in `Recipe.table`, in the order that csrc/common/sample_params.h reads them in.
TABLE = (
    "scale_low", "scale_high", "log_ratio_low", "log_ratio_high", "ratio_low", "ratio_high",
    "hflip_p", "vflip_p", "rotate_p", "jitter_p",
    "brightness_p", "contrast_p", "saturation_p", "hue_p",
    "brightness_low", "brightness_high", "contrast_low", "contrast_high",
    "saturation_low", "saturation_high", "hue_low", "hue_high",
    "gray_p", "blur_p", "sigma_low", "sigma_high", "solarize_p", "threshold",
)  # fmt: skip


def check_pair(name: str, value: Any, low: float, high: float, above: bool = False) -> None:
    """Check low <= value[0] <= value[1] <= high, or low < value[0] where `above`."""
    wants = f"two numbers {low} {'<' if above else '<='} first <= second <= {high}"
    try:
        first, second = (float(v) for v in value)
    except (TypeError, ValueError):
        raise ValueError(f"{name}: got {value!r}, want {wants}") from None
    if not (low <= first <= second <= high) or (above and first <= low) or not math.isfinite(second):
        raise ValueError(f"{name}: got {value!r}, want {wants}")


def check_probability(name: str, value: Any) -> None:
    """Check a probability in [0, 1]."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(f"{name}: got {value!r}, want a probability in [0, 1]")


def check_size(name: str, value: Any) -> tuple[int, int]:
    """Return (height, width) in pixels of an int or a pair of ints, each at least 1."""
    pair = (value, value) if isinstance(value, int) else value
    valid = isinstance(pair, (tuple, list)) and len(pair) == 2
    if not valid or not all(isinstance(v, int) and not isinstance(v, bool) and v >= 1 for v in pair):
        raise ValueError(f"{name}: got {value!r}, want an int >= 1 or a pair (height, width) of them")
    return pair[0], pair[1]


@dataclass(frozen=True)
class View:
    """One view of a recipe: the steps in the order in which they act, each with its distribution.

    Attributes:
        size: height and width of the view in pixels, or one number for both.
        scale: area of the crop as a fraction of the image, uniform between the two, in (0, 1].
        ratio: width over height of the crop, log-uniform between the two, > 0.
        hflip_p, vflip_p: probability of a mirror image left to right, and top to bottom.
        rotate_p: probability of a rotation by 90, 180 or 270 degrees, one of the three; square views only.
        jitter: strength of brightness, contrast, saturation (factors uniform in [max(0, 1 - s), 1 + s]) and hue
            (shift uniform in [-s, s] turns, s <= 0.5). The four act in a random order; a strength of 0 is off.
        jitter_p: probability that the sample is jittered at all.
        jitter_each_p: probability of brightness, contrast, saturation and hue each, given that.
        gray_p: probability that colour is taken out.
        blur_p: probability of the Gaussian blur.
        sigma: standard deviation of the blur in pixels of the view, uniform between the two, > 0.
        solarize_p: probability that values from `threshold` on are inverted.
        threshold: in [0, 1], 1 being white.

    Raises:
        ValueError: a size, range or probability is out of bounds.
    """

    size: int | tuple[int, int] = 224
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    hflip_p: float = 0.5
    vflip_p: float = 0.0
    rotate_p: float = 0.0
    jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    jitter_p: float = 0.0
    jitter_each_p: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    gray_p: float = 0.0
    blur_p: float = 0.0
    sigma: tuple[float, float] = (0.1, 2.0)
    solarize_p: float = 0.0
    threshold: float = 0.5

    def __post_init__(self) -> None:
        height, width = check_size("size", self.size)
        check_pair("scale", self.scale, 0, 1, above=True)
        check_pair("ratio", self.ratio, 0, math.inf, above=True)
        check_pair("sigma", self.sigma, 0, math.inf, above=True)
        for name in ("hflip_p", "vflip_p", "rotate_p", "jitter_p", "gray_p", "blur_p", "solarize_p", "threshold"):
            check_probability(name, getattr(self, name))
        if self.rotate_p and height != width:
            raise ValueError(f"rotate_p: got {self.rotate_p} for a view of {height} x {width}, want 0 or a square view")
        for name, value in (("jitter", self.jitter), ("jitter_each_p", self.jitter_each_p)):
            if not isinstance(value, (tuple, list)) or len(value) != 4:
                raise ValueError(f"{name}: got {value!r}, want 4 numbers: brightness, contrast, saturation, hue")
        for p in self.jitter_each_p:
            check_probability("jitter_each_p", p)
        *factors, hue = self.jitter
        if not all(0 <= s < math.inf for s in factors) or not 0 <= hue <= 0.5:
            raise ValueError(f"jitter: got {self.jitter}, want three strengths >= 0 and one of hue in [0, 0.5]")

    @property
    def height(self) -> int:
        """Height in pixels."""
        return check_size("size", self.size)[0]

    @property
    def width(self) -> int:
        """Width in pixels."""
        return check_size("size", self.size)[1]

    def row(self) -> list[float]:
        """The numbers of `TABLE`."""
        b, c, s, h = self.jitter
        each = [p if strength else 0.0 for p, strength in zip(self.jitter_each_p, self.jitter, strict=True)]
        bounds = [bound for x in (b, c, s) for bound in (max(0.0, 1 - x), 1 + x)]
        return [
            *self.scale, math.log(self.ratio[0]), math.log(self.ratio[1]), *self.ratio,
            self.hflip_p, self.vflip_p, self.rotate_p, self.jitter_p, *each, *bounds, -h, h,
            self.gray_p, self.blur_p, *self.sigma, self.solarize_p, self.threshold,
        ]  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """An augmentation recipe: its views, and what they share.

    Attributes:
        views: one `View` each; all are made in one call.
        interpolation: "bilinear" or "bicubic" (a = -0.5), both antialiased.
        blur_kernel: taps of the blur along each axis, odd, as torchvision's `kernel_size`; or None for as many as the
            Gaussian needs. Where a view is too small for the reflection at its edges, fewer are taken.
        mean, std: the views are (x - mean) / std with x in [0, 1]; by default ImageNet's, see
            `fastssl.transforms.normalize`. One number a channel.

    Raises:
        ValueError: an attribute is out of bounds.
    """

    views: tuple[View, ...]
    interpolation: str = "bilinear"
    blur_kernel: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.views, tuple) or not self.views or not all(isinstance(v, View) for v in self.views):
            raise ValueError(f"views: got {self.views!r}, want a tuple of at least one View")
        check_interpolation(self.interpolation)
        check_blur_kernel(self.blur_kernel)

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Height and width of each view."""
        return tuple((view.height, view.width) for view in self.views)

    def table(self) -> list[float]:
        """All views' numbers, one view after another, each in the order of `TABLE`."""
        return [x for view in self.views for x in view.row()]


def check_interpolation(value: object) -> None:
    """Check the name of an interpolation."""
    if value not in ("bilinear", "bicubic"):
        raise ValueError(f"interpolation: got {value!r}, want 'bilinear' or 'bicubic'")


def check_blur_kernel(value: object) -> None:
    """Check a number of blur taps."""
    if value is not None and (not isinstance(value, int) or value < 1 or value % 2 == 0):
        raise ValueError(f"blur_kernel: got {value!r}, want an odd int >= 1, or None")
