from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ._pairwise_logsumexp import excluded_pairs


def pairwise_softplus(
    x: Tensor, y: Tensor, scale: float | Tensor = 1.0, bias: float | Tensor = 0.0, same: object = "diagonal",
    normalize: bool = False, only_same: bool = False,
) -> Tensor:  # fmt: skip
    """Sum of the softplus of all signed logits, with all of them in memory. See `fastssl.functional`."""
    if normalize:
        x, y = F.normalize(x, dim=1), F.normalize(y, dim=1)
    equal = excluded_pairs(len(x), len(y), same, x.device)
    logits = x @ y.T * scale + (bias[:, None] if isinstance(bias, Tensor) and bias.ndim else bias)
    terms = -F.logsigmoid(torch.where(equal, logits, -logits))
    return (terms * equal if only_same else terms).sum()
