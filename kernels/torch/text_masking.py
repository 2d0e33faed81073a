"""Masked language modelling in torch ops, for any device."""

from __future__ import annotations

import torch
from torch import Tensor

from . import draws


def text_masking_fwd(
    tokens: Tensor, special: Tensor | None, seed: Tensor, sample_ids: Tensor | None, mask_token_id: int,
    vocab_size: int, thresholds: list[int], ignore_index: int, view: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return inputs and labels int64 [n, T]; thresholds: floor(p 2^32) of choosing, replacing and a random token."""
    n, length = tokens.shape
    choose, replace, random = thresholds
    ids = draws.ids_or_range(sample_ids, n, tokens.device)
    chosen, action, drawn, _ = draws.words(seed, ids, view, draws.TEXT, 0, length)
    chosen = chosen < choose
    if special is not None:
        chosen = chosen & ~special
    other = torch.where(action < replace + random, (drawn * vocab_size) >> 32, tokens)
    inputs = torch.where(chosen, torch.where(action < replace, mask_token_id, other), tokens)
    return inputs.contiguous(), torch.where(chosen, tokens, ignore_index).contiguous()
