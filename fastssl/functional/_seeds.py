"""What the ops that draw random numbers take: a seed, ids of the samples, a view."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import _checks


def seed_or_random(seed: int | Tensor | None, device: torch.device) -> Tensor:
    """Return `seed_tensor` of a seed, or of one drawn from PyTorch's CPU generator."""
    return torch.randint(2**62, ()) if seed is None else seed_tensor(seed, device)


def seed_tensor(seed: int | Tensor, device: torch.device) -> Tensor:
    """Return a seed as an int64 tensor [], on the CPU or on `device`."""
    if isinstance(seed, Tensor):
        if seed.dtype != torch.int64 or seed.ndim != 0 or seed.device not in (device, torch.device("cpu")):
            raise ValueError(
                f"seed: got a {seed.dtype} tensor {tuple(seed.shape)} on {seed.device}, want an int or an int64 "
                f"tensor [] on the CPU or {device}"
            )
        return seed
    if isinstance(seed, bool) or not isinstance(seed, int) or not -(2**63) <= seed < 2**64:
        raise ValueError(f"seed: got {seed!r}, want a 64-bit integer")
    return torch.tensor(seed - 2**64 if seed >= 2**63 else seed)


def sampling_device(device: torch.device | str | None, *tensors: object) -> torch.device:
    """Return `device`, or else that of the first tensor there is, or else the CPU."""
    if device is not None:
        return torch.device(device)
    return next((t.device for t in tensors if isinstance(t, Tensor)), torch.device("cpu"))


def sample_ids_on(sample_ids: Tensor | None, n: int, device: torch.device) -> Tensor | None:
    """Check the ids of `n` samples, and return them on `device`."""
    if sample_ids is None:
        return None
    if not isinstance(sample_ids, Tensor):
        raise TypeError(f"sample_ids: got {type(sample_ids).__name__}, want an int64 tensor [{n}]")
    if sample_ids.dtype != torch.int64 or sample_ids.shape != (n,):
        raise ValueError(f"sample_ids: got {sample_ids.dtype} {tuple(sample_ids.shape)}, want int64 [{n}]")
    return sample_ids.to(device)


def check_view(view: int) -> None:
    """Check the number of a view, which tells independent draws for the same samples apart."""
    _checks.int_in("view", view, 0, 2**32 - 1)
