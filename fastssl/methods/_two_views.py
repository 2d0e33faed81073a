"""What methods that compare two views of each image have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .. import transforms
from .._images import RaggedImages
from ._encoder import build_encoder, encode, encoder_width, fixed_size, is_vit

Transform = Callable[[Any], list[Tensor]]


class TwoViews(nn.Module):
    """Base of methods with two views of each image: their encoder, its head, and how the views are made.

    Args:
        encoder: a module images -> features, or the name of a timm model.
        transform: a batch of uint8 images -> list of two float views; by default `recipe`.
        image_size: height and width of the views that `recipe` makes, and of the images of a named vision transformer.
        feature_dim: width of the features, where the encoder does not tell.
        vit_init: initial weights of a named vision transformer, see `build_encoder`.
    """

    projector: nn.Module

    def __init__(
        self,
        encoder: nn.Module | str,
        transform: Transform | None,
        image_size: int | None,
        feature_dim: int | None,
        vit_init: str = "timm",
    ) -> None:
        super().__init__()
        if isinstance(encoder, str):
            more: dict[str, Any] = {"init": vit_init} if is_vit(encoder) else {}
            if more and image_size is not None:
                more["img_size"] = image_size
            encoder = build_encoder(encoder, **more)
        self.width = encoder_width(encoder, feature_dim)
        self.encoder = encoder
        self.transform = transform
        height, width = fixed_size(encoder) or (None, None)
        self.image_size = height if image_size is None and height == width else image_size

    def recipe(self, channels: int, size: int) -> transforms.Transform:
        """Return the default transform for images of so many channels, with views of so many pixels."""
        return transforms.default_simclr(channels, size)

    def augment(self, images: Tensor | RaggedImages) -> list[Tensor]:
        """Return two float32 views [B, C, size, size] of uint8 images [B, C, H, W] or `RaggedImages`."""
        if self.transform is not None:
            return self.transform(images)
        if isinstance(images, RaggedImages):
            return self.recipe(images.channels, self.image_size or 224)(images)
        return self.recipe(images.shape[1], self.image_size or images.shape[-1])(images)

    def pictures(self, images: Tensor, *, seed: int = 0) -> dict[str, Tensor]:
        """Show images and the views that the method makes of them; nothing of it changes.

        Args:
            images: uint8 [N, C, H, W].
            seed: of the views.

        Returns:
            Rows of pictures float32 [N, C, h, w] in [0, 1]: "image", "view 1", "view 2" ..., each of its own size.
        """
        devices = [images.device] if images.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            views = self.augment(images)
        rows = {f"view {i}": transforms.to_pixels(view) for i, view in enumerate(views, 1)}
        return {"image": images.float() / 255, **rows}

    def project(self, view: Tensor) -> Tensor:
        """Return the projections [B, projection_dim] of one view [B, C, H, W]."""
        projection: Tensor = self.projector(encode(self.encoder, view))
        return projection


def small_or(published: Callable[..., transforms.Transform], channels: int, size: int) -> transforms.Transform:
    """Return a published recipe, with views for convolutions; up to 64 pixels, SimCLR's for small images."""
    if size <= 64:
        return transforms.default_simclr(channels, size)
    return published(size, memory_format=torch.channels_last)


def both(views: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the two views of a list.

    Raises:
        ValueError: there are more or fewer.
    """
    if len(views) != 2:
        raise ValueError(f"views: got {len(views)}, want 2")
    return views[0], views[1]
