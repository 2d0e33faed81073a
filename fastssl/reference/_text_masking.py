"""BERT's masking of text in plain Python."""

from __future__ import annotations

import torch
from torch import Tensor

from ._sample_params import philox


def text_masking(
    tokens: Tensor, mask_token_id: int, vocab_size: int, seed: int, *, mask_prob: float = 0.15,
    replace_prob: float = 0.8, random_prob: float = 0.1, special_tokens: Tensor | None = None,
    ignore_index: int = -100, first_id: int = 0, view: int = 0,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Inputs and labels int64 [n, T]; see `fastssl.functional.text_masking`."""
    inputs, labels = tokens.clone(), torch.full_like(tokens, ignore_index)
    choose, replace, random = (int(p * 2**32) for p in (mask_prob, replace_prob, random_prob))
    for i in range(tokens.shape[0]):
        low, high = (first_id + i) & 0xFFFFFFFF, ((first_id + i) >> 32) & 0xFFFFFFFF
        for t in range(tokens.shape[1]):
            chosen, what, word, _ = philox(seed, [low, high, view, 67 + 256 * t])
            if chosen < choose and not (special_tokens is not None and special_tokens[i, t]):
                labels[i, t] = tokens[i, t]
                if what < replace:
                    inputs[i, t] = mask_token_id
                elif what < replace + random:
                    inputs[i, t] = word * vocab_size >> 32
    return inputs, labels
