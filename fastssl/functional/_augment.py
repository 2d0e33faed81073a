"""Augmentation: docstring, checks, schema, fake. The maths is in the kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import _backend
from .._images import RaggedImages, as_batch
from .._normalization import channel_statistics
from ._params import AugmentParams
from ._recipe import check_blur_kernel, check_interpolation, check_size
from ._registration import define_data_op

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
ROUNDINGS = ("none", "uint8")
Size = int | tuple[int, int]

_backend.register(
    "augment",
    cuda=_backend.Kernel((torch.uint8,)),
    triton=_backend.Kernel((torch.uint8,)),
    cpp=_backend.Kernel((torch.uint8,)),
    torch=_backend.Kernel((torch.uint8,)),
)


def augment(
    images: Tensor | RaggedImages | Sequence[Tensor],
    params: AugmentParams,
    size: Size | Sequence[Size],
    *,
    interpolation: str = "bilinear",
    blur_kernel: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dtype: torch.dtype = torch.float32,
    memory_format: torch.memory_format = torch.contiguous_format,
    rounding: str = "none",
) -> list[Tensor]:
    """Make all views of a batch of images, given their parameters.

    Each view is, in this order: the crop, resized with antialias; mirrored and rotated; brightness, contrast,
    saturation and hue in the order that `params` says; grey; blurred; solarized; (x - mean) / std. Steps whose
    parameter is neutral are skipped. A step computes what torchvision's v2 function does, on one of two inputs:

    - ``rounding="none"``: on float tensors in [0, 1]. Colour steps clamp to [0, 1].
    - ``rounding="uint8"``: on uint8 tensors, rounded or truncated after every step as there, scaled to [0, 1] last.

    In float32 the result is within 2e-5 of torchvision before normalisation, with "uint8" within 1 / 255.

    Args:
        images: uint8 [B, C, H, W] or [B, H, W, C] of any strides, C 1 or 3; or images of different sizes, as
            `fastssl.RaggedImages` or a list of [C, H, W] or [H, W, C] tensors.
        params: of the B samples and V views, on the images' device, as `sample_params` gives them. On the CPU they are
            checked; on a GPU, where that would stall it, crops are clamped to the image.
        size: of the views in pixels: an int, a tuple (height, width), or a list of V of these.
        interpolation: "bilinear" or "bicubic", both antialiased.
        blur_kernel: taps of the blur along each axis, odd; None for as many as the Gaussian needs.
        mean, std: one number a channel, for values in [0, 1]; by default ImageNet's.
        dtype: float32, float16 or bfloat16. The arithmetic is float32 or better in any case.
        memory_format: ``torch.contiguous_format`` or ``torch.channels_last`` of the views.
        rounding: "none" or "uint8".

    Returns:
        V tensors [B, C, height, width]; those of one size are slices of one tensor. Grey images (C 1) stay grey, and
        saturation, hue and grey leave them as they are.

    Raises:
        TypeError, ValueError: an argument is of another type, shape or range.
        RuntimeError: the backend that is forced cannot run this call.

    Images are data: the op has no derivative, neither by the images, which are integers, nor by the parameters, and
    its result does not require grad. All kernels read each pixel of a crop about once, and keep the view on the chip.
    """
    batch = as_batch(images)
    if isinstance(batch, RaggedImages):
        pixels, extents, channels = batch.pixels, batch.extents, batch.channels
    else:
        pixels, extents, channels = batch, None, int(batch.shape[1])
    if not isinstance(params, AugmentParams):
        raise TypeError(f"params: got {type(params).__name__}, want AugmentParams, as sample_params returns")
    if len(params) != len(batch):
        raise ValueError(f"params: got {len(params)} samples, want {len(batch)}, one an image")
    if params.device != batch.device:
        raise ValueError(f"params: got device {params.device}, want the device of the images, {batch.device}")
    sizes = _sizes(size, params.views)
    check_interpolation(interpolation)
    check_blur_kernel(blur_kernel)
    if dtype not in DTYPES:
        raise TypeError(f"dtype: got {dtype}, want float32, float16 or bfloat16")
    if memory_format not in (torch.contiguous_format, torch.channels_last):
        raise ValueError(f"memory_format: got {memory_format}, want torch.contiguous_format or torch.channels_last")
    if rounding not in ROUNDINGS:
        raise ValueError(f"rounding: got {rounding!r}, want 'none' or 'uint8'")
    means, stds = channel_statistics(channels, mean, std)
    heights, widths, counts = _group(sizes)
    views = torch.ops.fastssl.augment(
        pixels, extents, params.packed, heights, widths, counts, interpolation == "bicubic",
        blur_kernel or 0, means, stds, dtype, memory_format == torch.channels_last, rounding == "uint8",
        _backend.requested(),
    )  # fmt: skip
    return [view for group in views for view in group.unbind(0)]


def _sizes(size: Any, views: int) -> list[tuple[int, int]]:
    pair = isinstance(size, tuple) and all(isinstance(s, int) for s in size)
    if pair or not isinstance(size, (list, tuple)):
        return [check_size("size", size)] * views
    if len(size) != views:
        raise ValueError(f"size: got {len(size)} sizes, want {views}, one a view")
    return [check_size("size", s) for s in size]


def _group(sizes: list[tuple[int, int]]) -> tuple[list[int], list[int], list[int]]:
    """Heights, widths and numbers of consecutive views of one size."""
    heights: list[int] = []
    widths: list[int] = []
    counts: list[int] = []
    for v, (height, width) in enumerate(sizes):
        if v > 0 and sizes[v - 1] == (height, width):
            counts[-1] += 1
        else:
            heights.append(height)
            widths.append(width)
            counts.append(1)
    return heights, widths, counts


def check_values(
    packed: Tensor, extents: Tensor | None, height: int, width: int, heights: list[int], widths: list[int],
    counts: list[int],
) -> None:  # fmt: skip
    """Check the values of parameters on the CPU.

    Raises:
        ValueError: a crop leaves its image, or a value is out of range; the message names the first sample and view.
    """
    p = AugmentParams(packed)
    limits = torch.tensor([[height, width]]) if extents is None else extents[:, 1:]
    rows, columns = limits[:, :1], limits[:, 1:]
    top, left, h, w = p.crop.long().unbind(-1)  # int32 sums could overflow
    square = torch.tensor([a == b for a, b, c in zip(heights, widths, counts, strict=True) for _ in range(c)])
    factor = "a finite factor >= 0"
    rules = [
        ("crop", (top >= 0) & (left >= 0) & (h >= 1) & (w >= 1) & (top + h <= rows) & (left + w <= columns),
         "a crop (top, left, height, width) of at least one pixel inside the image"),
        ("order", (1 << p.order.clamp(max=7).int()).sum(-1) == 15, "a permutation of 0, 1, 2, 3"),
        ("turns", (p.turns < 4) & (square | (p.turns % 2 == 0)), "0 to 3, and even unless the view is square"),
        *((name, _finite(getattr(p, name)), factor) for name in ("brightness", "contrast", "saturation")),
        ("hue", p.hue.abs() <= 0.5, "a shift in [-0.5, 0.5]"),
        ("sigma", _finite(p.sigma), "a finite number >= 0"),
        ("threshold", p.threshold >= 0, "a number >= 0"),
    ]  # fmt: skip
    if torch.stack([good for _, good, _ in rules]).all():
        return
    name, good, wants = next(rule for rule in rules if not rule[1].all())
    i, v = (~good).nonzero()[0].tolist()
    of = f" for an image of {' x '.join(map(str, limits[min(i, len(limits) - 1)].tolist()))}" if name == "crop" else ""
    raise ValueError(f"params.{name}[{i}, {v}]: got {getattr(p, name)[i, v].tolist()}{of}, want {wants}")


def _finite(x: Tensor) -> Tensor:
    return (x >= 0) & (x < torch.inf)


def _forward(
    pixels: Tensor, extents: Tensor | None, params: Tensor, heights: list[int], widths: list[int], counts: list[int],
    bicubic: bool, blur_kernel: int, mean: list[float], std: list[float], dtype: torch.dtype, channels_last: bool,
    uint8: bool, backend: str,
) -> list[Tensor]:  # fmt: skip
    if params.device.type == "cpu":
        height, width = pixels.shape[-2:] if extents is None else (0, 0)
        check_values(params, extents, height, width, heights, widths, counts)
    kernels = _backend.select("augment", pixels, backend)
    views: list[Tensor] = kernels.augment_fwd(
        pixels, extents, params, heights, widths, counts, bicubic, blur_kernel, mean, std, dtype, channels_last, uint8
    )
    return views


def _fake(
    pixels: Tensor, extents: Tensor | None, params: Tensor, heights: list[int], widths: list[int], counts: list[int],
    bicubic: bool, blur_kernel: int, mean: list[float], std: list[float], dtype: torch.dtype, channels_last: bool,
    uint8: bool, backend: str,
) -> list[Tensor]:  # fmt: skip
    return empty_views(params, heights, widths, counts, len(mean), dtype, channels_last)


def empty_views(
    params: Tensor, heights: list[int], widths: list[int], counts: list[int], channels: int, dtype: torch.dtype,
    channels_last: bool,
) -> list[Tensor]:  # fmt: skip
    """What a kernel fills: a tensor [views, n, C, h, w] for each size, the channels innermost in memory if asked."""
    n = params.shape[0]
    if channels_last:
        return [
            params.new_empty((c, n, h, w, channels), dtype=dtype).permute(0, 1, 4, 2, 3)
            for h, w, c in zip(heights, widths, counts, strict=True)
        ]
    return [
        params.new_empty((c, n, channels, h, w), dtype=dtype) for h, w, c in zip(heights, widths, counts, strict=True)
    ]


define_data_op(
    "augment(Tensor pixels, Tensor? extents, Tensor params, int[] heights, int[] widths, int[] counts, bool bicubic,"
    " int blur_kernel, float[] mean, float[] std, ScalarType dtype, bool channels_last, bool uint8, str backend)"
    " -> Tensor[]",
    _forward, _fake,
)  # fmt: skip
