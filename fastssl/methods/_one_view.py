"""What methods that reconstruct one view of each image have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .. import _checks, transforms
from .._images import RaggedImages
from ..functional import Recipe, TokenMasks, View, masked_mse, random_masking
from ..masking import patchify
from ._encoder import build_encoder, encoder_width, frozen
from ._vit import check_vit, unpatchify

Size = int | tuple[int, int]
Transform = Callable[[Any], list[Tensor]]
Pictures = dict[str, Tensor]


def default_view(channels: int, size: Size) -> transforms.Transform:
    """MAE's recipe for one view; a small grey character is cropped less and not mirrored: that would be another."""
    least = size if isinstance(size, int) else min(size)
    if channels == 1 and least <= 16:
        return transforms.Transform(Recipe((View(size, (0.5, 1.0), hflip_p=0.0),)))
    return transforms.Transform(Recipe((View(size, (0.2, 1.0)),), "bicubic"))


class OneView(nn.Module):
    """Base of methods with one view: its augmentation, and pictures of what it reconstructs."""

    # What `fastssl.fit` takes where nothing else is said: `lr` for a batch of 256, `warmup_epochs` at most.
    defaults: ClassVar[dict[str, Any]] = {}
    encoder: nn.Module

    def __init__(self, transform: Transform | None, image_size: Size | None) -> None:
        super().__init__()
        self.transform = transform
        self.image_size = image_size

    def augment(self, images: Tensor | RaggedImages) -> list[Tensor]:
        """Return one float32 view [B, C, H, W] of uint8 images [B, C, H, W] or `RaggedImages`, in a list."""
        if self.transform is not None:
            return self.transform(images)
        if isinstance(images, RaggedImages):
            return default_view(images.channels, self.image_size or 224)(images)
        return default_view(images.shape[1], self.image_size or (images.shape[2], images.shape[3]))(images)

    def pictures(self, images: Tensor, *, seed: int = 0) -> Pictures:
        """Show what the method makes of images; nothing of it changes.

        Args:
            images: uint8 [N, C, H, W], of the size that the encoder takes.
            seed: of what is hidden from the encoder.

        Returns:
            Rows of pictures float32 [N, C, H, W] in [0, 1] by name: "original", "seen", what the encoder sees of it,
            and "reconstruction".
        """
        with frozen(self):
            rows = self._pictures(transforms.normalize(images), seed)
        return {name: transforms.to_pixels(row) for name, row in rows.items()}

    def _pictures(self, view: Tensor, seed: int) -> Pictures:
        raise NotImplementedError


def only_view(views: Sequence[Tensor]) -> Tensor:
    """Return the one view of a list.

    Raises:
        ValueError: there are more or fewer, or it is no batch of images.
    """
    if len(views) != 1:
        raise ValueError(f"views: got {len(views)}, want 1")
    if views[0].ndim != 4:
        raise ValueError(f"views: got shape {tuple(views[0].shape)}, want [N, C, H, W]")
    return views[0]


class MaskedViT(OneView):
    """Base of methods that hide patches from a vision transformer and predict their pixels."""

    norm_pix = False
    loss = "mse"

    def __init__(
        self,
        encoder: nn.Module | str,
        mask_ratio: float,
        transform: Transform | None,
        image_size: Size | None,
        init: str,
    ) -> None:
        if isinstance(encoder, str):
            size: dict[str, Any] = {} if image_size is None else {"img_size": image_size}
            encoder = build_encoder(encoder, init=init, **size)
        features = encoder_width(encoder)
        vit = check_vit(encoder)
        height, width = vit.patch_embed.img_size
        if image_size not in (None, (height, width)) and not image_size == height == width:
            raise ValueError(
                f"image_size: got {image_size}, want {height if height == width else (height, width)} as the encoder "
                f"takes; timm.create_model(..., img_size={image_size}) makes one for other images"
            )
        super().__init__(transform, height if height == width else (height, width))
        self.encoder, self.width = encoder, features
        self.mask_ratio = _checks.fraction("mask_ratio", mask_ratio, below_one=True)
        self.patch_size: tuple[int, int] = tuple(vit.patch_embed.patch_size)
        self.grid: tuple[int, int] = tuple(vit.patch_embed.grid_size)
        self.num_prefix: int = vit.num_prefix_tokens

    @property
    def patch_values(self) -> int:
        """Numbers in a patch."""
        p, q = self.patch_size
        return p * q * int(self.encoder.patch_embed.proj.in_channels)  # type: ignore[union-attr, arg-type]

    def _check_masked(self, cells: int, what: str) -> None:
        kept = int(cells * (1 - self.mask_ratio))
        if not 1 <= kept < cells:
            raise ValueError(
                f"mask_ratio: got {self.mask_ratio}, which keeps {kept} of {cells} {what}, want some of them"
            )

    def masks(
        self, n: int, device: torch.device, noise: Tensor | None, seed: int | None, sample_ids: Tensor | None
    ) -> TokenMasks:
        """Draw which patches are hidden."""
        length = self.grid[0] * self.grid[1]
        return random_masking(
            n, length, self.mask_ratio, noise=noise, seed=seed, sample_ids=sample_ids, device=device
        )  # fmt: skip

    def predict(self, view: Tensor, masks: TokenMasks) -> Tensor:
        """Return the predicted pixels [N, M, p q C] of the hidden patches, in the order of ``masks.ids_masked``."""
        raise NotImplementedError

    def forward(
        self,
        views: Sequence[Tensor],
        *,
        noise: Tensor | None = None,
        seed: int | None = None,
        sample_ids: Tensor | None = None,
    ) -> Tensor:
        """Return the loss, a 0-d float32 tensor, of one view in a list.

        Args:
            views: one view [N, C, H, W], of the size that the encoder takes.
            noise, seed, sample_ids: of the masks, see `fastssl.functional.random_masking`; by default drawn.

        Raises:
            ValueError: there is not one view, or it is of another size.
        """
        view = self._fitting(only_view(views))
        masks = self.masks(len(view), view.device, noise, seed, sample_ids)
        return masked_mse(
            self.predict(view, masks), view, masks.ids_masked, self.patch_size, norm_pix=self.norm_pix, loss=self.loss
        )

    def _fitting(self, view: Tensor) -> Tensor:
        height, width = self.encoder.patch_embed.img_size  # type: ignore[union-attr, misc]
        wanted = (self.encoder.patch_embed.proj.in_channels, height, width)  # type: ignore[union-attr]
        if view.shape[1:] != wanted:
            raise ValueError(f"views: got images {tuple(view.shape[1:])}, want {wanted} as the encoder takes")
        return view

    def _pictures(self, view: Tensor, seed: int) -> Pictures:
        masks = self.masks(len(self._fitting(view)), view.device, None, seed, None)
        made = self.predict(view, masks).float()
        patches = patchify(view, self.patch_size)
        at = masks.ids_masked[..., None].expand_as(made)
        if self.norm_pix:
            # The prediction is of normalised patches; their own statistics give it back its brightness.
            var, mean = torch.var_mean(patches.gather(1, at), -1, keepdim=True)
            made = made * (var + 1e-6).sqrt() + mean
        filled, hidden = patches.scatter(1, at, made), patches.scatter(1, at, 0.0)
        seen, made = (unpatchify(rows, view.shape, self.patch_size) for rows in (hidden, filled))
        return {"original": view, "seen": seen, "reconstruction": made}
