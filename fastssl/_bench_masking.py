"""The ops of masked training in eager PyTorch, as MAE's authors compute them, and a quick comparison with fastssl's."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ._bench import interleave, time_passes
from .functional import gather_tokens, masked_mse, random_masking, restore_tokens

PATCH = 16  # pixels a side
EPS = 1e-6  # under the root of a patch's variance


@dataclass(frozen=True)
class MaskingRow:
    """Medians of one op: milliseconds of forward plus backward."""

    op: str
    fastssl_ms: float
    eager_ms: float

    @property
    def speedup(self) -> float:
        """Eager time over fastssl's."""
        return self.eager_ms / self.fastssl_ms


def eager_random_masking(
    n: int, length: int, mask_ratio: float, device: torch.device | str | None = None
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """ids_keep [n, K], ids_restore [n, L] and mask [n, L] of uniform noise, by two sorts."""
    kept = int(length * (1 - mask_ratio))
    ids_shuffle = torch.rand(n, length, device=device).argsort(dim=1)
    ids_restore = ids_shuffle.argsort(dim=1)
    mask = torch.ones(n, length, device=device)
    mask[:, :kept] = 0
    return ids_shuffle[:, :kept], ids_restore, mask.gather(1, ids_restore)


def eager_gather(x: Tensor, ids: Tensor) -> Tensor:
    """Tokens ids [N, K] of x [N, L, D]."""
    return x.gather(1, ids.unsqueeze(2).repeat(1, 1, x.shape[2]))


def eager_restore(visible: Tensor, ids_restore: Tensor, mask_token: Tensor, pos: Tensor) -> Tensor:
    """The decoder's input [N, 1 + L, D]: class token, visible tokens [N, 1 + K, D] in their places, mask tokens."""
    n, length = ids_restore.shape
    missing = mask_token.repeat(n, length + 1 - visible.shape[1], 1)
    shuffled = torch.cat([visible[:, 1:], missing], 1)
    return torch.cat([visible[:, :1], eager_gather(shuffled, ids_restore)], 1) + pos


def eager_patches(images: Tensor, patch: int, channels_last: bool = True) -> Tensor:
    """Patches [N, L, E] of images [N, C, H, W], elements (p, q, c) or (c, p, q)."""
    n, c, height, width = images.shape
    x = images.reshape(n, c, height // patch, patch, width // patch, patch)
    x = x.permute(0, 2, 4, 3, 5, 1) if channels_last else x.permute(0, 2, 4, 1, 3, 5)
    return x.reshape(n, -1, c * patch * patch)


def eager_normalized(target: Tensor) -> Tensor:
    """Patches of mean 0 and variance 1."""
    mean, var = target.mean(-1, keepdim=True), target.var(-1, keepdim=True)
    return (target - mean) / (var + EPS).sqrt()


def eager_masked_mse(pred: Tensor, images: Tensor, mask: Tensor, patch: int) -> Tensor:
    """Mean squared error of the masked patches, from predictions [N, L, E] of all."""
    error = (pred - eager_normalized(eager_patches(images, patch))).square().mean(-1)
    return (error * mask).sum() / mask.sum()


def compare_masking(
    batch_size: int, dim: int, image_size: int, mask_ratio: float, dtype: torch.dtype, device: torch.device,
    repeats: int,
) -> Iterator[MaskingRow]:  # fmt: skip
    """Yield one row for each op, as it is measured."""
    if image_size % PATCH:
        raise ValueError(f"image_size: got {image_size}, want a multiple of {PATCH}")
    n, length = batch_size, (image_size // PATCH) ** 2
    generator = torch.Generator().manual_seed(0)

    def leaf(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device, dtype).requires_grad_()

    images = torch.randn(n, 3, image_size, image_size, generator=generator).to(device)
    masks = random_masking(n, length, mask_ratio, seed=0, device=device)
    x, token, pos = leaf(n, length, dim), leaf(1, 1, dim), leaf(1, 1 + length, dim).detach()
    visible, pred = leaf(n, 1 + masks.ids_keep.shape[1], dim), leaf(n, length, 3 * PATCH**2)
    restore, mask = masks.ids_restore, masks.mask

    def masking() -> Tensor:
        return gather_tokens(x, random_masking(n, length, mask_ratio, device=device).ids_keep)

    def eager_masking() -> Tensor:
        return eager_gather(x, eager_random_masking(n, length, mask_ratio, device)[0])

    forms: dict[str, tuple[tuple[Tensor, ...], Callable[[], Tensor], Callable[[], Tensor]]] = {
        "masking": ((x,), masking, eager_masking),
        "restore": (
            (visible, token),
            lambda: restore_tokens(visible, restore, token, pos, prefix_tokens=1),
            lambda: eager_restore(visible, restore, token, pos),
        ),
        "loss": (
            (pred,),
            lambda: masked_mse(pred, images, mask, PATCH),
            lambda: eager_masked_mse(pred, images, mask, PATCH),
        ),
    }
    for op, (leaves, fused, eager) in forms.items():
        example = fused().detach()
        upstream = torch.randn_like(example) if example.ndim else torch.ones_like(example)  # as in training

        def step(form: Callable[[], Tensor], leaves: tuple[Tensor, ...] = leaves, g: Tensor = upstream) -> float:
            return time_passes(form, lambda out: torch.autograd.grad(out, leaves, g), device)[1]

        steps = {"fastssl": lambda turn, f=fused, s=step: s(f), "eager": lambda turn, f=eager, s=step: s(f)}
        times = interleave(steps, repeats)
        yield MaskingRow(op, statistics.median(times["fastssl"]), statistics.median(times["eager"]))
