"""Multi-block masks: docstring, checks, schema, fake. The draws are in the kernels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .. import _backend, _checks
from ._registration import define_data_op
from ._seeds import check_view, sample_ids_on, sampling_device, seed_or_random

_backend.register(
    "multiblock_masking",
    triton=_backend.Kernel((torch.int64,)),
    cpp=_backend.Kernel((torch.int64,)),
    torch=_backend.Kernel((torch.int64,)),
)
Range = tuple[float, float]


def multiblock_masking(
    n: int,
    grid: Sequence[int],
    *,
    num_blocks: int = 4,
    scale: Range = (0.15, 0.2),
    aspect_ratio: Range = (0.75, 1.5),
    temporal_scale: Range = (1.0, 1.0),
    shared_size: bool = True,
    seed: int | Tensor | None = None,
    sample_ids: Tensor | None = None,
    view: int = 0,
    device: torch.device | str | None = None,
) -> Tensor:
    """Draw rectangular blocks of tokens on a grid, as I-JEPA does, or boxes in a video, as V-JEPA does.

    With s, a, d uniform in `scale`, `aspect_ratio` and `temporal_scale`, a block has round(sqrt(A a)) rows and
    round(sqrt(A / a)) columns, A = floor(H W s), and floor(T d) frames, each at least 1 and at most the grid's. Its
    place is uniform over all that fit, the last row and column included.

    Args:
        n: samples, >= 1.
        grid: (H, W) or (T, H, W), the numbers of tokens, L in all.
        num_blocks: blocks B a sample, >= 1.
        scale: least and greatest part of the H W tokens of a frame, in (0, 1].
        aspect_ratio: least and greatest height over width, > 0.
        temporal_scale: least and greatest part of the frames, in (0, 1].
        shared_size: one size for all blocks of the call, a function of the seed and view alone, so that batches are
            rectangular; otherwise one for each block.
        seed, sample_ids, view, device: as for `random_masking`.

    Returns:
        bool [n, B, L], True inside the block; tokens are numbered row by row, frame by frame.

    Raises:
        TypeError, ValueError: an argument is of another type, shape or range.
        RuntimeError: the backend that is forced cannot run this call.

    The draws come from Philox4x32-10 with counter (id, view, 65 + 256 block) and are the same on every backend.

    Source: Assran et al., Self-Supervised Learning from Images with a Joint-Embedding Predictive Architecture, 2023;
    Bardes et al., Revisiting Feature Prediction for Learning Visual Representations from Video, 2024.
    """
    _checks.positive_int("n", n)
    _checks.positive_int("num_blocks", num_blocks)
    frames, rows, columns = check_grid(grid)
    low, high = check_range("scale", scale, 1.0), check_range("aspect_ratio", aspect_ratio, math.inf)
    table = [*low, *high, *check_range("temporal_scale", temporal_scale, 1.0)]
    check_view(view)
    device = sampling_device(device, sample_ids, seed)
    masks: Tensor = torch.ops.fastssl.multiblock_masking(
        seed_or_random(seed, device), sample_ids_on(sample_ids, n, device), n, [frames, rows, columns], num_blocks,
        table, bool(shared_size), view, device, _backend.requested(),
    )  # fmt: skip
    return masks


def check_grid(grid: object) -> tuple[int, int, int]:
    """Check the numbers of tokens (H, W) or (T, H, W), and return them as (T, H, W)."""
    if not isinstance(grid, (tuple, list)) or len(grid) not in (2, 3):
        raise ValueError(f"grid: got {grid!r}, want (H, W) or (T, H, W)")
    for size in grid:
        _checks.positive_int("grid", size)
    sizes = list(grid) if len(grid) == 3 else [1, *grid]
    return sizes[0], sizes[1], sizes[2]


def check_range(name: str, bounds: object, most: float) -> Range:
    """Check two numbers 0 < low <= high <= most, and return them as floats."""
    if (
        not isinstance(bounds, (tuple, list))
        or len(bounds) != 2
        or any(isinstance(b, bool) or not isinstance(b, (int, float)) for b in bounds)
        or not 0 < bounds[0] <= bounds[1] <= most
        or bounds[1] == math.inf
    ):
        limit = "" if most == math.inf else f" <= {most:g}"
        raise ValueError(f"{name}: got {bounds!r}, want two numbers 0 < low <= high{limit}")
    return float(bounds[0]), float(bounds[1])


def _forward(
    seed: Tensor, sample_ids: Tensor | None, n: int, grid: list[int], num_blocks: int, table: list[float],
    shared_size: bool, view: int, device: torch.device, backend: str,
) -> Tensor:  # fmt: skip
    kernels = _backend.select("multiblock_masking", torch.empty(0, dtype=torch.int64, device=device), backend)
    masks: Tensor = kernels.multiblock_masking_fwd(
        seed, sample_ids, n, grid, num_blocks, table, shared_size, view, device
    )
    return masks


def _fake(
    seed: Tensor, sample_ids: Tensor | None, n: int, grid: list[int], num_blocks: int, table: list[float],
    shared_size: bool, view: int, device: torch.device, backend: str,
) -> Tensor:  # fmt: skip
    return torch.empty((n, num_blocks, math.prod(grid)), dtype=torch.bool, device=device)


define_data_op(
    "multiblock_masking(Tensor seed, Tensor? sample_ids, SymInt n, SymInt[] grid, SymInt num_blocks, float[] table,"
    " bool shared_size, int view, Device device, str backend) -> Tensor",
    _forward, _fake,
)  # fmt: skip
