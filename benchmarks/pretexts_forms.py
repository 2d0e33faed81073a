"""What a problem of the pretexts' ops is, and the forms in which patches are cut: fastssl, eager PyTorch, torchvision.

Others than fastssl are told where the patches lie, which costs them no draw, so that all cut the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastssl import functional

Inputs = dict[str, Any]  # tensors and what goes with them
Form = Callable[[Inputs], Any]


@dataclass(frozen=True)
class Problem:
    """A case of `CASES` and its sizes, with the seconds that its timing may take and the providers to compare."""

    case: str
    n: int  # images
    side: int  # of images, in pixels
    dtype: str = "float32"  # of what is made of them, or of what the loss is taken of
    interleaved: bool = False  # images are channels last in memory, as decoders give them
    providers: tuple[str, ...] | None = None  # None: all there are
    budget_s: float = 8

    @property
    def label(self) -> str:
        """For test names."""
        return f"{self.case}-{self.n}-{self.side}-{self.dtype}{'-interleaved' if self.interleaved else ''}"


FormOf = Callable[[Problem], Form]


@dataclass(frozen=True)
class Grid:
    """How a pretext has its patches cut."""

    size: int
    gap: int
    jitter: int
    standardize: bool
    keep_channel_p: float
    cells: int = 9


GRIDS = {"jigsaw": Grid(64, 21, 10, True, 0.0), "context": Grid(96, 48, 7, False, 1.0)}
MEAN, STD, EPS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 1e-6
SEED, NOISE = 7, 0.01


def pixels(problem: Problem, generator: torch.Generator) -> Tensor:
    """Random images uint8 [N, 3, side, side]."""
    shape = (problem.n, 3, problem.side, problem.side)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return images.contiguous(memory_format=torch.channels_last) if problem.interleaved else images


def patch_inputs(problem: Problem, generator: torch.Generator) -> Inputs:
    """Images, where fastssl cuts patches out of them, and the channel that each keeps, if it keeps one alone."""
    images, grid = pixels(problem, generator), GRIDS[problem.case]
    patches, corners = _cut({"images": images}, grid, torch.float32)
    kept = patches.flatten(3).std(3).argmax(2) if grid.keep_channel_p else None
    return {"images": images, "corners": corners, "places": corners.tolist(), "kept": kept}


def without_noise(inputs: Inputs, out: Tensor) -> list[Tensor]:
    """What all forms agree on: the patches, or their kept channels and the size of the noise in the others, roughly."""
    if inputs["kept"] is None:
        return [out]
    kept = inputs["kept"][:, :, None, None, None]
    others = torch.arange(out.shape[2], device=out.device)[:, None, None] != kept
    noise = out.float().masked_select(others)
    return [out.masked_fill(others, 0), (100 * noise.std()).round()]


def _cut(inputs: Inputs, grid: Grid, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return functional.extract_patches(
        inputs["images"], grid.size, gap=grid.gap, jitter=grid.jitter, standardize=grid.standardize,
        keep_channel_p=grid.keep_channel_p, dtype=dtype, seed=SEED,
    )  # fmt: skip


def _own(problem: Problem) -> Form:
    grid, dtype = GRIDS[problem.case], getattr(torch, problem.dtype)
    return lambda x: _cut(x, grid, dtype)[0]


def _normalized(x: Tensor) -> Tensor:
    mean, std = (torch.tensor(s, device=x.device)[:, None, None] for s in (MEAN, STD))
    return (x.float() / 255 - mean) / std


def _standardized(tiles: Tensor) -> Tensor:
    """Each channel of each tile."""
    variance, mean = torch.var_mean(tiles, (-2, -1), correction=0, keepdim=True)
    return (tiles - mean) / (variance + EPS).sqrt()


def _by_gather(problem: Problem) -> Form:
    """One gather for the whole batch, and one op after another on the patches."""
    grid, dtype = GRIDS[problem.case], getattr(torch, problem.dtype)

    def form(x: Inputs) -> Tensor:
        images, corners = x["images"], x["corners"]
        side = torch.arange(grid.size, device=images.device)
        rows, columns = corners[..., :1] + side, corners[..., 1:] + side
        sample = torch.arange(len(images), device=images.device)[:, None, None, None]
        taken = images[sample, :, rows[..., :, None], columns[..., None, :]]  # [N, P, h, w, C]
        tiles = _normalized(taken.movedim(-1, 2))
        if grid.standardize:
            tiles = _standardized(tiles)
        if grid.keep_channel_p:
            kept = x["kept"][:, :, None, None, None]
            deviation = tiles.std((-2, -1), keepdim=True).gather(2, kept) * NOISE
            others = torch.arange(3, device=images.device)[:, None, None] != kept
            tiles = torch.where(others, torch.randn_like(tiles) * deviation, tiles)
        return tiles.to(dtype)

    return form


def _by_tiles(problem: Problem, tile_of: Callable[[Inputs, int, int, int, int], Tensor]) -> Form:
    """A loop over images and cells, as a data set's `__getitem__` has it."""
    grid, dtype = GRIDS[problem.case], getattr(torch, problem.dtype)

    def finished(tile: Tensor, kept: int) -> Tensor:
        if grid.standardize:
            tile = _standardized(tile)
        if grid.keep_channel_p:
            tile = tile.clone()
            for channel in {0, 1, 2} - {kept}:
                tile[channel] = torch.randn_like(tile[channel]) * (tile[kept].std() * NOISE)
        return tile.to(dtype)

    def form(x: Inputs) -> Tensor:
        kept = torch.zeros(problem.n, grid.cells).tolist() if x["kept"] is None else x["kept"].tolist()
        return torch.stack([
            torch.stack([finished(tile_of(x, i, *place, grid.size), keep) for place, keep in zip(*row, strict=True)])
            for i, row in enumerate(zip(x["places"], kept, strict=True))
        ])  # fmt: skip

    return form


def _by_slices(problem: Problem) -> Form:
    """The batch is normalised, and every patch sliced out of it."""

    def form(x: Inputs) -> Tensor:
        whole = {**x, "images": _normalized(x["images"])}
        return _by_tiles(problem, lambda x, i, y, z, side: x["images"][i, :, y : y + side, z : z + side])(whole)

    return form


def _by_crops(problem: Problem) -> Form:
    """Every patch is cropped, converted and normalised by torchvision."""
    from torchvision.transforms.v2 import functional as F

    def tile_of(x: Inputs, i: int, top: int, left: int, side: int) -> Tensor:
        tile = F.to_dtype(F.crop(x["images"][i], top, left, side, side), torch.float32, scale=True)
        return F.normalize(tile, list(MEAN), list(STD))

    return _by_tiles(problem, tile_of)


PATCHES: dict[str, FormOf] = {
    "fastssl": _own,
    "eager": _by_gather,
    "compile": lambda problem: torch.compile(_by_gather(problem), dynamic=False),  # static shapes, its best case
    "slices": _by_slices,
    "torchvision": _by_crops,
}


def patch_bytes(problem: Problem, mode: str) -> int:
    """Reads the pixels that are left once, a byte each, and writes the patches."""
    grid = GRIDS[problem.case]
    plane = problem.n * grid.cells * grid.size**2
    return plane * (1 if grid.keep_channel_p else 3) + 3 * plane * getattr(torch, problem.dtype).itemsize
