"""Plumbing for timm's vision transformers: which can be masked, positions, and the embedding of visible patches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..functional import mask_patchify


def check_vit(encoder: nn.Module) -> Any:
    """Return `encoder` if its patches can be masked: a plain VisionTransformer of timm without a classifier.

    Raises:
        TypeError: it is something else.
        ValueError: it is one whose patch embedding, pooling or image size does not fit.
    """
    from timm.models.vision_transformer import VisionTransformer

    vit: Any = encoder
    # A subclass with tokens of its own, such as DeiT's distilled one, would lose them here.
    if not isinstance(vit, VisionTransformer) or type(vit)._pos_embed is not VisionTransformer._pos_embed:
        raise TypeError(
            f"encoder: got {type(vit).__name__}, want a VisionTransformer of timm, such as "
            "timm.create_model('vit_base_patch16_224', num_classes=0)"
        )
    embed = vit.patch_embed
    proj, patch = getattr(embed, "proj", None), tuple(embed.patch_size)
    if not isinstance(proj, nn.Conv2d) or not proj.kernel_size == proj.stride == patch or proj.groups > 1:
        raise ValueError(f"encoder: got a patch embedding {type(embed).__name__}, want one convolution over each patch")
    if not isinstance(embed.norm, nn.Identity):
        raise ValueError("encoder: got a norm inside the patch embedding, want none")
    if vit.attn_pool is not None:
        raise ValueError(
            f"encoder: got global_pool={vit.global_pool!r}, which masking cannot train; want 'avg' or 'token'"
        )
    if any(size % side for size, side in zip(embed.img_size, patch, strict=True)):
        raise ValueError(f"encoder: got images {embed.img_size} in patches {patch}, want whole patches")
    return vit


def sincos_positions(width: int, grid: tuple[int, int], prefix: int = 0) -> Tensor:
    """Fixed positions of patches: sines and cosines of the column in one half of the width, of the row in the other.

    Args:
        width: of the positions, a multiple of 4.
        grid: patches along height and width, numbered row by row.
        prefix: tokens in front, whose positions are 0.

    Returns:
        float32 [1, prefix + patches, width].

    Source: He et al. 2022, and its code; frequencies of Vaswani et al. 2017, "Attention Is All You Need".
    """
    frequencies = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    rows, columns = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in grid), indexing="ij")
    angles = [place.reshape(-1, 1) * frequencies for place in (columns, rows)]
    table = torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], 1)
    return torch.cat([table.new_zeros(prefix, width), table]).float()[None]


def init_weights(module: nn.Module) -> None:
    """Initialise the linear layers and norms of a transformer as in MAE: Xavier-uniform weights, no bias."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.LayerNorm) and part.elementwise_affine:
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)


def init_vit(encoder: nn.Module, like: str = "mae") -> None:
    """Initialise a vision transformer of timm; its positions become sines and cosines that stay as they are.

    Args:
        encoder: from `check_vit`.
        like: "mae", or "mocov3", whose queries, keys and values count as layers of their own, and whose tokens and bias
            of the patches start at about 0.

    Raises:
        TypeError, ValueError: as for `check_vit`, or the width is no multiple of 4.
    """
    vit = check_vit(encoder)
    if vit.embed_dim % 4:
        raise ValueError(f"encoder: got width {vit.embed_dim}, want a multiple of 4 for positions of sines and cosines")
    init_weights(vit)
    proj = vit.patch_embed.proj
    nn.init.xavier_uniform_(proj.weight.view(len(proj.weight), -1))
    if like == "mocov3":
        for block in vit.blocks:
            for part in block.attn.qkv.weight.detach().chunk(3):
                nn.init.xavier_uniform_(part)
        if proj.bias is not None:
            nn.init.zeros_(proj.bias)
    for token in (vit.cls_token, vit.reg_token):
        if token is not None:
            nn.init.normal_(token, std=1e-6 if like == "mocov3" else 0.02)
    if vit.pos_embed is not None:
        prefix = 0 if vit.no_embed_class else vit.num_prefix_tokens
        with torch.no_grad():
            vit.pos_embed.copy_(sincos_positions(vit.embed_dim, vit.patch_embed.grid_size, prefix))
        vit.pos_embed.requires_grad_(False)


def positions(vit: Any) -> tuple[Tensor | None, Tensor | None]:
    """Return the positions of the prefix tokens [P, D] and of the patches [L, D], None where they have none."""
    if vit.pos_embed is None:
        return None, None
    table = vit.pos_embed[0]
    if vit.no_embed_class:
        return None, table
    return table[: vit.num_prefix_tokens], table[vit.num_prefix_tokens :]


def prefix_tokens(vit: Any) -> Tensor | None:
    """Return the class token and the registers [P, D], without positions; None where there are none."""
    tokens = [token[0] for token in (vit.cls_token, vit.reg_token) if token is not None]
    return torch.cat(tokens) if tokens else None


def embed_visible(vit: Any, view: Tensor, ids_keep: Tensor, table: Tensor | None) -> Tensor:
    """Embed the visible patches of images, and add their positions; no other patch is read.

    Args:
        vit: from `check_vit`.
        view: images [N, C, H, W].
        ids_keep: int64 [N, K].
        table: positions of all patches [L, D], or None to add none.

    Returns:
        Tokens [N, K, D] of the parameters' type; under autocast the product is of its type.
    """
    proj = vit.patch_embed.proj
    kind, dtype = view.device.type, proj.weight.dtype
    if torch.is_autocast_enabled(kind) and dtype == torch.float32:
        dtype = torch.get_autocast_dtype(kind)
    weight = proj.weight.flatten(1)
    if table is None:
        patches = mask_patchify(view, ids_keep, vit.patch_embed.patch_size, dtype=dtype)
        return nn.functional.linear(patches, weight, proj.bias).to(proj.weight.dtype)
    if proj.bias is not None:
        table = table + proj.bias
    # The table is small, so it is rounded before the gather rather than the gathered positions after it.
    patches, places = mask_patchify(view, ids_keep, vit.patch_embed.patch_size, table.to(dtype), dtype=dtype)
    tokens = torch.addmm(places.flatten(0, 1), patches.flatten(0, 1), weight.T)
    return tokens.view(places.shape).to(proj.weight.dtype)


def with_prefix(prefix: Tensor | None, tokens: Tensor) -> Tensor:
    """Put the same prefix tokens [P, D] in front of the tokens [N, K, D] of every sample."""
    return tokens if prefix is None else torch.cat([prefix.expand(len(tokens), -1, -1), tokens], 1)


def run_blocks(vit: Any, tokens: Tensor) -> Tensor:
    """Run the blocks and the last norm, wherever timm has put it, on tokens [N, P + K, D]."""
    # With pooling before the norm, timm keeps it in fc_norm: each token is normalised here, and so it is trained.
    normed: Tensor = vit.fc_norm(_run(vit, vit.pos_drop(tokens)))
    return normed


def _run(vit: Any, tokens: Tensor) -> Tensor:
    from timm.models import checkpoint_seq

    tokens = vit.norm_pre(tokens)
    tokens = checkpoint_seq(vit.blocks, tokens) if vit.grad_checkpointing else vit.blocks(tokens)
    normed: Tensor = vit.norm(tokens)
    return normed


def encode_tokens(
    vit: Any, view: Tensor, mask: Tensor | None = None, token: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the features [N, D], as timm pools them, and the normed patches [N, L, D] of a view [N, C, H, W].

    Args:
        vit: from `check_vit`.
        view: images of a size that it takes.
        mask: bool [N, L]: the patches that the token stands in for.
        token: [D].
    """
    x = vit.patch_embed(view)  # [N, L, D], or [N, h, w, D] where the size may differ
    if mask is not None and token is not None:
        x = torch.where(mask.view(*x.shape[:-1], 1), token.to(x.dtype), x)
    x = _run(vit, vit._pos_embed(x))
    return vit.forward_head(x, pre_logits=True), vit.fc_norm(x[:, vit.num_prefix_tokens :])


def unpatchify(patches: Tensor, shape: torch.Size, patch: tuple[int, int]) -> Tensor:
    """Put patches [N, L, p q C] back together to images of `shape`, [N, C, H, W]."""
    p, q = patch
    n, c, height, width = shape
    grid = patches.view(n, height // p, width // q, p, q, c)
    return grid.permute(0, 5, 1, 3, 2, 4).reshape(shape)
