from __future__ import annotations

import torch
import torch.nn.functional as F


def ntxent(z0: torch.Tensor, z1: torch.Tensor, temperature: float | torch.Tensor = 0.5) -> torch.Tensor:
    """NT-Xent in eager PyTorch, with the 2N x 2N similarity matrix in memory. See `fastssl.functional.ntxent`."""
    n = z0.shape[0]
    z = F.normalize(torch.cat([z0, z1]), dim=1)
    similarity = z @ z.T / temperature
    similarity = similarity.masked_fill(torch.eye(2 * n, dtype=torch.bool, device=z.device), -torch.inf)
    return F.cross_entropy(similarity, torch.arange(2 * n, device=z.device).roll(n))
