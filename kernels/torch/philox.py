"""Philox4x32-10 (Salmon et al., 2011) in torch integer ops: the same bits as csrc/common/philox.h on any device."""

from __future__ import annotations

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


def philox(seed: Tensor, counter: tuple[Tensor | int, ...]) -> list[Tensor]:
    """Four random words, each int64 in [0, 2^32), for a 64-bit seed and a counter of four such words."""
    key = [seed & _MASK, (seed >> 32) & _MASK]
    c = [torch.as_tensor(word, device=seed.device) for word in counter]
    for _ in range(10):
        # A product of two 32-bit words wraps in int64, but all its 64 bits are right.
        product0, product1 = c[0] * _MULTIPLIERS[0], c[2] * _MULTIPLIERS[1]
        c = [
            ((product1 >> 32) & _MASK) ^ c[1] ^ key[0], product1 & _MASK,
            ((product0 >> 32) & _MASK) ^ c[3] ^ key[1], product0 & _MASK,
        ]  # fmt: skip
        key = [(key[0] + _WEYL[0]) & _MASK, (key[1] + _WEYL[1]) & _MASK]
    return c
