"""The parameters of augmented views: docstring, checks, schema, fake. The draws are in the kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import _backend, _checks
from ._params import WORDS, AugmentParams
from ._recipe import TABLE, Recipe
from ._registration import define_data_op
from ._seeds import seed_tensor

_backend.register(
    "sample_params",
    cuda=_backend.Kernel((torch.int64,)),
    triton=_backend.Kernel((torch.int64,)),
    cpp=_backend.Kernel((torch.int64,)),
    torch=_backend.Kernel((torch.int64,)),
)


def sample_params(
    recipe: Recipe,
    n: int,
    seed: int | Tensor,
    *,
    image_size: tuple[int, int] | Tensor,
    sample_ids: Tensor | None = None,
    device: torch.device | str | None = None,
) -> AugmentParams:
    """Draw the parameters of every view of `n` samples.

    The draws of a view are a function of (seed, sample id, view) alone: the same on every backend, bit for bit,
    whatever the batch is, however it is split, and however many workers make it. Philox4x32-10 gives the words, key
    the seed, counter (id, view, purpose). The distribution of each field is that of torchvision's v2 transforms.

    Args:
        recipe: what is drawn.
        n: samples, >= 1.
        seed: a 64-bit integer, or an int64 tensor [] on the CPU or on `device`; one on the device lets a CUDA graph
            draw anew at every replay.
        image_size: (H, W) of all images, or int64 [n, 2] of each, such as `RaggedImages.sizes`.
        sample_ids: int64 [n], such as indices into the data set; by default 0 .. n - 1, the places in the batch.
        device: where the parameters are made; by default that of `sample_ids`, else the CPU.

    Returns:
        The parameters: to use, to keep, to edit.

    Raises:
        TypeError, ValueError: an argument is of another type, shape or range.
        RuntimeError: the backend that is forced cannot run this call.

    Source: the samplers of torchvision's RandomResizedCrop and ColorJitter; Salmon et al., "Parallel random numbers: as
    easy as 1, 2, 3", 2011, for Philox.
    """
    if not isinstance(recipe, Recipe):
        raise TypeError(f"recipe: got {type(recipe).__name__}, want a fastssl.functional.Recipe")
    _checks.positive_int("n", n)
    if sample_ids is None:
        device = torch.device("cpu" if device is None else device)
        sample_ids = torch.arange(n, device=device)
    elif sample_ids.dtype != torch.int64 or sample_ids.shape != (n,):
        raise ValueError(f"sample_ids: got {sample_ids.dtype} {tuple(sample_ids.shape)}, want int64 [{n}]")
    elif device is not None:
        sample_ids = sample_ids.to(device)
    seed = seed_tensor(seed, sample_ids.device)
    heights, widths = _image_sizes(image_size, n, sample_ids.device)
    packed = torch.ops.fastssl.sample_params(seed, sample_ids, heights, widths, recipe.table(), _backend.requested())
    return AugmentParams(packed)


def _image_sizes(image_size: Any, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    if isinstance(image_size, Tensor):
        if image_size.dtype.is_floating_point or image_size.shape != (n, 2):
            got = f"{image_size.dtype} {tuple(image_size.shape)}"
            raise ValueError(f"image_size: got {got}, want integers [{n}, 2] or (H, W)")
        if image_size.device.type == "cpu" and int(image_size.min()) < 1:
            raise ValueError(f"image_size: got {int(image_size.min())}, want heights and widths >= 1")
        sizes = image_size.to(device, torch.int64, non_blocking=True)
        return sizes[:, 0], sizes[:, 1]
    if not isinstance(image_size, (tuple, list, torch.Size)) or len(image_size) != 2:
        raise ValueError(f"image_size: got {image_size!r}, want (H, W) or an int tensor [n, 2]")
    for side in image_size:
        _checks.positive_int("image_size", side)
    # Filled on the device: no copy from the host.
    return tuple(torch.full((1,), int(side), device=device).expand(n) for side in image_size)  # type: ignore[return-value]


def _forward(seed: Tensor, ids: Tensor, heights: Tensor, widths: Tensor, table: list[float], backend: str) -> Tensor:
    kernels = _backend.select("sample_params", ids, backend)
    packed: Tensor = kernels.sample_params_fwd(seed, ids, heights, widths, table)
    return packed


def _fake(seed: Tensor, ids: Tensor, heights: Tensor, widths: Tensor, table: list[float], backend: str) -> Tensor:
    return ids.new_empty((ids.shape[0], len(table) // len(TABLE), WORDS), dtype=torch.int32)


define_data_op(
    "sample_params(Tensor seed, Tensor sample_ids, Tensor heights, Tensor widths, float[] table, str backend)"
    " -> Tensor",
    _forward, _fake,
)  # fmt: skip
