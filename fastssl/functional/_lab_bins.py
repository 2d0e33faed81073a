"""Colours as CIE Lab, and softly as bins of (a, b): docstring, checks, schema, fake. The maths is in the kernels."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import _backend, _checks
from .._normalization import channel_statistics
from ._patches import PIXELS
from ._registration import define_data_op

_TYPES = (torch.uint8, *_backend.FLOATS)
_backend.register(
    "lab_bins",
    triton=_backend.Kernel(_TYPES),
    cpp=_backend.Kernel(_TYPES),
    torch=_backend.Kernel((torch.float64, *_TYPES)),
)

# Of each a from -90 to 100 in steps of 10 the first and the last b of the gamut, in tens.
_FIRST = (5, 2, 0, -2, -3, -4, -5, -5, -6, -7, -8, -8, -9, -10, -10, -11, -11, -11, -11, -9)
_LAST = (9, 9, 9, 9, 10, 10, 10, 10, 10, 10, 9, 9, 9, 9, 8, 8, 8, 7, 7, 0)


DEFAULT = 313  # bins


class LabBins(NamedTuple):
    """Images as Lab, and the bins that stand for their colours.

    Attributes:
        lab: float32 [N, 3, H, W]: L in [0, 100], a and b, of images in [0, 1] within [-86.2, 98.3] and [-107.9, 94.5].
        index: int32 [N, K, h, w], the K nearest bins of each place, nearest first.
        weight: float32 [N, K, h, w], what each of them counts; they add up to 1.
    """

    lab: Tensor
    index: Tensor  # type: ignore[assignment]
    weight: Tensor


def ab_bins(device: torch.device | str | None = None) -> Tensor:
    """The 313 points (a, b) of a grid of spacing 10 that stand for the colours of sRGB images: float32 [313, 2].

    They are ordered by a, then by b.

    Source: Zhang et al., Colorful Image Colorization, 2016, section 2.1; the points of its code.
    """
    rows = zip(range(-9, 11), _FIRST, _LAST, strict=True)
    points = [(10.0 * a, 10.0 * b) for a, first, last in rows for b in range(first, last + 1)]
    return torch.tensor(points, dtype=torch.float32, device=device)


def lab_bins(
    images: Tensor,
    bins: Tensor | None = None,
    neighbors: int = 10,
    sigma: float = 5.0,
    stride: int = 1,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> LabBins:
    r"""Turn sRGB images into CIE Lab, and their colours (a, b) into weights of the nearest bins, in one pass.

    With d_k the distance of (a, b) from bin k, the K nearest bins have the weights

        w_k = exp(-d_k^2 / (2 sigma^2)) / sum_j exp(-d_j^2 / (2 sigma^2))

    taken relative to the smallest distance, so that they are finite wherever (a, b) is.

    Args:
        images: uint8, or float in [0, 1], [N, 3, H, W] of any strides: red, green, blue.
        bins: float [Q, 2], points (a, b); by default the 313 of `ab_bins`.
        neighbors: K, in [1, Q].
        sigma: width of the Gaussian in units of a and b, > 0.
        stride: colours are encoded at every stride-th row and column, from the first on: h = ceil(H / stride).
        mean, std: one number a channel, which floats have been normalised with: x std + mean is in [0, 1]. By default
            floats are in [0, 1] already; of the two, one that is not given is ImageNet's.

    Returns:
        `LabBins`: ``lab`` float32 [N, 3, H, W], ``index`` int32 [N, K, h, w] and ``weight`` float32 [N, K, h, w].

    Raises:
        TypeError, ValueError: an argument is of another type, shape or range.
        RuntimeError: the backend that is forced cannot run this call.

    The curve of sRGB is the exact one. White is D65 for the observer of 2 degrees, matrix and constants are those of
    scikit-image, with which white is (100, -0.0025, 0.0047). Values beyond [0, 1] follow the curves on.

    The nearest bin comes first; of two as far away, that of the lower index. Squares of distances are compared in
    their leading 20 bits, which is less than a and b are rounded by. The distribution of a place over all Q bins, of
    which these are what matters, is never made. NaN and inf in a pixel give NaN there, in colours and weights, with
    some bins as the index. Images are data: the op has no derivative. Deterministic on every backend.

    Source: Zhang et al., Colorful Image Colorization, 2016, section 2.2: K = 10, sigma = 5.

    >>> lab, index, weight = lab_bins(images, stride=4)  # uint8 [N, 3, 176, 176]; index [N, 10, 44, 44]
    """
    if not isinstance(images, Tensor):
        raise TypeError(f"images: got {type(images).__name__}, want a tensor [N, 3, H, W]")
    if images.dtype not in PIXELS:
        raise TypeError(f"images: got dtype {images.dtype}, want uint8, float64, float32, float16 or bfloat16")
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
        raise ValueError(f"images: got shape {tuple(images.shape)}, want [N, 3, H, W], none empty")
    if images.requires_grad and torch.is_grad_enabled():
        raise ValueError("images: got a tensor that requires grad, want images.detach(): images are data here")
    points = None if bins is None else _points(bins, images)
    _checks.int_in("neighbors", neighbors, 1, DEFAULT if points is None else points.shape[0])
    if isinstance(sigma, bool) or not isinstance(sigma, (int, float)) or not 0 < sigma < math.inf:
        raise ValueError(f"sigma: got {sigma!r}, want a finite number > 0")
    _checks.positive_int("stride", stride)
    scale, shift = _range(images, mean, std)
    found = torch.ops.fastssl.lab_bins(
        images, points, neighbors, float(sigma), stride, scale, shift, _backend.requested()
    )
    return LabBins(*found)


_kept_bins = functools.lru_cache(maxsize=16)(ab_bins)  # on each device


def _points(bins: object, images: Tensor) -> Tensor:
    found = _checks.float_tensor("bins", bins, "[Q, 2]")
    if found.shape[1] != 2:
        raise ValueError(f"bins: got shape {tuple(found.shape)}, want [Q, 2]")
    if found.device != images.device:
        raise ValueError(f"bins: got device {found.device}, want that of the images, {images.device}")
    return found.detach().to(torch.float32)


def _range(
    images: Tensor, mean: Sequence[float] | None, std: Sequence[float] | None
) -> tuple[list[float], list[float]]:
    """Factors and summands a channel with which pixels are in [0, 1]."""
    integers = images.dtype == torch.uint8
    if mean is None and std is None:
        return [1 / 255 if integers else 1.0] * 3, [0.0] * 3
    if integers:
        raise ValueError(
            f"{'std' if mean is None else 'mean'}: got one for uint8 images, which are not normalised, want None"
        )
    means, stds = channel_statistics(3, mean, std)
    return stds, means


def _forward(
    images: Tensor, bins: Tensor | None, neighbors: int, sigma: float, stride: int, scale: list[float],
    shift: list[float], backend: str,
) -> Any:  # fmt: skip
    kernels = _backend.select("lab_bins", images, backend)
    bins = _kept_bins(images.device) if bins is None else bins
    return kernels.lab_bins_fwd(images, bins, neighbors, sigma, stride, scale, shift)


def _fake(
    images: Tensor, bins: Tensor | None, neighbors: int, sigma: float, stride: int, scale: list[float],
    shift: list[float], backend: str,
) -> Any:  # fmt: skip
    n, _, height, width = images.shape
    shape = (n, neighbors, (height + stride - 1) // stride, (width + stride - 1) // stride)
    return (
        images.new_empty(images.shape, dtype=torch.float32),
        images.new_empty(shape, dtype=torch.int32),
        images.new_empty(shape, dtype=torch.float32),
    )


define_data_op(
    "lab_bins(Tensor images, Tensor? bins, int neighbors, float sigma, int stride, float[] scale, float[] shift,"
    " str backend) -> (Tensor lab, Tensor index, Tensor weight)",
    _forward, _fake,
)  # fmt: skip
