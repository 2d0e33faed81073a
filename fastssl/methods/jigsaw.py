"""Jigsaw: tell in which order the shuffled tiles of an image are."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import _checks, transforms
from ._heads import mlp
from ._one_view import Pictures, Transform, only_view
from ._pretext import GRID, PatchPretext, paste

TILES = GRID * GRID
GRAY = (0.299, 0.587, 0.114)


class Jigsaw(PatchPretext):
    """Jigsaw puzzles: any encoder of tiles, and a head that tells how the nine tiles of an image were shuffled.

    A permutation out of a fixed set of K, far from each other, shuffles the tiles of a grid of 3 x 3. The encoder sees
    each by itself, and the head the features of all nine side by side, in the order in which they are shown. With its
    logits z and the number k of the permutation

        loss = mean over images of -log softmax(z)_k

    which is ln K = 6.9078 for K = 1000 by chance. One step is ``loss = method(method.augment(images))``. The encoder,
    which sees tiles here, is meant for whole images afterwards.

    What would solve the puzzle without a look at what is in the tiles, and what is done against it:

    - lines and textures that go on from one tile to the next: a `gap` between them, and `jitter`;
    - brightness, contrast and tint, which change across an image: each channel of a tile has mean 0 and deviation 1
      (`standardize`);
    - chromatic aberration, which shifts colours by their distance from the middle of a lens: part of the images is grey
      (`gray_p`), and the channels of each tile are moved against each other (`channel_jitter`). It blurs the cue.

    Args:
        encoder: a module [B, C, h, w] -> features [B, f] or [B, f, h', w'] (averaged over them), for images of any
            size, or the name of a timm model, for RGB images.
        permutations: K, from 2 to 1000.
        hidden_dim: width of the head's hidden layer.
        patch_size: side of a tile in pixels; by default what gap and jitter leave of the view, the authors' 64 of 255.
        gap: pixels between the cells of the grid; by default in proportion to the authors' 21.
        jitter: the farthest that a tile is moved along each axis, in pixels; by default in proportion to their 10, of
            which `channel_jitter` is a part.
        standardize: see `fastssl.functional.extract_patches`.
        gray_p: probability that an image is grey.
        channel_jitter: the farthest that a channel of a tile is moved along each axis, in pixels.
        zoom: > 0, side of the view of the default transform in that of the images. Patches of small images hold too few
            pixels for layers that look further than them; 2 or 3 lets such layers learn.
        transform: a batch of uint8 images -> list of one float view; by default a square crop of half the image or
            more, mirrored half of the time, but for grey characters up to 16 pixels.
        image_size: height and width of the images; by default those that `augment` is given, and 224 for images of
            different sizes.
        feature_dim: f, where the encoder has no attribute `num_features` to tell.

    Raises:
        TypeError, ValueError: an argument is of another type or out of range, or the encoder is a classifier.
        MissingExtraError: `encoder` is a name and timm is not installed.

    The permutations are a buffer and part of the state dict; see `permutation_set`.

    Source: Noroozi and Favaro 2016, "Unsupervised Learning of Visual Representations by Solving Jigsaw Puzzles".

    >>> method = fastssl.methods.Jigsaw("resnet18", image_size=255)
    >>> image, shuffled, solved = method.pictures(images[:8]).values()
    """

    # Of the authors, for a batch of 256.
    defaults: ClassVar[dict[str, Any]] = {"optimizer": "sgd", "lr": 0.01, "warmup_epochs": 0}
    permutations: Tensor

    def __init__(
        self,
        encoder: nn.Module | str,
        permutations: int = 1000,
        hidden_dim: int = 4096,
        patch_size: int | None = None,
        gap: int | None = None,
        jitter: int | None = None,
        standardize: bool = True,
        gray_p: float = 0.3,
        channel_jitter: int = 2,
        zoom: float = 1.0,
        transform: Transform | None = None,
        image_size: int | None = None,
        feature_dim: int | None = None,
    ) -> None:
        _checks.int_in("permutations", permutations, 2, 1000)
        _checks.positive_int("hidden_dim", hidden_dim)
        _checks.count("channel_jitter", channel_jitter)
        super().__init__(encoder, (255, 21, 10), patch_size, gap, jitter, zoom, transform, image_size, feature_dim)
        self.gray_p = _checks.fraction("gray_p", gray_p)
        self.standardize, self.channel_jitter = standardize, channel_jitter
        self.register_buffer("permutations", permutation_set(permutations).clone())
        self.head: nn.Module = mlp((TILES * self.width, hidden_dim, permutations), last_bias=True)

    def puzzle(self, view: Tensor, *, seed: int | None = None) -> tuple[Tensor, Tensor]:
        """Return the shuffled tiles [N, 9, C, p, p] of a view as the encoder sees them, and which permutations [N].

        The tile that is shown in place i is that of place ``permutations[k, i]``.
        """
        generator = None if seed is None else torch.Generator(view.device).manual_seed(seed)
        if self.gray_p and view.shape[1] == 3:
            gray = torch.rand(len(view), 1, 1, 1, generator=generator, device=view.device) < self.gray_p
            view = torch.where(gray, _without_color(view), view)
        margin = self._margin(view)
        tiles, _ = self.cut(view, seed, margin, standardize=self.standardize)
        if margin:
            tiles = _move_channels(tiles, margin, generator)
        k = torch.randint(len(self.permutations), (len(view),), generator=generator, device=view.device)
        return shuffle(tiles, self.permutations[k]), k

    def _margin(self, view: Tensor) -> int:
        return self.channel_jitter if view.shape[1] > 1 else 0

    def solve(self, tiles: Tensor) -> Tensor:
        """Return the logits [N, K] of shuffled tiles [N, 9, C, p, p]."""
        logits: Tensor = self.head(self.embed(tiles).flatten(1))
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def forward(self, views: Sequence[Tensor], *, seed: int | None = None) -> Tensor:
        """Return the loss, a 0-d float32 tensor, of one view in a list.

        Args:
            views: one view [N, C, H, W].
            seed: of the tiles and permutations; by default drawn.

        Raises:
            ValueError: there is not one view, or it is too small for the tiles.
        """
        tiles, k = self.puzzle(only_view(views), seed=seed)
        return F.cross_entropy(self.solve(tiles), k)

    def draw(self, view: Tensor, seed: int) -> Pictures:
        """Return a row of shuffled tiles, and one of tiles that are put together again."""
        tiles, k = self.puzzle(view, seed=seed)
        shown, corners = self.cut(view, seed, self._margin(view))
        shown = shuffle(shown, self.permutations[k])
        back = self.permutations[self.solve(tiles).argmax(1)].argsort(1)
        together = paste(shuffle(shown, back), corners, view)
        return {"shuffled tiles": paste(shown, corners, view), "put together": together}


def shuffle(tiles: Tensor, order: Tensor) -> Tensor:
    """Return tiles [N, 9, ...] in an order [N, 9] of their own for each image."""
    return tiles[torch.arange(len(tiles), device=tiles.device)[:, None], order]


def _without_color(view: Tensor) -> Tensor:
    mean, std = (torch.tensor(s, device=view.device, dtype=view.dtype)[:, None, None] for s in transforms.statistics(3))
    share = torch.tensor(GRAY, device=view.device, dtype=view.dtype)[:, None, None]
    return ((share * (view * std + mean)).sum(1, keepdim=True) - mean) / std


def _move_channels(tiles: Tensor, most: int, generator: torch.Generator | None) -> Tensor:
    """Move each channel of tiles [N, P, C, h, w] within a margin of so many pixels, which is cut off."""
    for axis in (3, 4):
        places = torch.arange(tiles.shape[axis] - 2 * most, device=tiles.device)
        by = torch.randint(2 * most + 1, tiles.shape[:3], generator=generator, device=tiles.device)
        source = (by[..., None] + places).unsqueeze(7 - axis)
        shape = [*tiles.shape]
        shape[axis] = len(places)
        tiles = tiles.gather(axis, source.expand(shape))
    return tiles


@functools.cache
def permutation_set(count: int) -> Tensor:
    """Choose permutations of nine tiles that are far from each other.

    Starting with the one that changes nothing, the next is always, of all 9! = 362 880, the one whose least Hamming
    distance to those before is greatest; among such the one with the greatest sum of distances; and among those the
    first in lexicographic order. Nothing is random, so that a set is the beginning of every larger one.

    Args:
        count: how many, >= 1.

    Returns:
        int64 [count, 9].
    """
    numbers = itertools.chain.from_iterable(itertools.permutations(range(TILES)))
    every = np.fromiter(numbers, np.uint8).reshape(-1, TILES).T.copy()
    least = np.full(math.factorial(TILES), TILES, np.uint8)
    total = np.zeros_like(least, np.int32)
    chosen = [0]
    while len(chosen) < count:
        distance = np.zeros_like(least)
        for place in every:
            distance += (place != place[chosen[-1]]).view(np.uint8)
        np.minimum(least, distance, out=least)
        total += distance
        chosen.append(int((least * np.int32(TILES * count + 1) + total).argmax()))
    return torch.from_numpy(every[:, chosen].T.astype(np.int64))
