"""Masks and tokens in the calls of existing code: MAE's method, lightly's functions, timm's module; recipes of masks.

A loop that has these calls changes an import, and nothing else. New code has `fastssl.functional`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from . import _checks
from .functional import (
    blockwise_masking,
    gather_tokens,
    multiblock_masking,
    restore_tokens,
)
from .functional import random_masking as _random_masking

__all__ = [
    "PatchDropout", "beit_masks", "get_at_index", "ibot_masks", "ijepa_masks", "mask_at_index", "mask_to_ids",
    "patchify", "random_masking", "random_token_mask", "set_at_index", "vjepa_masks",
]  # fmt: skip


def random_masking(x: Tensor, mask_ratio: float) -> tuple[Tensor, Tensor, Tensor]:
    """Keep a random part of each sequence: the method `random_masking` of MAE's code.

    Args:
        x: float [N, L, D].
        mask_ratio: part of the tokens to remove, in [0, 1).

    Returns:
        x_masked [N, K, D], mask float32 [N, L] (1 = removed) and ids_restore int64 [N, L], with K = int(L (1 - ratio)).
    """
    _checks.float_tensor("x", x, "[N, L, D]")
    masks = _random_masking(x.shape[0], x.shape[1], mask_ratio, device=x.device)
    return gather_tokens(x, masks.ids_keep), masks.mask, masks.ids_restore


def random_token_mask(
    size: Sequence[int],
    mask_ratio: float = 0.6,
    mask_class_token: bool = False,
    device: torch.device | str | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw the ids of kept and of masked tokens, as lightly's function of that name.

    Args:
        size: batch size and length of the sequences, the class token included.
        mask_ratio: part of the tokens to mask, in [0, 1).
        mask_class_token: whether token 0 may be masked; otherwise it is the first that is kept.
        device: of the ids, by default the CPU.

    Returns:
        idx_keep int64 [N, K] and idx_mask int64 [N, L - K].
    """
    n, length = size
    if length == 1 and not mask_class_token:  # there is nothing to mask
        mask_class_token, mask_ratio = True, 0.0
    masks = _random_masking(n, length, mask_ratio, prefix_tokens=int(not mask_class_token), device=device)
    return masks.ids_keep, masks.ids_masked


def get_at_index(tokens: Tensor, index: Tensor) -> Tensor:
    """Return tokens [N, K, D] at index [N, K], as lightly's function of that name."""
    return gather_tokens(tokens, index)


def set_at_index(tokens: Tensor, index: Tensor, value: Tensor) -> Tensor:
    """Return tokens [N, L, D] with value [N, K, D] at index [N, K], as lightly's function of that name."""
    return tokens.scatter(1, index[..., None].expand(-1, -1, tokens.shape[2]), value)


def mask_at_index(tokens: Tensor, index: Tensor, mask_token: Tensor) -> Tensor:
    """Return tokens [N, L, D] with mask_token [1, 1, D] at index [N, K], as lightly's function of that name."""
    n, length, _ = tokens.shape
    own_place = torch.arange(length, device=tokens.device).expand(n, length)
    return restore_tokens(tokens, own_place.scatter(1, index, -1), mask_token)


def patchify(images: Tensor, patch_size: int | tuple[int, int]) -> Tensor:
    """Cut images [N, C, H, W] into patches [N, L, p q C], as lightly's function of that name and MAE's method.

    Patches and images need not be square. To have some of the patches alone, see `fastssl.functional.mask_patchify`.
    """
    n, channels, *sides = images.shape
    p, q = patch = (patch_size, patch_size) if isinstance(patch_size, int) else patch_size
    for side in patch:
        _checks.positive_int("patch_size", side)
    if sides[0] % p or sides[1] % q:
        raise ValueError(f"patch_size: got {patch_size}, want a divisor of height and width, {sides[0]} and {sides[1]}")
    grid = images.reshape(n, channels, sides[0] // p, p, sides[1] // q, q)
    return grid.permute(0, 2, 4, 3, 5, 1).reshape(n, -1, p * q * channels)


class PatchDropout(nn.Module):
    """Drop a random part of the patch tokens in training: timm's module of that name.

    Args:
        prob: part of the tokens to drop, in [0, 1).
        num_prefix_tokens: tokens in front, such as the class token, that always stay.
        ordered: keep the tokens in the order they had.

    Source: Liu et al., PatchDropout: Economizing Vision Transformers Using Patch Dropout, 2022.
    """

    def __init__(self, prob: float = 0.5, num_prefix_tokens: int = 1, ordered: bool = False) -> None:
        super().__init__()
        self.prob = _checks.fraction("prob", prob, below_one=True)
        _checks.int_in("num_prefix_tokens", num_prefix_tokens, 0, 2**31 - 1)
        self.num_prefix_tokens, self.ordered = num_prefix_tokens, ordered

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, P + K, D] of tokens [N, P + L, D], K = max(1, int(L (1 - prob))); in eval mode `x` itself."""
        if not self.training or self.prob == 0:
            return x
        patches = x.shape[1] - self.num_prefix_tokens
        masks = _random_masking(x.shape[0], patches, self.prob, device=x.device)
        ids = torch.cat([masks.ids_keep, masks.ids_masked], 1)[:, : max(1, masks.ids_keep.shape[1])]
        return gather_tokens(x, ids.sort(1).values if self.ordered else ids, prefix_tokens=self.num_prefix_tokens)

    def extra_repr(self) -> str:
        """Return the settings, for printing."""
        return f"prob={self.prob}, num_prefix_tokens={self.num_prefix_tokens}, ordered={self.ordered}"


def mask_to_ids(mask: Tensor, length: int | None = None) -> Tensor:
    """Return the places of the True entries of each row, in ascending order.

    Args:
        mask: bool [..., L].
        length: K, the number of ids a row; by default the most that a row of the mask has, which reads the mask and
            so stalls a GPU.

    Returns:
        int64 [..., K]; the first K True entries of a row, and -1 after the last.
    """
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        raise TypeError(
            f"mask: got {mask.dtype if isinstance(mask, Tensor) else type(mask).__name__}, want bool [..., L]"
        )
    count = mask.sum(-1, keepdim=True)
    width = int(count.max()) if length is None else length
    _checks.int_in("length", width, 0, mask.shape[-1])
    ids = mask.to(torch.uint8).argsort(dim=-1, descending=True, stable=True)[..., :width]
    return torch.where(torch.arange(width, device=mask.device) < count, ids, -1)


def ijepa_masks(
    n: int,
    grid: Sequence[int],
    *,
    num_targets: int = 4,
    target_scale: tuple[float, float] = (0.15, 0.2),
    target_aspect_ratio: tuple[float, float] = (0.75, 1.5),
    context_scale: tuple[float, float] = (0.85, 1.0),
    seed: int | Tensor | None = None,
    sample_ids: Tensor | None = None,
    device: torch.device | str | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw I-JEPA's masks: a context block without the target blocks, and the target blocks.

    Returns:
        ids_context int64 [n, K], K the least that a sample's context has, so that rows are whole; longer ones lose
        their last tokens. And ids_targets int64 [n, num_targets, h w]; all blocks of a call have one size.

    Source: Assran et al., Self-Supervised Learning from Images with a Joint-Embedding Predictive Architecture, 2023.
    Unlike in its code, a block may touch the last row and column. Reads the masks, which stalls a GPU.
    """
    seed = torch.randint(2**62, ()) if seed is None else seed
    shared = {"seed": seed, "sample_ids": sample_ids, "device": device}
    targets = multiblock_masking(
        n,
        grid,
        num_blocks=num_targets,
        scale=target_scale,
        aspect_ratio=target_aspect_ratio,
        **shared,  # type: ignore[arg-type]
    )
    context = multiblock_masking(
        n,
        grid,
        num_blocks=1,
        scale=context_scale,
        aspect_ratio=(1.0, 1.0),
        view=1,
        **shared,  # type: ignore[arg-type]
    )
    visible = context[:, 0] & ~targets.any(1)
    return mask_to_ids(visible, int(visible.sum(1).min())), mask_to_ids(targets)


def vjepa_masks(
    n: int,
    grid: Sequence[int],
    *,
    num_blocks: int = 8,
    scale: tuple[float, float] = (0.15, 0.15),
    aspect_ratio: tuple[float, float] = (0.75, 1.5),
    temporal_scale: tuple[float, float] = (1.0, 1.0),
    seed: int | Tensor | None = None,
    sample_ids: Tensor | None = None,
    device: torch.device | str | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw V-JEPA's masks over a video of tokens (T, H, W): the union of some blocks, and what it leaves.

    Its short-range masks are the defaults, its long-range ones ``num_blocks=2, scale=(0.7, 0.7)``.

    Returns:
        ids_context int64 [n, K] outside the blocks and ids_targets int64 [n, M] inside. K and M are the least that a
        sample has, as in its code; where blocks cover a whole video, they are drawn again. Reads the masks, which
        stalls a GPU.

    Raises:
        ValueError: blocks of this scale cover every video.

    Source: Bardes et al., Revisiting Feature Prediction for Learning Visual Representations from Video, 2024.
    """
    seed = torch.randint(2**62, ()) if seed is None else seed

    def draw(view: int) -> Tensor:
        return multiblock_masking(
            n, grid, num_blocks=num_blocks, scale=scale, aspect_ratio=aspect_ratio, temporal_scale=temporal_scale,
            seed=seed, sample_ids=sample_ids, view=view, device=device,
        ).any(1)  # fmt: skip

    masked = draw(0)
    for view in range(1, 100):
        full = masked.all(1, keepdim=True)
        if not full.any():
            break
        masked = torch.where(full, draw(view), masked)
    else:
        raise ValueError(f"scale: got {scale}, blocks of which cover every video of {tuple(grid)} tokens")
    counts = masked.sum(1)
    return mask_to_ids(~masked, masked.shape[1] - int(counts.max())), mask_to_ids(masked, int(counts.min()))


def beit_masks(
    n: int,
    grid: Sequence[int],
    *,
    num_masked: int | None = None,
    seed: int | Tensor | None = None,
    sample_ids: Tensor | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Draw BEiT's blockwise masks: bool [n, H W], at most `num_masked` patches of each image, by default 75 of 196.

    Source: Bao et al., BEiT: BERT Pre-Training of Image Transformers, 2022.
    """
    most = 75 * grid[0] * grid[1] // 196 if num_masked is None else num_masked
    return blockwise_masking(n, grid, most, seed=seed, sample_ids=sample_ids, device=device)


def ibot_masks(
    n: int,
    grid: Sequence[int],
    *,
    mask_ratio: tuple[float, float] = (0.1, 0.5),
    mask_probability: float = 0.5,
    seed: int | Tensor | None = None,
    sample_ids: Tensor | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Draw iBOT's blockwise masks: bool [n, H W]; a part of the images is masked, each by a ratio of its own.

    Args:
        n, grid, seed, sample_ids, device: as for `fastssl.functional.blockwise_masking`.
        mask_ratio: least and greatest part of an image's patches, drawn uniformly.
        mask_probability: part of the images that are masked at all: floor(n mask_probability) of a batch, at random.

    Source: Zhou et al., iBOT: Image BERT Pre-Training with Online Tokenizer, 2022; DINOv2 masks as many of each batch.
    """
    low, high = (_checks.fraction("mask_ratio", r) for r in mask_ratio)
    chosen = int(n * _checks.fraction("mask_probability", mask_probability))
    seed = torch.randint(2**62, ()) if seed is None else seed
    # Ratios evenly spaced over the images that are masked, in a random order.
    order = _random_masking(1, n, 0.0, seed=seed, view=1, device=device).ids_keep[0]
    spread = torch.linspace(low, high, chosen + 1, dtype=torch.float64)[1:]
    counts = torch.zeros(n, dtype=torch.int64)
    counts[:chosen] = (spread * grid[0] * grid[1]).long()
    target = torch.empty_like(order).scatter_(0, order, counts.to(order.device))
    return blockwise_masking(n, grid, target, min_patches=4, seed=seed, sample_ids=sample_ids, device=device)
