"""MAE: hide most patches of an image, encode the others, and reconstruct the hidden pixels."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .. import _checks
from ..functional import TokenMasks, gather_tokens, restore_tokens
from ._one_view import MaskedViT, Size, Transform
from ._vit import embed_visible, init_weights, positions, prefix_tokens, run_blocks, sincos_positions, with_prefix


class MAE(MaskedViT):
    """Masked autoencoder: a vision transformer that sees few patches, and a small decoder that fills in the others.

    `encoder` is what training is for. It embeds and transforms the visible patches alone; the decoder sees these and a
    learned token in every other place, and predicts the pixels of the hidden patches, by default normalised within
    each patch. One training step is ``loss = method(method.augment(images))``. The decoder's names in the state
    dict are those of the authors' code; the encoder's, timm's.

    Args:
        encoder: a VisionTransformer of timm without classifier, taken as it is, such as
            ``timm.create_model("vit_base_patch16_224", num_classes=0)``; or the name of one, made with MAE's initial
            weights and fixed positions, for RGB images. With class token or without, with registers, any image size.
        decoder_dim: width of the decoder, a multiple of 4 and of `decoder_heads`.
        decoder_depth: its blocks.
        mask_ratio: part of the patches to hide, such that some are hidden and some are not.
        norm_pix: predict (pixel - mean) / std of the patch rather than the pixel.
        decoder_heads: attention heads of a block.
        transform: a batch of uint8 images -> list of one float view. By default `fastssl.transforms.MAE`, which for
            grey images up to 16 pixels crops less and does not mirror.
        image_size: height and width of the images, where `encoder` is a name; by default the model's own.

    Raises:
        TypeError, ValueError: an argument is of another type or out of range, or the encoder cannot be masked.
        MissingExtraError: timm is not installed.

    Source: He et al. 2022, "Masked Autoencoders Are Scalable Vision Learners".

    >>> method = fastssl.methods.MAE(timm.create_model("vit_base_patch16_224", num_classes=0))
    >>> loss = method(method.augment(images))  # images uint8 [B, 3, H, W]
    >>> original, masked, reconstruction = method.pictures(images[:8]).values()
    """

    defaults: ClassVar[dict[str, Any]] = {"lr": 1.5e-4, "weight_decay": 0.05, "betas": (0.9, 0.95), "warmup_epochs": 40}

    def __init__(
        self,
        encoder: nn.Module | str,
        decoder_dim: int = 512,
        decoder_depth: int = 8,
        mask_ratio: float = 0.75,
        norm_pix: bool = True,
        decoder_heads: int = 16,
        transform: Transform | None = None,
        image_size: Size | None = None,
    ) -> None:
        super().__init__(encoder, mask_ratio, transform, image_size, init="mae")
        for name, value in (
            ("decoder_dim", decoder_dim),
            ("decoder_depth", decoder_depth),
            ("decoder_heads", decoder_heads),
        ):
            _checks.positive_int(name, value)
        if decoder_dim % 4 or decoder_dim % decoder_heads:
            raise ValueError(
                f"decoder_dim: got {decoder_dim}, want a multiple of 4 and of decoder_heads, {decoder_heads}"
            )
        from timm.models.vision_transformer import Block

        self._check_masked(self.grid[0] * self.grid[1], "patches")
        self.norm_pix = bool(norm_pix)
        norm = partial(nn.LayerNorm, eps=1e-6)
        self.decoder_embed = nn.Linear(self.width, decoder_dim)
        self.mask_token = nn.Parameter(torch.empty(1, 1, decoder_dim).normal_(std=0.02))
        fixed = sincos_positions(decoder_dim, self.grid, self.num_prefix)
        self.decoder_pos_embed = nn.Parameter(fixed, requires_grad=False)
        self.decoder_blocks = nn.ModuleList(
            Block(decoder_dim, decoder_heads, qkv_bias=True, norm_layer=norm) for _ in range(decoder_depth)
        )
        self.decoder_norm = norm(decoder_dim)
        self.decoder_pred = nn.Linear(decoder_dim, self.patch_values)
        for part in (self.decoder_embed, self.decoder_blocks, self.decoder_norm, self.decoder_pred):
            init_weights(part)

    def encode_visible(self, view: Tensor, ids_keep: Tensor) -> Tensor:
        """Return the features [N, P + K, D] of the prefix tokens and the visible patches of a view [N, C, H, W]."""
        vit: Any = self.encoder
        of_prefix, of_patches = positions(vit)
        prefix = prefix_tokens(vit)
        if prefix is not None and of_prefix is not None:
            prefix = prefix + of_prefix
        return run_blocks(vit, with_prefix(prefix, embed_visible(vit, view, ids_keep, of_patches)))

    def predict(self, view: Tensor, masks: TokenMasks) -> Tensor:
        """Return the predicted pixels [N, M, p q C] of the hidden patches, in the order of ``masks.ids_masked``."""
        x = self.decoder_embed(self.encode_visible(view, masks.ids_keep))
        x = restore_tokens(x, masks.ids_restore, self.mask_token, self.decoder_pos_embed, prefix_tokens=self.num_prefix)
        for block in self.decoder_blocks:
            x = block(x)
        # Norm and prediction act on each token alone, and the loss asks for the hidden ones.
        hidden = gather_tokens(x[:, self.num_prefix :], masks.ids_masked)
        pixels: Tensor = self.decoder_pred(self.decoder_norm(hidden))
        return pixels
