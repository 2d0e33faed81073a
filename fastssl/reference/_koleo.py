"""KoLeo in eager PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def koleo(x: Tensor, eps: float = 1e-8) -> Tensor:
    """Minus the mean log of the distance of each unit row from its nearest neighbour, which has no gradient."""
    u = F.normalize(x, dim=1, eps=eps)
    nearest = (u @ u.T).detach().fill_diagonal_(-torch.inf).argmax(1)
    distances = torch.linalg.vector_norm(u - u[nearest] + eps, dim=1)
    loss: Tensor = -(distances + eps).log().mean()
    return loss
