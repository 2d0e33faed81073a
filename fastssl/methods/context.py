"""Context prediction: tell on which side of a patch of an image another one lies."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import _checks
from ._heads import mlp
from ._one_view import Pictures, Transform, only_view
from ._pretext import GRID, PatchPretext, paste

CENTER = GRID * GRID // 2
NEIGHBOURS = tuple(i for i in range(GRID * GRID) if i != CENTER)  # by direction, of which 7 - d is the opposite of d
DIRECTIONS = len(NEIGHBOURS)


class ContextPrediction(PatchPretext):
    """Context prediction: any encoder of patches, and a head that tells where one lies in relation to another.

    From each view nine patches are cut in a grid of 3 x 3. The one in the middle makes a pair with each of the others,
    both ways, so that the eight directions d (above left, above, above right, left ...) are equally frequent. With
    logits z of the head, which sees the features of both patches side by side,

        loss = mean over images and their 16 pairs of -log softmax(z)_d

    which is ln 8 = 2.0794 by chance. One step is ``loss = method(method.augment(images))``. The encoder, which sees
    patches here, is meant for whole images afterwards.

    What would answer the question without a look at what is in the patches, and what is done against it:

    - lines and textures that go on from one patch to the next: a `gap` between them, and `jitter`, which breaks those
      that are straight or periodic;
    - chromatic aberration, which shifts colours by their distance from the middle of a lens: of each patch one channel
      is kept, and the others are weak noise (`keep_channel_p`);
    - brightness and contrast, which change across an image: each channel of a patch has mean 0 and deviation 1
      (`standardize`);
    - sharpness and noise of single pixels, which do so too: one patch in three has fewer pixels, down to a tenth a side
      (`pixelate_p`). It weakens such a cue, and is no proof against it in the others.

    Args:
        encoder: a module [B, C, h, w] -> features [B, f] or [B, f, h', w'] (averaged over them), for images of any
            size, or the name of a timm model, for RGB images.
        hidden_dim: width of the head's hidden layer.
        patch_size: side of a patch in pixels; by default what gap and jitter leave of the view, the authors' 96 of 398.
        gap: pixels between the cells of the grid; by default in proportion to the authors' 48.
        jitter: the farthest that a patch is moved along each axis, in pixels; by default in proportion to their 7.
        keep_channel_p, standardize: see `fastssl.functional.extract_patches`.
        pixelate_p: probability that a patch is made of fewer pixels.
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

    Source: Doersch, Gupta and Efros 2015, "Unsupervised Visual Representation Learning by Context Prediction".

    >>> method = fastssl.methods.ContextPrediction("resnet18", image_size=398)
    >>> loss = method(method.augment(images))  # images uint8 [B, 3, H, W]
    """

    def __init__(
        self,
        encoder: nn.Module | str,
        hidden_dim: int = 4096,
        patch_size: int | None = None,
        gap: int | None = None,
        jitter: int | None = None,
        keep_channel_p: float = 1.0,
        standardize: bool = True,
        pixelate_p: float = 0.33,
        zoom: float = 1.0,
        transform: Transform | None = None,
        image_size: int | None = None,
        feature_dim: int | None = None,
    ) -> None:
        super().__init__(encoder, (398, 48, 7), patch_size, gap, jitter, zoom, transform, image_size, feature_dim)
        _checks.positive_int("hidden_dim", hidden_dim)
        self.keep_channel_p = _checks.fraction("keep_channel_p", keep_channel_p)
        self.pixelate_p = _checks.fraction("pixelate_p", pixelate_p)
        self.standardize = standardize
        self.head: nn.Module = mlp((2 * self.width, hidden_dim, DIRECTIONS), last_bias=True)

    def patches(self, view: Tensor, *, seed: int | None = None) -> tuple[Tensor, Tensor]:
        """Return the patches [N, 9, C, p, p] of a view as the encoder sees them, and their corners [N, 9, 2]."""
        patches, corners = self.cut(view, seed, standardize=self.standardize, keep_channel_p=self.keep_channel_p)
        return (pixelate(patches, self.pixelate_p, seed) if self.pixelate_p else patches), corners

    def pairs(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits [N, 16, 8] of the pairs of patches [N, 9, C, p, p], and where the second ones lie [16]."""
        features = self.embed(patches)
        others = features[:, NEIGHBOURS]
        center = features[:, CENTER, None].expand_as(others)
        both = torch.cat([torch.cat([center, others], 2), torch.cat([others, center], 2)], 1)
        logits: Tensor = self.head(both.flatten(0, 1)).unflatten(0, both.shape[:2])
        direction = torch.arange(DIRECTIONS, device=patches.device)
        return logits.to(torch.promote_types(logits.dtype, torch.float32)), torch.cat([direction, direction.flip(0)])

    def forward(self, views: Sequence[Tensor], *, seed: int | None = None) -> Tensor:
        """Return the loss, a 0-d float32 tensor, of one view in a list.

        Args:
            views: one view [N, C, H, W].
            seed: of the patches; by default drawn.

        Raises:
            ValueError: there is not one view, or it is too small for the patches.
        """
        logits, directions = self.pairs(self.patches(only_view(views), seed=seed)[0])
        return F.cross_entropy(logits.flatten(0, 1), directions.repeat(len(logits)))

    def draw(self, view: Tensor, seed: int) -> Pictures:
        """Return a row of two patches where they are, and one where the method takes the second one to be."""
        patches, corners = self.patches(view, seed=seed)
        shown, _ = self.cut(view, seed)
        told = self.pairs(patches)[0][:, :DIRECTIONS].argmax(2)  # of the pairs whose first patch is in the middle
        generator = torch.Generator().manual_seed(seed)
        row = torch.arange(len(view))
        direction = torch.randint(DIRECTIONS, (len(view),), generator=generator)
        neighbours = torch.tensor(NEIGHBOURS)
        second, guess = neighbours[direction], neighbours[told.cpu()[row, direction]]
        pair = torch.stack([shown[:, CENTER], shown[row, second]], 1)
        places = (torch.stack([corners[:, CENTER], corners[row, cell]], 1) for cell in (second, guess))
        true, predicted = (paste(pair, place, view) for place in places)
        return {"two patches": true, "as predicted": predicted}


def pixelate(patches: Tensor, p: float, seed: int | None) -> Tensor:
    """Let patches [N, P, C, h, h], each with probability p, be of fewer pixels: a tenth to a half of them a side.

    These are means over areas, between which the patch is interpolated.
    """
    side = patches.shape[-1]
    sizes = range(max(1, min(2, side // 2), side // 10), side // 2 + 1)
    if not sizes:
        return patches
    wide = torch.promote_types(patches.dtype, torch.float32)
    eye = torch.eye(side, dtype=wide, device=patches.device)[None]
    # Matrices [sizes, side, side] that shrink and enlarge a column of pixels; the last one leaves it as it is.
    few = (F.interpolate(eye, size, mode="area") for size in sizes)
    matrices = torch.cat([*(F.interpolate(x, side, mode="linear") for x in few), eye]).mT
    generator = None if seed is None else torch.Generator(patches.device).manual_seed(seed)
    shape = patches.shape[:2]
    kind = torch.randint(len(sizes), shape, generator=generator, device=patches.device)
    spared = torch.rand(shape, generator=generator, device=patches.device) >= p
    chosen = matrices[kind.masked_fill(spared, len(sizes))][:, :, None]
    return (chosen @ patches.to(wide) @ chosen.mT).to(patches.dtype)
