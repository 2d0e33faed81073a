"""Gathering tokens in eager PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor


def gather_tokens(x: Tensor, ids: Tensor, prefix_tokens: int = 0) -> Tensor:
    """Rows j < P are x[:, j], the others x[n, P + ids[n, k]]; zeros for id -1."""
    prefix, tokens = x[:, :prefix_tokens], x[:, prefix_tokens:]
    rows = tokens.gather(1, ids.clamp(0)[..., None].expand(-1, -1, x.shape[2]))
    return torch.cat([prefix, rows * (ids >= 0)[..., None]], 1)
