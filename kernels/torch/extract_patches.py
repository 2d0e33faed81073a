"""Patches of a jittered grid in torch ops, for any device and float type; a chunk of samples at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from . import draws
from .mask_patchify import on_device
from .tokens import chunks, sum_type

EPS = 1e-6  # added to the variance of a channel
NOISE = 0.01  # deviation of noise, in that of the channel that is kept


def extract_patches_fwd(
    images: Tensor, seed: Tensor, sample_ids: Tensor | None, patch: list[int], grid: list[int], gap: int, jitter: int,
    standardize: bool, keep_channel_p: float, scale: list[float], shift: list[float], dtype: torch.dtype, view: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return patches [N, P, C, h, w] and their corners int64 [N, P, 2]."""
    n, channels, *sides = images.shape
    count = grid[0] * grid[1]
    ids = draws.ids_or_range(sample_ids, n, images.device)
    origin = draws.words(seed, ids, view, draws.PATCHES, 0, 1)
    words = draws.words(seed, ids, view, draws.PATCHES, 1, count + 1)
    cell = torch.arange(count, device=images.device)
    places = []
    for axis, at in enumerate((cell // grid[1], cell % grid[1])):
        slack = sides[axis] - grid[axis] * (patch[axis] + gap) + gap - 2 * jitter
        moved = draws.below(origin[axis], slack + 1) + draws.below(words[axis], 2 * jitter + 1)
        places.append(at * (patch[axis] + gap) + moved)
    corners = torch.stack(places, 2)
    dropped, kept = words[2] < int(keep_channel_p * 2**32), draws.below(words[3], channels)  # [N, P]

    out = torch.empty((n, count, channels, *patch), dtype=dtype, device=images.device)
    exact = sum_type(torch.promote_types(images.dtype, dtype))
    factor, offset = (on_device(numbers, out.new_empty(0, dtype=exact))[:, None, None] for numbers in (scale, shift))
    y, x = (corners[..., a, None] + torch.arange(patch[a], device=images.device) for a in (0, 1))
    sample = torch.arange(n, device=images.device)[:, None, None, None]
    # Words are integers of 64 bits, several at a time.
    for part in chunks(n, count * channels * patch[0] * patch[1] * (4 if keep_channel_p > 0 else 1)):
        taken = images[sample[part], :, y[part, :, :, None], x[part, :, None]]  # [n, P, h, w, C]
        values = taken.movedim(-1, 2).to(exact)
        if not standardize and keep_channel_p == 0:
            out[part] = values * factor + offset
            continue
        away = values - values[..., :1, :1]  # of a constant channel nothing is left
        variance, mean = torch.var_mean(away, (3, 4), correction=0, keepdim=True)
        inverse = (factor * factor * variance + EPS).rsqrt() if standardize else torch.ones_like(variance)
        found = (away - mean) * (factor * inverse) if standardize else values * factor + offset
        if keep_channel_p > 0:
            chosen = kept[part, :, None, None, None].expand(-1, -1, 1, 1, 1)
            deviation = (variance.sqrt() * factor * inverse).gather(2, chosen) * NOISE
            noise = _noise(seed, ids[part], view, found.shape).to(exact) * deviation
            other = torch.arange(channels, device=images.device)[:, None, None] != chosen
            found = torch.where(dropped[part, :, None, None, None] & other, noise, found)
        out[part] = found
    return out, corners


def _noise(seed: Tensor, ids: Tensor, view: int, shape: torch.Size) -> Tensor:
    """Gaussian numbers float32 [n, P, C, h, w]: of each channel, number j ceil(h w / 4) + i is number j of block i."""
    n, patches, channels, height, width = shape
    blocks = -(-height * width // 4)
    words = draws.words(seed, ids, view, draws.NOISE, 0, patches * channels * blocks)
    numbers = [z.view(n, patches, channels, blocks) for z in draws.normals(words)]
    return torch.cat(numbers, 3)[..., : height * width].reshape(shape)
