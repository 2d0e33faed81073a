"""Random masks over tokens: docstring, checks, schema, fake. The draws and ranks are in the kernels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import _backend, _checks
from ._registration import define_data_op
from ._seeds import check_view, sample_ids_on, sampling_device, seed_or_random

_TYPES = (torch.int64, torch.float32, torch.float64)  # of sample ids, of noise
_backend.register(
    "random_masking",
    triton=_backend.Kernel(_TYPES),
    cpp=_backend.Kernel(_TYPES),
    torch=_backend.Kernel(_TYPES),
)


@dataclass(frozen=True)
class TokenMasks:
    """Which tokens of each sample are kept. Iterates as ``ids_keep, ids_restore, mask``, the triple of MAE's code.

    Attributes:
        ids_keep: int64 [n, K], the kept tokens in the order of their noise; -1 where a sample keeps fewer than K.
        ids_restore: int64 [n, L], where token l is in the shuffled sequence: below K among the kept ones, else masked.
        mask: float32 [n, L], 1 where a token is removed.
        ids_masked: int64 [n, M], the removed tokens in the order of their noise; -1 where there are fewer than M.
    """

    ids_keep: Tensor
    ids_restore: Tensor
    mask: Tensor
    ids_masked: Tensor

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.ids_keep, self.ids_restore, self.mask))


def random_masking(
    n: int,
    length: int,
    mask_ratio: float | Sequence[float] | Tensor = 0.75,
    *,
    seed: int | Tensor | None = None,
    noise: Tensor | None = None,
    sample_ids: Tensor | None = None,
    view: int = 0,
    prefix_tokens: int = 0,
    device: torch.device | str | None = None,
) -> TokenMasks:
    """Choose at random which tokens of each sample stay.

    A token's rank is the number of tokens of its sample with less noise, among equal noise with a lower index: that of
    a stable sort, NaN last, with which ``ids_restore`` is the rank itself. The int((L - P) (1 - mask_ratio)) tokens of
    the lowest rank stay, and with them the P prefix tokens, which are the first in ``ids_keep``.

    Args:
        n: samples, >= 1.
        length: tokens L of a sample, prefix tokens included; any number from `prefix_tokens` + 1 on.
        mask_ratio: part of the tokens to remove, in [0, 1); or one number a sample, as a sequence or a tensor [n] on
            the CPU, since shapes follow from it. Then K is the largest number of kept tokens, M that of removed ones,
            rows of ``ids_keep`` and ``ids_masked`` end in -1 where a sample has fewer, and ``ids_restore`` of the
            removed tokens counts from K on.
        seed: a 64-bit integer, or an int64 tensor [] on the CPU or on `device`; one on the device lets a CUDA graph
            draw anew at every replay. By default drawn from PyTorch's CPU generator, which `torch.manual_seed` sets.
        noise: float [n, L - P] to rank, instead of a seed; no token of the prefix has any.
        sample_ids: int64 [n], such as indices into the data set, with which a sample's mask does not depend on its
            batch; by default 0 .. n - 1.
        view: tells several masks of the same samples apart.
        prefix_tokens: P, the class token and registers in front of each sequence, which are always kept.
        device: where the masks are made; by default that of `noise`, `sample_ids` or `seed`, else the CPU.

    Returns:
        ``ids_keep``, ``ids_restore``, ``mask``, as attributes and by iteration, and ``ids_masked``.

    Raises:
        TypeError, ValueError: an argument is of another type, shape or range, or both seed and noise are given.
        RuntimeError: the backend that is forced cannot run this call.

    From the same noise the result equals MAE's code bit for bit, except that its sort is not stable. From the same seed
    it is the same on every backend: the noise of token j is word j mod 4 of Philox4x32-10 with key `seed` and counter
    (id, view, 64 + 256 floor(j / 4)).

    Source: He et al., Masked Autoencoders Are Scalable Vision Learners, 2022, section 3.
    """
    _checks.positive_int("n", n)
    _checks.int_in("prefix_tokens", prefix_tokens, 0, 2**31 - 1)
    patches = length - prefix_tokens if isinstance(length, int) else 0
    if isinstance(length, bool) or not isinstance(length, int) or not 1 <= patches < 2**31:
        raise ValueError(f"length: got {length!r}, want an int >= prefix_tokens + 1 = {prefix_tokens + 1}")
    check_view(view)
    device = sampling_device(device, noise, sample_ids, seed)
    if noise is None:
        seed = seed_or_random(seed, device)
    elif seed is not None:
        raise ValueError("seed: got one beside noise, want one of the two")
    else:
        noise = _noise(noise, n, patches, device)
    kept = _kept(mask_ratio, n, patches, prefix_tokens)
    most, least = (max(kept), min(kept)) if isinstance(kept, list) else (kept, kept)
    counts = torch.tensor(kept).to(device, non_blocking=True) if isinstance(kept, list) else None
    ids = sample_ids_on(sample_ids, n, device)
    shuffled, restore, mask = torch.ops.fastssl.random_masking(
        seed, noise, ids, counts, n, length, prefix_tokens, most, length - least, view, device, _backend.requested()
    )
    return TokenMasks(shuffled[:, :most], restore, mask, shuffled[:, most:])


def _noise(noise: object, n: int, patches: int, device: torch.device) -> Tensor:
    x = _checks.float_tensor("noise", noise, "[n, L - P]")
    if x.shape != (n, patches):
        raise ValueError(f"noise: got shape {tuple(x.shape)}, want [n, L - P] = ({n}, {patches})")
    if x.device != device:
        raise ValueError(f"noise: got device {x.device}, want {device}")
    exact = x if x.dtype in _TYPES else x.float()
    return exact.detach().contiguous()


def _kept(mask_ratio: object, n: int, patches: int, prefix: int) -> int | list[int]:
    """Tokens that stay: one number, or one a sample."""
    ratios: object = mask_ratio
    if isinstance(mask_ratio, Tensor):
        if mask_ratio.device.type != "cpu":
            raise ValueError(
                f"mask_ratio: got a tensor on {mask_ratio.device}, want one on the CPU: shapes follow from it"
            )
        ratios = mask_ratio.tolist()
    if isinstance(ratios, (list, tuple)):
        if len(ratios) != n:
            raise ValueError(f"mask_ratio: got {len(ratios)} numbers, want n = {n}")
        return [prefix + int(patches * (1 - _checks.fraction("mask_ratio", r, below_one=True))) for r in ratios]
    return prefix + int(patches * (1 - _checks.fraction("mask_ratio", ratios, below_one=True)))


def _forward(
    seed: Tensor | None, noise: Tensor | None, sample_ids: Tensor | None, keep: Tensor | None, n: int, length: int,
    prefix: int, num_keep: int, num_masked: int, view: int, device: torch.device, backend: str,
) -> Any:  # fmt: skip
    like = torch.empty(0, dtype=torch.int64, device=device) if noise is None else noise
    kernels = _backend.select("random_masking", like, backend)
    return kernels.random_masking_fwd(
        seed, noise, sample_ids, keep, n, length, prefix, num_keep, num_masked, view, device
    )


def _fake(
    seed: Tensor | None, noise: Tensor | None, sample_ids: Tensor | None, keep: Tensor | None, n: int, length: int,
    prefix: int, num_keep: int, num_masked: int, view: int, device: torch.device, backend: str,
) -> Any:  # fmt: skip
    ids = torch.empty((n, num_keep + num_masked), dtype=torch.int64, device=device)
    restore = torch.empty((n, length), dtype=torch.int64, device=device)
    return ids, restore, torch.empty((n, length), dtype=torch.float32, device=device)


define_data_op(
    "random_masking(Tensor? seed, Tensor? noise, Tensor? sample_ids, Tensor? keep, SymInt n, SymInt length,"
    " SymInt prefix, SymInt num_keep, SymInt num_masked, int view, Device device, str backend)"
    " -> (Tensor ids_shuffle, Tensor ids_restore, Tensor mask)",
    _forward, _fake,
)  # fmt: skip
