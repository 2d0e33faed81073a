"""Patches of images in eager PyTorch."""

from __future__ import annotations

from torch import Tensor

from ._gather_tokens import gather_tokens


def patchify(images: Tensor, patch: tuple[int, int, int], channels_last: bool) -> Tensor:
    """All patches [N, L, C t p q] of videos [N, C, T, H, W]; elements (c, t, p, q), or (t, p, q, c)."""
    n, c, *sides = images.shape
    (frames, t), (rows, p), (columns, q) = ((size // side, side) for size, side in zip(sides, patch, strict=True))
    x = images.reshape(n, c, frames, t, rows, p, columns, q)
    order = (0, 2, 4, 6, 3, 5, 7, 1) if channels_last else (0, 2, 4, 6, 1, 3, 5, 7)
    return x.permute(order).reshape(n, frames * rows * columns, -1)


def mask_patchify(
    images: Tensor, ids_keep: Tensor, patch: tuple[int, int, int], pos: Tensor, channels_last: bool = False
) -> tuple[Tensor, Tensor]:
    """The patches of float videos [N, C, T, H, W] with these ids, and their rows of pos [L, D]."""
    positions = gather_tokens(pos.expand(images.shape[0], *pos.shape), ids_keep)
    return gather_tokens(patchify(images, patch, channels_last), ids_keep), positions
