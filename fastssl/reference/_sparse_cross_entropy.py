"""Cross-entropy with sparse soft targets in eager PyTorch."""

from __future__ import annotations

from torch import Tensor


def sparse_cross_entropy(logits: Tensor, index: Tensor, weight: Tensor, reduction: str = "mean") -> Tensor:
    """Of logits [N, Q, *] and targets that are weights [N, K, *] of the classes index [N, K, *]."""
    loss = (weight * (logits.logsumexp(1, keepdim=True) - logits.gather(1, index.long()))).sum(1)
    return loss if reduction == "none" else getattr(loss, reduction)()
