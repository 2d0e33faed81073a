"""Pixels of patches of video [N, C, T, H, W] with any strides, read where they are."""

from __future__ import annotations

import functools
from typing import Any

import torch
import triton
import triton.language as tl

ARGUMENTS = tl.constexpr(8)  # numbers of more channels are in memory


def affine(scale: list[float], shift: list[float], device: torch.device) -> tuple[Any, Any]:
    """A number a channel, as the kernels take them: None where they change nothing."""
    if set(scale) == {1.0} and set(shift) == {0.0}:
        return None, None
    if len(scale) <= ARGUMENTS.value:
        return tuple(scale), tuple(shift)
    return _uploaded(tuple(scale), device), _uploaded(tuple(shift), device)


@functools.lru_cache(maxsize=64)
def _uploaded(numbers: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """On the device, copied once; from page-locked memory, so that the copy does not wait for the device."""
    found = torch.tensor(numbers, dtype=torch.float32)
    return found.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else found


@triton.jit
def of_channel(numbers, channel, CHANNELS: tl.constexpr):
    if CHANNELS > ARGUMENTS:
        return tl.load(numbers + channel, mask=channel < CHANNELS, other=0.0)
    else:
        value = tl.full(channel.shape, 0.0, tl.float32) + numbers[0]
        for i in tl.static_range(1, CHANNELS):
            value = tl.where(channel == i, numbers[i], value)
        return value


@triton.jit
def load_patches(images, layout, patch, element, mask, scale, shift, PATCH: tl.constexpr, CHANNELS_LAST: tl.constexpr):
    """Pixels * scale + shift, [patches, elements] float32.

    `layout`: patches in a row, rows of patches in a frame, strides of channels, frames, rows and columns of pixels.
    `PATCH`: channels, frames, rows and columns of a patch. Patches are numbered frame by frame, row by row.
    """
    CHANNELS: tl.constexpr = PATCH[0]
    FRAMES: tl.constexpr = PATCH[1]
    ROWS: tl.constexpr = PATCH[2]
    COLUMNS: tl.constexpr = PATCH[3]
    across, down, stride_c, stride_t, stride_h, stride_w = layout
    if CHANNELS_LAST:  # (t, y, x, c)
        c = element % CHANNELS
        x = element // CHANNELS % COLUMNS
        y = element // (CHANNELS * COLUMNS) % ROWS
        t = element // (CHANNELS * COLUMNS * ROWS)
    else:  # (c, t, y, x)
        x = element % COLUMNS
        y = element // COLUMNS % ROWS
        t = element // (COLUMNS * ROWS) % FRAMES
        c = element // (COLUMNS * ROWS * FRAMES)
    corner = (patch % across * COLUMNS).to(tl.int64) * stride_w
    corner += (patch // across % down * ROWS).to(tl.int64) * stride_h
    corner += (patch // across // down * FRAMES).to(tl.int64) * stride_t
    offset = c.to(tl.int64) * stride_c + t.to(tl.int64) * stride_t
    offset += y.to(tl.int64) * stride_h + x.to(tl.int64) * stride_w
    value = tl.load(images + (corner[:, None] + offset[None, :]), mask=mask, other=0).to(tl.float32)
    if scale is not None:
        value = value * of_channel(scale, c, CHANNELS)[None, :] + of_channel(shift, c, CHANNELS)[None, :]
    return value
