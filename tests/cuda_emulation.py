"""The CUDA kernel's stages on the host: builds cuda_emulation.cpp with a C++ compiler, and calls it by ctypes."""

from __future__ import annotations

import ctypes
import itertools
import subprocess
from pathlib import Path

import torch
from torch import Tensor

from fastssl._images import RaggedImages, as_batch
from fastssl.functional import AugmentParams, Recipe
from fastssl.functional._augment import empty_views

TYPES = (torch.float32, torch.float16, torch.bfloat16)  # in the order of ElementType


def build(source: str, out: Path, *flags: str) -> Path:
    """Compile a source of this folder; products and sums are fused where it says so."""
    options = ["-std=c++17", "-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", *flags]
    source = str(Path(__file__).parent / source)
    done = subprocess.run(["g++", *options, source, "-o", str(out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


def pointer(x: Tensor | None) -> ctypes.c_void_p:
    """Where a tensor's elements begin."""
    return ctypes.c_void_p(None if x is None else x.data_ptr())


class Emulator:
    """The kernels of augment and sample_params, run on the host."""

    def __init__(self, folder: Path) -> None:
        self.library = ctypes.CDLL(str(build("cuda_emulation.cpp", folder / "emulation.so", "-shared", "-fPIC")))

    def augment(
        self, images, params: AugmentParams, sizes, *, interpolation="bilinear", blur_kernel=None, mean=None, std=None,
        dtype=torch.float32, memory_format=torch.contiguous_format, rounding="none", blocks=0, on_chip=True, buffer=0,
        backwards=False,
    ) -> list[Tensor]:  # fmt: skip
        """Views as functional.augment returns them; not normalised by default.

        blocks: of a cluster, 0 for as many as the launcher takes; buffer: floats of the row buffer, 0 for as many as
        the launcher gives; on_chip: keep the state in shared memory; backwards: let the last "thread" run first.
        """
        batch = as_batch(images)
        if isinstance(batch, RaggedImages):
            pixels, extents, channels, strides = batch.pixels, batch.extents, batch.channels, (0,) * 4
            height = width = 0
        else:
            pixels, extents, strides = batch, None, batch.stride()
            _, channels, height, width = batch.shape
        sizes = [sizes] * params.views if isinstance(sizes, tuple) else sizes
        groups = [(h, w, len(list(same))) for (h, w), same in itertools.groupby(sizes)]
        heights, widths, counts = (list(column) for column in zip(*groups, strict=True))
        last = memory_format == torch.channels_last
        views = empty_views(params.packed, heights, widths, counts, channels, dtype, last)
        for view in views:
            view.fill_(torch.nan)
        ints = [(ctypes.c_int * len(groups))(*column) for column in (heights, widths, counts)]
        self.library.emulate_augment(
            pointer(pixels), pointer(extents), (ctypes.c_int64 * 4)(*strides), height, width, pointer(params.packed),
            ctypes.c_int64(len(params)), params.views, channels, len(groups),
            (ctypes.c_void_p * len(groups))(*(v.data_ptr() for v in views)), *ints, interpolation == "bicubic",
            blur_kernel or 0, (ctypes.c_float * channels)(*(mean or [0.0] * channels)),
            (ctypes.c_float * channels)(*(1 / s for s in std or [1.0] * channels)), TYPES.index(dtype), last,
            rounding == "uint8", blocks, on_chip, buffer, backwards,
        )  # fmt: skip
        return [view for group in views for view in group.unbind(0)]

    def layout(self, channels: int, size: tuple[int, int]) -> tuple[int, bool, int]:
        """What the launcher chooses for a view: blocks, whether the state is on the chip, bytes of shared memory."""
        out = (ctypes.c_int64 * 3)()
        self.library.emulate_layout(channels, *size, out)
        return out[0], bool(out[1]), out[2]

    def sample_params(self, recipe: Recipe, seed: int, ids: Tensor, sizes: Tensor) -> AugmentParams:
        """Parameters for samples `ids` of images of `sizes`, int64 [n, 2]."""
        table = torch.tensor(recipe.table(), dtype=torch.float64)
        packed = torch.full((len(ids), len(recipe.views), 12), -1, dtype=torch.int32)
        heights, widths = sizes.unbind(1)
        self.library.emulate_sample_params(
            ctypes.c_int64(seed), pointer(ids), pointer(heights), pointer(widths), ctypes.c_int64(sizes.stride(0)),
            pointer(table), ctypes.c_int64(len(ids)), len(recipe.views), pointer(packed),
        )  # fmt: skip
        return AugmentParams(packed)
