"""MAE's decoder input in eager PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor


def restore_tokens(
    visible: Tensor, ids_restore: Tensor, mask_token: Tensor, pos: Tensor | None = None, prefix_tokens: int = 0
) -> Tensor:
    """Prefix, then visible tokens at their places and mask tokens elsewhere; plus positions."""
    n, length = ids_restore.shape
    width, kept = visible.shape[2], visible.shape[1] - prefix_tokens
    masked = mask_token.reshape(1, 1, width).expand(n, max(1, length - kept), width)
    shuffled = torch.cat([visible[:, prefix_tokens:], masked], 1)
    # Any place beyond the visible tokens holds the mask token.
    place = ids_restore.clamp(max=shuffled.shape[1] - 1)[..., None].expand(-1, -1, width)
    x = torch.cat([visible[:, :prefix_tokens], shuffled.gather(1, place)], 1)
    return x if pos is None else x + pos
