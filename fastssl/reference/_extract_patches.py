"""Patches of a jittered grid in plain Python."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ._sample_params import philox


def normal_numbers(count: int, seed: int, sample_id: int, view: int, first: int) -> list[float]:
    """Gaussian numbers of a channel of a patch, from the blocks `first` .. `first` + ceil(count / 4) - 1 of noise."""
    blocks = -(-count // 4)
    columns: list[list[float]] = [[], [], [], []]  # number j blocks + i comes from words of block i
    for block in range(first, first + blocks):
        w = philox(seed, [sample_id & 0xFFFFFFFF, (sample_id >> 32) & 0xFFFFFFFF, view, 69 + 256 * block])
        for j in (0, 2):
            radius = math.sqrt(-2 * math.log((w[j] // 2**8 + 1) / 2**24))
            angle = math.pi / 2 * (w[j + 1] // 2**30 + w[j + 1] // 2**6 % 2**24 / 2**24 - 0.5)
            columns[j].append(radius * math.cos(angle))
            columns[j + 1].append(radius * math.sin(angle))
    return [number for column in columns for number in column][:count]


def extract_patches(
    images: Tensor, patch: tuple[int, int], grid: tuple[int, int], gap: int, jitter: int, seed: int, *,
    standardize: bool = False, keep_channel_p: float = 0.0, first_id: int = 0, view: int = 0,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Patches [N, P, C, h, w] of float images [N, C, H, W], and their corners; see `fastssl.functional`."""
    (n, channels), (height, width), (rows, columns) = images.shape[:2], patch, grid
    patches, corners = images.new_empty(n, rows * columns, channels, *patch), []
    pitch = (height + gap, width + gap)
    slack = [size - grid[a] * pitch[a] + gap - 2 * jitter for a, size in enumerate(images.shape[2:])]
    for i in range(n):
        low, high = (first_id + i) & 0xFFFFFFFF, ((first_id + i) >> 32) & 0xFFFFFFFF
        origin = philox(seed, [low, high, view, 68])
        for p in range(rows * columns):
            w = philox(seed, [low, high, view, 68 + 256 * (p + 1)])
            cell = (p // columns, p % columns)
            top, left = (
                cell[a] * pitch[a] + (origin[a] * (slack[a] + 1) >> 32) + (w[a] * (2 * jitter + 1) >> 32)
                for a in (0, 1)
            )
            corners.append((top, left))
            x = images[i, :, top : top + height, left : left + width]
            var = x.var((1, 2), correction=0, keepdim=True)
            scale = (var + 1e-6).rsqrt() if standardize else torch.ones_like(var)
            patches[i, p] = (x - x.mean((1, 2), keepdim=True)) * scale if standardize else x
            kept = w[3] * channels >> 32
            deviation = (0.01 * var.sqrt() * scale)[kept]
            for c in range(channels) if w[2] < int(keep_channel_p * 2**32) else ():
                first = (p * channels + c) * -(-height * width // 4)
                if c != kept:
                    noise = normal_numbers(height * width, seed, first_id + i, view, first)
                    patches[i, p, c] = images.new_tensor(noise).view(patch) * deviation
    return patches, torch.tensor(corners).view(n, -1, 2)
