"""What pretexts have in common: questions about one view of each image whose answers are known without labels."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import _checks, transforms
from .._images import RaggedImages
from ..functional import Recipe, View, extract_patches
from ._encoder import build_encoder, build_for_any_size, encode, encoder_width, fixed_size, is_vit
from ._one_view import OneView, Pictures, Transform

GRID = 3  # patches a side


class Pretext(OneView):
    """Base of methods whose question is about a view that is square, upright, and resampled alike in both directions.

    Args:
        encoder: a module images -> features, or the name of a timm model.
        transform: a batch of uint8 images -> list of one float view; by default `recipe`.
        image_size: height and width of the view.
        feature_dim: width of the features, where the encoder does not tell.
        any_size: make a named vision transformer that takes images of several sizes.
    """

    image_size: int | None  # type: ignore[assignment]

    def __init__(
        self,
        encoder: nn.Module | str,
        transform: Transform | None,
        image_size: int | None,
        feature_dim: int | None,
        any_size: bool = False,
    ) -> None:
        if isinstance(encoder, str):
            size: dict[str, Any] = {} if image_size is None or not is_vit(encoder) else {"img_size": image_size}
            encoder = build_for_any_size(encoder, **size) if any_size else build_encoder(encoder, **size)
        width = encoder_width(encoder, feature_dim)
        if image_size is not None:
            _checks.positive_int("image_size", image_size)
        height, length = fixed_size(encoder) or (None, None)
        super().__init__(transform, height if image_size is None and height == length else image_size)
        self.encoder, self.width = encoder, width

    def recipe(self, channels: int, size: int) -> transforms.Transform:
        """Return the default transform: a square crop, mirrored but for grey characters, which that would change.

        Crops of another shape, squeezed into a square, would tell which side of the image was the long one.
        """
        hflip_p = 0.0 if channels == 1 and size <= 16 else 0.5
        view = View(size, scale=(0.5, 1.0), ratio=(1.0, 1.0), hflip_p=hflip_p)
        return transforms.Transform(Recipe((view,)))

    def augment(self, images: Tensor | RaggedImages) -> list[Tensor]:
        """Return one float32 view [B, C, size, size] of uint8 images [B, C, H, W] or `RaggedImages`, in a list."""
        if self.transform is not None:
            return self.transform(images)
        if isinstance(images, RaggedImages):
            return self.recipe(images.channels, self.image_size or 224)(images)
        return self.recipe(images.shape[1], self.image_size or min(images.shape[2:]))(images)


class PatchPretext(Pretext):
    """Base of methods whose encoder sees the patches of a grid of 3 x 3, which are cut out of a view.

    Args:
        encoder: as for `Pretext`, of images of any size.
        published: side of the view, gap and jitter of the authors, of which the defaults are in proportion.
        patch_size, gap, jitter: see `fastssl.functional.extract_patches`; None for the defaults.
        zoom: side of the view of the default transform in that of the images.
        transform, image_size, feature_dim: as for `Pretext`.
    """

    def __init__(
        self,
        encoder: nn.Module | str,
        published: tuple[int, int, int],
        patch_size: int | None,
        gap: int | None,
        jitter: int | None,
        zoom: float,
        transform: Transform | None,
        image_size: int | None,
        feature_dim: int | None,
    ) -> None:
        super().__init__(encoder, transform, image_size, feature_dim, any_size=True)
        if patch_size is not None:
            _checks.positive_int("patch_size", patch_size)
        for name, pixels in (("gap", gap), ("jitter", jitter)):
            if pixels is not None:
                _checks.count(name, pixels)
        _checks.scalar("zoom", zoom, torch.device("cpu"), positive=True)
        self.published, self.patch_size, self.gap, self.jitter, self.zoom = published, patch_size, gap, jitter, zoom

    def recipe(self, channels: int, size: int) -> transforms.Transform:
        """Return the default transform, as that of `Pretext` but for the size."""
        (view,) = super().recipe(channels, size).recipe.views
        return transforms.Transform(Recipe((replace(view, size=max(1, round(self.zoom * size))),)))

    def layout(self, height: int, width: int, margin: int = 0) -> tuple[int, int, int]:
        """Return side, gap and jitter of the patches, in a margin of their own, of a view of so many pixels.

        Raises:
            ValueError: the view is too small for patches of two pixels, or one patch of a vision transformer.
        """
        side, (whole, gap, jitter) = min(height, width), self.published
        gap = -(-gap * side // whole) if self.gap is None else self.gap
        # Patches that are moved towards each other, and what moves in their margins, never touch.
        jitter = max(0, min(round(jitter * side / whole), (gap - 1) // 2) - margin)
        jitter = jitter if self.jitter is None else self.jitter
        if self.patch_size is not None:
            return self.patch_size, gap, jitter
        taken = (GRID - 1) * gap + 2 * (jitter + margin)
        unit = max(getattr(getattr(self.encoder, "patch_embed", None), "patch_size", (1,)))
        size, least = (side - taken) // (GRID * unit) * unit, max(2, unit)
        if size < least:
            raise ValueError(
                f"views: got images of {height} x {width}, want at least {GRID * least + taken} pixels a side for "
                f"{GRID} x {GRID} patches of {least}, {gap} apart, each moved by up to {jitter + margin}"
            )
        return size, gap, jitter

    def cut(self, view: Tensor, seed: int | None, margin: int = 0, **defences: Any) -> tuple[Tensor, Tensor]:
        """Return the patches [N, 9, C, p, p] of a view, with so many pixels around, and their corners [N, 9, 2]."""
        size, gap, jitter = self.layout(view.shape[2], view.shape[3], margin)
        edge = 2 * margin
        return extract_patches(view, size + edge, (GRID, GRID), gap - edge, jitter, seed=seed, **defences)

    def embed(self, patches: Tensor) -> Tensor:
        """Return the features [N, 9, f] of patches [N, 9, C, p, p]."""
        return encode(self.encoder, patches.flatten(0, 1)).view(*patches.shape[:2], -1)

    def _pictures(self, view: Tensor, seed: int) -> Pictures:
        sizes = view.shape[2:], [max(1, round(self.zoom * side)) for side in view.shape[2:]]
        there, back = (partial(F.interpolate, size=size, mode="bilinear", antialias=True) for size in reversed(sizes))
        return {"image": view, **{name: back(row) for name, row in self.draw(there(view), seed).items()}}

    def draw(self, view: Tensor, seed: int) -> Pictures:
        """Return rows of pictures of what the method does with the patches of a view, normalised as it is."""
        raise NotImplementedError


def paste(patches: Tensor, corners: Tensor, like: Tensor) -> Tensor:
    """Return images as `like` [N, C, H, W] of their mean colour, with patches [N, P, C, h, w] at the corners."""
    canvas = torch.zeros_like(like)
    height, width = patches.shape[3:]
    for image, its_patches, its_corners in zip(canvas, patches, corners.tolist(), strict=True):
        for patch, (top, left) in zip(its_patches, its_corners, strict=True):
            image[:, top : top + height, left : left + width] = patch
    return canvas
