"""The loss of MoCo v3's reference code, a method of its model there: ``self.contrastive_loss(q, k)`` with ``self.T``.

Differences: the temperature is an argument, and one process needs no process group.
"""

from __future__ import annotations

from torch import Tensor

from ...functional import info_nce

__all__ = ["contrastive_loss"]


# `T` is what the reference code calls it.
def contrastive_loss(q: Tensor, k: Tensor, T: float | Tensor = 1.0) -> Tensor:
    """InfoNCE of queries [N, D] and their keys [N, D], which get no gradient, times 2 T.

    The keys of all processes of torch.distributed's default group, if there is one, are the negatives. The value is the
    mean over the queries of this process, as in the original.

    >>> loss = contrastive_loss(q0, k1, T=0.2) + contrastive_loss(q1, k0, T=0.2)
    """
    nll = info_nce(q, k.detach(), temperature=T, reduction="none", gather_distributed=True)
    return nll.mean() * (2 * T)
