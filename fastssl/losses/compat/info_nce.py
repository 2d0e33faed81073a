"""The loss of info-nce-pytorch.

The default temperature 0.1, reduction "mean" and negative mode "unpaired" are its own; embeddings are normalised.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ... import functional

__all__ = ["InfoNCE", "info_nce"]


class InfoNCE(torch.nn.Module):
    """InfoNCE of queries, their positive keys and, if given, negative keys; see `fastssl.functional.info_nce`."""

    def __init__(
        self, temperature: float | Tensor = 0.1, reduction: str = "mean", negative_mode: str = "unpaired"
    ) -> None:
        super().__init__()
        self.temperature, self.reduction, self.negative_mode = temperature, reduction, negative_mode

    def forward(self, query: Tensor, positive_key: Tensor, negative_keys: Tensor | None = None) -> Tensor:
        """Return the loss of queries [N, D], keys [N, D] and negatives [M, D], [N, M, D] or None."""
        return info_nce(query, positive_key, negative_keys, self.temperature, self.reduction, self.negative_mode)


def info_nce(
    query: Tensor,
    positive_key: Tensor,
    negative_keys: Tensor | None = None,
    temperature: float | Tensor = 0.1,
    reduction: str = "mean",
    negative_mode: str = "unpaired",
) -> Tensor:
    """InfoNCE of queries [N, D], keys [N, D] and negatives [M, D], [N, M, D] or None, as in `InfoNCE`."""
    return functional.info_nce(query, positive_key, negative_keys, temperature, reduction, negative_mode)
