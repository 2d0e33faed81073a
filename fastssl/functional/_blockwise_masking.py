"""Blockwise masks: docstring, checks, schema, fake. The draws are in the kernels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .. import _backend, _checks
from ._multiblock_masking import Range, check_grid, check_range
from ._registration import define_data_op
from ._seeds import check_view, sample_ids_on, sampling_device, seed_or_random

_backend.register(
    "blockwise_masking",
    triton=_backend.Kernel((torch.int64,), max_width=4096),
    cpp=_backend.Kernel((torch.int64,)),
    torch=_backend.Kernel((torch.int64,)),
)


def blockwise_masking(
    n: int,
    grid: Sequence[int],
    num_masked: int | Tensor,
    *,
    min_patches: int = 16,
    max_patches: int | None = None,
    aspect_ratio: Range = (0.3, 1 / 0.3),
    seed: int | Tensor | None = None,
    sample_ids: Tensor | None = None,
    view: int = 0,
    device: torch.device | str | None = None,
) -> Tensor:
    """Mask rectangles, one over another, until enough patches are masked, as BEiT and iBOT do.

    An attempt draws an area uniform in [min_patches, room] and an aspect ratio a, log-uniform, for round(sqrt(A a))
    rows and round(sqrt(A / a)) columns, and a place uniform over all that fit. It counts if it lies in the grid,
    smaller than that on both sides, and masks between 1 and `room` new patches, room = min(num_masked - masked so far,
    max_patches). Ten failures in a row end it, or 256 attempts.

    Args:
        n: samples, >= 1.
        grid: (H, W), the numbers of patches.
        num_masked: the most patches to mask, >= 0; an int, or an int64 tensor [n] on `device` for a number each. Most
            masks have that many, or some fewer.
        min_patches: least area drawn, >= 1.
        max_patches: the most new patches of a rectangle; by default `num_masked`.
        aspect_ratio: least and greatest height over width, > 0.
        seed, sample_ids, view, device: as for `random_masking`.

    Returns:
        bool [n, H W], True where masked; patches are numbered row by row.

    Raises:
        TypeError, ValueError: an argument is of another type, shape or range.
        RuntimeError: the backend that is forced cannot run this call.

    The draws come from Philox4x32-10 with counter (id, view, 66 + 256 attempt) and are the same on every backend.

    Source: Bao et al., BEiT: BERT Pre-Training of Image Transformers, 2022, algorithm 1.
    """
    _checks.positive_int("n", n)
    frames, rows, columns = check_grid(grid)
    if frames != 1:
        raise ValueError(f"grid: got {tuple(grid)}, want (H, W): blocks of blockwise masking have no duration")
    _checks.positive_int("min_patches", min_patches)
    if max_patches is not None:
        _checks.positive_int("max_patches", max_patches)
    low, high = check_range("aspect_ratio", aspect_ratio, math.inf)
    check_view(view)
    device = sampling_device(device, num_masked, sample_ids, seed)
    target = _target(num_masked, n, rows * columns, device)
    mask: Tensor = torch.ops.fastssl.blockwise_masking(
        seed_or_random(seed, device), sample_ids_on(sample_ids, n, device), target, n, rows, columns, min_patches,
        rows * columns if max_patches is None else max_patches, [math.log(low), math.log(high)], view,
        _backend.requested(),
    )  # fmt: skip
    return mask


def _target(num_masked: object, n: int, patches: int, device: torch.device) -> Tensor:
    if not isinstance(num_masked, Tensor):
        _checks.int_in("num_masked", num_masked, 0, patches)
        return torch.full((1,), num_masked, device=device).expand(n)  # type: ignore[call-overload,no-any-return]
    if num_masked.dtype != torch.int64 or num_masked.shape != (n,) or num_masked.device != device:
        got = f"{num_masked.dtype} {tuple(num_masked.shape)} on {num_masked.device}"
        raise ValueError(f"num_masked: got {got}, want an int or int64 [{n}] on {device}")
    return num_masked


def _forward(
    seed: Tensor, sample_ids: Tensor | None, target: Tensor, n: int, height: int, width: int, min_patches: int,
    max_patches: int, log_aspect: list[float], view: int, backend: str,
) -> Tensor:  # fmt: skip
    # The kernel of the GPU holds a mask in registers, which bounds the grid.
    like = torch.empty((0, height * width), dtype=torch.int64, device=target.device)
    kernels = _backend.select("blockwise_masking", like, backend)
    mask: Tensor = kernels.blockwise_masking_fwd(
        seed, sample_ids, target, n, height, width, min_patches, max_patches, log_aspect, view, target.device
    )
    return mask


def _fake(
    seed: Tensor, sample_ids: Tensor | None, target: Tensor, n: int, height: int, width: int, *rest: object
) -> Tensor:
    return target.new_empty((n, height * width), dtype=torch.bool)


define_data_op(
    "blockwise_masking(Tensor seed, Tensor? sample_ids, Tensor target, SymInt n, SymInt height, SymInt width,"
    " int min_patches, int max_patches, float[] log_aspect, int view, str backend) -> Tensor",
    _forward, _fake,
)  # fmt: skip
