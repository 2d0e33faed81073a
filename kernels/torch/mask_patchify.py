"""Patches of the kept tokens in torch ops, for any device and float type."""

from __future__ import annotations

import torch
from torch import Tensor

from .gather_tokens import gather_tokens_bwd
from .tokens import chunks, places, sum_type


def patches_at(
    images: Tensor, rows: Tensor, patch: list[int], scale: list[float], shift: list[float], channels_last: bool,
    dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """Return value * scale + shift of the patches `rows` [n, K] of images [n, C, T, H, W]: [n, K, C t p q]."""
    x = images
    for axis, side in enumerate(patch):
        x = x.unfold(axis + 2, side, side)
    _, channels, _, down, across, *_ = x.shape
    x = x.movedim(1, -1 if channels_last else 4)  # [n, T, H, W, *the axes of a patch*], a view
    sample = torch.arange(len(x), device=x.device)[:, None]
    taken = x[sample, rows // (down * across), rows // across % down, rows % across].to(dtype)
    factor, offset = (on_device(numbers, taken) for numbers in (scale, shift))
    if not channels_last:
        factor, offset = factor.view(-1, 1, 1, 1), offset.view(-1, 1, 1, 1)
    return (taken * factor + offset).reshape(*rows.shape, channels * patch[0] * patch[1] * patch[2])


def on_device(numbers: list[float], like: Tensor) -> Tensor:
    """One number a channel, filled on the device: a copy from the host would wait for it."""
    return torch.cat([like.new_full((1,), number) for number in numbers])


def mask_patchify_fwd(
    images: Tensor, ids: Tensor, patch: list[int], pos: Tensor | None, scale: list[float], shift: list[float],
    channels_last: bool, dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return patches [N, K, C t p q] and positions [N, K, D], or [0] without pos; zeros where ids name no token."""
    n, channels, *sides = images.shape
    tokens, elements = 1, channels
    for size, side in zip(sides, patch, strict=True):
        tokens, elements = tokens * (size // side), elements * side
    rows, named = places(ids, tokens)
    out = torch.empty((*ids.shape, elements), dtype=dtype, device=images.device)
    exact = sum_type(torch.promote_types(images.dtype, dtype))
    for part in chunks(n, ids.shape[1] * elements):
        x = patches_at(images[part], rows[part], patch, scale, shift, channels_last, exact)
        out[part] = x.masked_fill_(~named[part][..., None], 0)
    if pos is None:
        return out, out.new_empty(0, dtype=torch.float32)
    return out, pos[rows].masked_fill_(~named[..., None], 0).contiguous()


def mask_patchify_bwd(grad_positions: Tensor, ids: Tensor, tokens: int) -> Tensor:
    """Return the gradient of pos [tokens, D], summed over the batch."""
    total = grad_positions.new_zeros((tokens, grad_positions.shape[2]), dtype=torch.float64)
    for part in chunks(len(ids), tokens * grad_positions.shape[2]):
        grad = grad_positions[part].to(sum_type(grad_positions.dtype))
        total += gather_tokens_bwd(grad, ids[part], tokens, 0).sum(0)
    return total.to(sum_type(grad_positions.dtype))
