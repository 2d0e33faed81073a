"""Random words of the masks: Philox counted by (sample id, view, purpose + 256 block), the same on every backend."""

from __future__ import annotations

import torch
from torch import Tensor

from .philox import philox

RANDOM, MULTIBLOCK, BLOCKWISE, TEXT = range(64, 68)  # purposes
EVERYONE = -1  # the id of draws that all samples share


def ids_or_range(sample_ids: Tensor | None, n: int, device: torch.device) -> Tensor:
    """The sample ids int64 [n], by default 0 .. n - 1."""
    return torch.arange(n, device=device) if sample_ids is None else sample_ids


def words(seed: Tensor, ids: Tensor, view: int, purpose: int, first: int, last: int) -> list[Tensor]:
    """The four words of blocks first .. last - 1 of each id, each int64 [n, last - first]."""
    counter = purpose + 256 * torch.arange(first, last, device=ids.device)
    low, high = (ids & 0xFFFFFFFF)[:, None], ((ids >> 32) & 0xFFFFFFFF)[:, None]
    # Filled on the device: no copy from the host waits for it.
    return philox(seed.to(ids.device, non_blocking=True), (low, high, torch.full_like(counter, view), counter))


def uniform(word: Tensor) -> Tensor:
    """Float64 in [0, 1)."""
    return word.double() * 2.0**-32


def between(low: float, high: float | Tensor, u: Tensor) -> Tensor:
    """Return low + (high - low) u, each step rounded on its own."""
    return low + (high - low) * u


def sides(area: Tensor, aspect: Tensor) -> tuple[Tensor, Tensor]:
    """Height and width of a block of an area, height / width being the aspect; rounded half up."""
    return tuple((x.sqrt() + 0.5).floor() for x in (area * aspect, area / aspect))  # type: ignore[return-value]
