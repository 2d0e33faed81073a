"""Patches of a jittered grid: docstring, checks, schema, fake. The draws and the copying are in the kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import _backend, _checks
from ._patches import as_images, patches_dtype, scale_and_shift
from ._registration import define_data_op
from ._seeds import check_view, sample_ids_on, seed_or_random

_backend.register(
    "extract_patches",
    triton=_backend.Kernel(_backend.FLOATS),
    cpp=_backend.Kernel(_backend.FLOATS),
    torch=_backend.Kernel((torch.float64, *_backend.FLOATS)),
)
_BLOCKS = 2**24  # of words of a sample, for which the counter has room


def extract_patches(
    images: Tensor,
    patch_size: int | Sequence[int],
    grid: Sequence[int] = (3, 3),
    gap: int = 0,
    jitter: int = 0,
    *,
    standardize: bool = False,
    keep_channel_p: float = 0.0,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dtype: torch.dtype | None = None,
    seed: int | Tensor | None = None,
    sample_ids: Tensor | None = None,
    view: int = 0,
) -> tuple[Tensor, Tensor]:
    """Cut a grid of patches out of each image, with what keeps a network from solving pretexts by their seams.

    The cells of the grid are `gap` pixels apart, so that no line goes on from one patch to the next; the grid lies
    anywhere in the image with equal probability, so that the place in the image does not tell the cell; and each patch
    is moved by independent integers, uniform in [-jitter, jitter], down and right. Patches are always inside.

    Args:
        images: uint8 or float [N, C, H, W]; any C and strides. They are data: the op has no derivative by them.
        patch_size: p or (h, w) in pixels.
        grid: rows and columns of cells; patches are numbered row by row.
        gap: pixels between neighbouring cells; below 0 where they overlap, by less than a patch. Patches may overlap
            where it is under 2 `jitter`.
        jitter: the farthest that a patch is moved along each axis, in pixels.
        standardize: shift and scale each channel of each patch to mean 0 and variance v / (v + 1e-6), where v is that
            of its normalised pixels; a constant channel becomes 0.
        keep_channel_p: the probability that of a patch one channel, any with equal probability, stays, while the
            others become Gaussian noise of mean 0 and 1/100 of its standard deviation (in the result), so that
            chromatic aberration does not tell where a patch lay. Each patch is drawn for on its own, as patches that
            share their channel could be compared by it. Images of one channel stay as they are.
        mean, std: one number a channel, for values in [0, 1]. By default ImageNet's for uint8 images of 1 or 3
            channels, while floats are taken as normalised already.
        dtype: of the patches; by default that of autocast where it is on, else that of float images, else float32.
        seed: a 64-bit integer, or an int64 tensor [] on the CPU or on the images' device; one on the device lets a
            CUDA graph draw anew at every replay. By default drawn from PyTorch's CPU generator, which
            `torch.manual_seed` sets.
        sample_ids: int64 [N], such as indices into the data set, with which a sample's draws do not depend on its
            batch; by default 0 .. N - 1.
        view: tells several grids of the same samples apart.

    Returns:
        patches [N, rows columns, C, h, w]; and int64 [N, rows columns, 2], where the top left pixel of each is in the
        image: row and column.

    Raises:
        TypeError, ValueError: an argument is of another type, shape or range; the grid does not fit the images.
        RuntimeError: the backend that is forced cannot run this call.

    From the same seed corners, kept channels and noise (but for its scale) are the same on every backend. Of sample id
    s the words of Philox4x32-10 with key `seed` and counter (s, view, 68 + 256 b) move the grid (b = 0: words 0 and 1
    down and right) and patch p (b = p + 1: words 0 and 1; 2 and 3 say whether a channel is kept alone, and which), each
    word u standing for floor(u k / 2^32) of k cases. Number j q + i of the noise of channel c, q = ceil(h w / 4), is
    number j of the four that Box and Muller make of the words of counter (s, view, 69 + 256 ((p C + c) q + i)). Results
    are deterministic on every backend.

    Sources: Doersch et al., Unsupervised Visual Representation Learning by Context Prediction, 2015, section 3.1
    (patch_size 96, gap 48, jitter 7); Noroozi and Favaro, Unsupervised Learning of Visual Representations by Solving
    Jigsaw Puzzles, 2016, section 4.2 (crops of 255, patch_size 64, gap 21, jitter 10, standardize).

    >>> patches, corners = extract_patches(images, 64, gap=21, jitter=10, standardize=True)
    """
    pixels = as_images(images)
    patch = _pair("patch_size", [patch_size, patch_size] if isinstance(patch_size, int) else patch_size, "an int or ")
    cells = _pair("grid", grid)
    if cells[0] * cells[1] >= _BLOCKS:
        raise ValueError(f"grid: got {tuple(cells)}, want at most {_BLOCKS - 1} patches")
    _checks.int_in("gap", gap, 1 - min(patch), 2**31 - 1)
    _checks.int_in("jitter", jitter, 0, 2**30 - 1)
    needed = [c * (p + gap) - gap + 2 * jitter for c, p in zip(cells, patch, strict=True)]
    if needed[0] > pixels.shape[2] or needed[1] > pixels.shape[3]:
        raise ValueError(
            f"images: got {pixels.shape[2]} x {pixels.shape[3]} pixels, want at least {needed[0]} x {needed[1]} for "
            f"{cells[0]} x {cells[1]} patches of {patch[0]} x {patch[1]}, {gap} apart, each moved by up to {jitter}"
        )
    p = _checks.fraction("keep_channel_p", keep_channel_p)
    blocks = cells[0] * cells[1] * pixels.shape[1] * -(-patch[0] * patch[1] // 4)
    if p > 0 and blocks > _BLOCKS:
        raise ValueError(
            f"keep_channel_p: got {p} for patches of {4 * blocks} numbers an image, want 0, or at most "
            f"{4 * _BLOCKS} numbers"
        )
    check_view(view)
    scale, shift = scale_and_shift(pixels, mean, std)
    found: tuple[Tensor, Tensor] = torch.ops.fastssl.extract_patches(
        pixels, seed_or_random(seed, pixels.device), sample_ids_on(sample_ids, pixels.shape[0], pixels.device), patch,
        cells, gap, jitter, bool(standardize), p, scale, shift, patches_dtype(dtype, pixels), view,
        _backend.requested(),
    )  # fmt: skip
    return found


def _pair(name: str, value: object, also: str = "") -> list[int]:
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise ValueError(f"{name}: got {value!r}, want {also}two ints")
    for side in value:
        _checks.positive_int(name, side)
    return list(value)


def _forward(
    images: Tensor, seed: Tensor, sample_ids: Tensor | None, patch: list[int], grid: list[int], gap: int, jitter: int,
    standardize: bool, keep_channel_p: float, scale: list[float], shift: list[float], dtype: torch.dtype, view: int,
    backend: str,
) -> Any:  # fmt: skip
    like = images.new_empty(0, dtype=torch.float64 if torch.float64 in (dtype, images.dtype) else dtype)
    kernels = _backend.select("extract_patches", like, backend)
    return kernels.extract_patches_fwd(
        images, seed, sample_ids, patch, grid, gap, jitter, standardize, keep_channel_p, scale, shift, dtype, view
    )


def _fake(
    images: Tensor, seed: Tensor, sample_ids: Tensor | None, patch: list[int], grid: list[int], gap: int, jitter: int,
    standardize: bool, keep_channel_p: float, scale: list[float], shift: list[float], dtype: torch.dtype, view: int,
    backend: str,
) -> Any:  # fmt: skip
    n, count = images.shape[0], grid[0] * grid[1]
    corners = images.new_empty((n, count, 2), dtype=torch.int64)
    return images.new_empty((n, count, images.shape[1], *patch), dtype=dtype), corners


define_data_op(
    "extract_patches(Tensor images, Tensor seed, Tensor? sample_ids, int[] patch, int[] grid, int gap, int jitter,"
    " bool standardize, float keep_channel_p, float[] scale, float[] shift, ScalarType dtype, int view, str backend)"
    " -> (Tensor patches, Tensor corners)",
    _forward, _fake,
)  # fmt: skip
