"""SimMIM: hide large squares of an image behind mask tokens, and predict their pixels with one linear layer."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .. import _checks
from ..functional import TokenMasks, gather_tokens, random_masking, restore_tokens
from ._one_view import MaskedViT, Size, Transform
from ._vit import embed_visible, positions, prefix_tokens, run_blocks, with_prefix


class SimMIM(MaskedViT):
    """SimMIM: the encoder sees every place of the image, hidden patches as a learned token, and a linear layer
    predicts raw pixels, with an L1 loss on the hidden ones.

    Args:
        encoder: a VisionTransformer of timm without classifier, taken as it is, or the name of one, for RGB images.
        mask_ratio: part of the squares to hide, such that some are hidden and some are not.
        mask_patch_size: side of the squares in pixels, a multiple of the encoder's patches and a divisor of its images.
            By default 32, or an eighth of an image whose sides are under 128.
        transform: a batch of uint8 images -> list of one float view; by default as for `MAE`.
        image_size: height and width of the images, where `encoder` is a name; by default the model's own.

    Raises:
        TypeError, ValueError: an argument is of another type or out of range, or the encoder cannot be masked.
        MissingExtraError: timm is not installed.

    Source: Xie et al. 2022, "SimMIM: A Simple Framework for Masked Image Modeling".

    >>> method = fastssl.methods.SimMIM("vit_base_patch16_224")
    >>> loss = method(method.augment(images))  # images uint8 [B, 3, H, W]
    """

    defaults: ClassVar[dict[str, Any]] = {"lr": 5e-5, "weight_decay": 0.05, "warmup_epochs": 10}
    loss = "l1"

    def __init__(
        self,
        encoder: nn.Module | str,
        mask_ratio: float = 0.6,
        mask_patch_size: int | None = None,
        transform: Transform | None = None,
        image_size: Size | None = None,
    ) -> None:
        super().__init__(encoder, mask_ratio, transform, image_size, init="timm")
        sides = [n * p for n, p in zip(self.grid, self.patch_size, strict=True)]
        if mask_patch_size is None:
            mask_patch_size = 32 if min(sides) >= 128 else max(*self.patch_size, min(sides) // 8)
        _checks.positive_int("mask_patch_size", mask_patch_size)
        if any(mask_patch_size % p for p in self.patch_size) or any(side % mask_patch_size for side in sides):
            raise ValueError(
                f"mask_patch_size: got {mask_patch_size}, want a multiple of the encoder's patches, {self.patch_size}, "
                f"that divides its images, {tuple(sides)}"
            )
        self.mask_patch_size = mask_patch_size
        self._check_masked(sides[0] // mask_patch_size * (sides[1] // mask_patch_size), "squares")
        self.mask_token = nn.Parameter(torch.empty(1, 1, self.width))
        nn.init.trunc_normal_(self.mask_token, std=0.02, a=-0.02, b=0.02)
        self.decoder = nn.Linear(self.width, self.patch_values)

    def masks(
        self, n: int, device: torch.device, noise: Tensor | None, seed: int | None, sample_ids: Tensor | None
    ) -> TokenMasks:
        """Draw which patches are hidden: squares of them, drawn as `MAE` draws patches (noise [n, squares])."""
        p, q = (self.mask_patch_size // side for side in self.patch_size)  # patches a square
        rows, columns = self.grid[0] // p, self.grid[1] // q
        squares = random_masking(
            n, rows * columns, self.mask_ratio, noise=noise, seed=seed, sample_ids=sample_ids, device=device
        )
        inside = torch.arange(p, device=device)[:, None] * self.grid[1] + torch.arange(q, device=device)

        def patches(ids: Tensor) -> Tensor:
            corner = ids // columns * (p * self.grid[1]) + ids % columns * q
            return (corner[..., None] + inside.flatten()).flatten(1)

        # Patch j of the square in place r of the shuffled squares is in place r p q + j of the shuffled patches.
        place = squares.ids_restore.view(n, rows, 1, columns, 1) * (p * q)
        place = place + torch.arange(p * q, device=device).view(p, 1, q)
        mask = squares.mask.view(n, rows, 1, columns, 1).expand(place.shape).flatten(1)
        return TokenMasks(patches(squares.ids_keep), place.flatten(1), mask, patches(squares.ids_masked))

    def predict(self, view: Tensor, masks: TokenMasks) -> Tensor:
        """Return the predicted pixels [N, M, p q C] of the hidden patches, in the order of ``masks.ids_masked``."""
        vit: Any = self.encoder
        visible = with_prefix(prefix_tokens(vit), embed_visible(vit, view, masks.ids_keep, None))
        of_prefix, of_patches = positions(vit)
        if of_patches is not None:
            before = of_patches.new_zeros(self.num_prefix, self.width) if of_prefix is None else of_prefix
            of_patches = torch.cat([before, of_patches])
        x = restore_tokens(visible, masks.ids_restore, self.mask_token, of_patches, prefix_tokens=self.num_prefix)
        x = run_blocks(vit, x)
        pixels: Tensor = self.decoder(gather_tokens(x[:, self.num_prefix :], masks.ids_masked))
        return pixels
