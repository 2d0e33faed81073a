"""The losses of `lightly.loss`.

Differences from lightly 1.6:

- With `gather_distributed` the value is that of the batch of all processes, on each of them; lightly's is the part of
  the process's own rows, of which that is the mean. Gradients are the same. `gather_distributed` may be "ring".
- `NTXentLoss`: the memory bank is `memory_bank.rows`, is in the state dict, and a batch that reaches its end goes on
  at its beginning, where lightly's drops the rest; see `fastssl.NTXentLoss`.
- `DCLLoss`, `DCLWLoss`: one pair alone has no negatives and is an error, where lightly's loss is -inf.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ...functional import dcl
from ...functional._peers import check_gather
from ...functional._similarity import embeddings
from .. import _redundancy
from .._cosine import NegativeCosineSimilarity
from .._ntxent import NTXentLoss
from .._redundancy import VICRegLoss

__all__ = ["BarlowTwinsLoss", "DCLLoss", "DCLWLoss", "NTXentLoss", "NegativeCosineSimilarity", "VICRegLoss"]


class DCLLoss(torch.nn.Module):
    """Decoupled contrastive loss; see `fastssl.functional.dcl`.

    Args:
        temperature: tau > 0.
        weight_fn: takes the unit rows of both views and returns a weight [N] for each positive of the first one; it is
            called both ways around. Gradients flow through what it returns.
        gather_distributed: take the negatives of all processes.
    """

    def __init__(
        self,
        temperature: float | Tensor = 0.1,
        weight_fn: Callable[[Tensor, Tensor], Tensor] | None = None,
        gather_distributed: bool | str = False,
    ) -> None:
        super().__init__()
        check_gather(gather_distributed)
        self.temperature, self.weight_fn, self.gather_distributed = temperature, weight_fn, gather_distributed

    def forward(self, out0: Tensor, out1: Tensor) -> Tensor:
        """Return the loss of the positive pairs (out0[i], out1[i])."""
        weights = None
        if self.weight_fn is not None:
            _, (z0, z1) = embeddings(out0, out1, normalize=True)
            # A score of a positive is the same from both sides, so the loss has the sum of its weights.
            weights = (self.weight_fn(z0, z1) + self.weight_fn(z1, z0)) / 2
            weights = torch.as_tensor(weights, device=z0.device).expand(len(z0))
        return dcl(out0, out1, self.temperature, weights, self.gather_distributed)


class DCLWLoss(DCLLoss):
    """Decoupled contrastive loss whose positives weigh less the closer they are: 2 - N softmax(cos / sigma)."""

    def __init__(
        self, temperature: float | Tensor = 0.1, sigma: float = 0.5, gather_distributed: bool | str = False
    ) -> None:
        super().__init__(temperature, partial(_likeness_weights, sigma=sigma), gather_distributed)


def _likeness_weights(z0: Tensor, z1: Tensor, sigma: float) -> Tensor:
    likeness = (z0.detach() * z1.detach()).sum(1) / sigma
    return 2 - len(z0) * likeness.softmax(0)


class BarlowTwinsLoss(_redundancy.BarlowTwinsLoss):
    """Barlow Twins, where each process standardises its own batch; `fastssl.losses.BarlowTwinsLoss` does so for all."""

    def forward(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        """Return the loss of the features of two views."""
        return _redundancy.barlow_twins(z_a, z_b, self.lambda_param, self.gather_distributed, local_statistics=True)
