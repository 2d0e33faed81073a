"""The losses of `lightly.loss`.

Differences from lightly 1.6:

- With `gather_distributed` the value is that of the batch of all processes, on each of them; lightly's is the part of
  the process's own rows, of which that is the mean. Gradients are the same. `gather_distributed` may be "ring".
- `NTXentLoss`: the memory bank is `memory_bank.rows`, is in the state dict, and a batch that reaches its end goes on
  at its beginning, where lightly's drops the rest; see `fastssl.NTXentLoss`.
- `DCLLoss`, `DCLWLoss`: one pair alone has no negatives and is an error, where lightly's loss is -inf.
- `DINOLoss`, `IBOTPatchLoss`: the teacher's logits get no gradient. The centre is the mean over the rows of all
  processes, which may have different numbers of them, where lightly's is the mean of their means; it stays in float32
  when the module is cast to 16 bits.
- `KoLeoLoss`: rows that are the same and rows of zeros have no gradient, where lightly's is up to 1e8 times the
  others', or NaN in 16 bits; one row alone is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ...functional import dcl, dino_loss, ibot_loss
from ...functional._koleo import koleo_norm
from ...functional._peers import check_gather
from ...functional._similarity import choice, embeddings
from .. import _redundancy
from .._cosine import NegativeCosineSimilarity
from .._ntxent import NTXentLoss
from .._redundancy import VICRegLoss
from ._teachers import Centered, patch_weights

__all__ = [
    "BarlowTwinsLoss", "DCLLoss", "DCLWLoss", "DINOLoss", "IBOTPatchLoss", "KoLeoLoss", "NTXentLoss",
    "NegativeCosineSimilarity", "VICRegLoss",
]  # fmt: skip


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


class DINOLoss(Centered):
    """DINO's cross-entropy between views of a teacher and a student; see `fastssl.functional.dino_loss`.

    Args:
        output_dim: K, the number of prototypes.
        warmup_teacher_temp, teacher_temp: the teacher's temperature in the first epoch and after the warm-up, if calls
            have an `epoch`; else `teacher_temp` is that of all.
        warmup_teacher_temp_epochs: epochs of the warm-up, in equal steps.
        student_temp: temperature of the student.
        center_momentum: part of the centre that stays at each step.
        center_mode: "mean".

    The centre is the buffer `center` [1, 1, K], and is moved after each loss, in eval mode as well.
    """

    def __init__(
        self,
        output_dim: int = 65536,
        warmup_teacher_temp: float = 0.04,
        teacher_temp: float = 0.04,
        warmup_teacher_temp_epochs: int = 30,
        student_temp: float = 0.1,
        center_momentum: float = 0.9,
        center_mode: str = "mean",
    ) -> None:
        choice("center_mode", center_mode, ("mean",))
        super().__init__(output_dim, 3, center_momentum)
        self.teacher_temp, self.student_temp = teacher_temp, student_temp
        self.warmup_teacher_temp_epochs = warmup_teacher_temp_epochs
        self.teacher_temp_schedule = torch.linspace(warmup_teacher_temp, teacher_temp, warmup_teacher_temp_epochs)
        self._schedule: list[float] = self.teacher_temp_schedule.tolist()

    def forward(
        self,
        teacher_out: list[Tensor],
        student_out: list[Tensor],
        teacher_temp: float | Tensor | None = None,
        epoch: int | None = None,
    ) -> Tensor:
        """Return the loss of lists of views [B, K]; the teacher comes first."""
        if teacher_temp is None:
            warming = epoch is not None and epoch < self.warmup_teacher_temp_epochs
            teacher_temp = self._schedule[epoch] if warming else self.teacher_temp  # type: ignore[index]
        loss = dino_loss(student_out, teacher_out, self.center_row, self.student_temp, _rounded(teacher_temp))
        self.update_center(teacher_out)
        return loss


class IBOTPatchLoss(torch.nn.Module):
    """iBOT's cross-entropy between a teacher and a student on masked patches; see `fastssl.functional.ibot_loss`.

    Args:
        output_dim: K, the number of prototypes.
        teacher_temp, student_temp: the temperatures.
        center_mode: "mean".
        center_momentum: part of the centre that stays at each step.

    The centre is the buffer `center` [1, K] of the module `center`, and is moved after each loss, in eval mode as well.
    """

    def __init__(
        self,
        output_dim: int = 65536,
        teacher_temp: float = 0.04,
        student_temp: float = 0.1,
        center_mode: str = "mean",
        center_momentum: float = 0.9,
    ) -> None:
        super().__init__()
        choice("center_mode", center_mode, ("mean",))
        self.teacher_temp, self.student_temp = teacher_temp, student_temp
        self.center = _Center(output_dim, 2, center_momentum)

    def forward(
        self, teacher_out: Tensor, student_out: Tensor, mask: Tensor, teacher_temp: float | Tensor | None = None
    ) -> Tensor:
        """Return the loss of logits [M, K] of the patches that a mask [B, H, W] has."""
        temp = _rounded(self.teacher_temp if teacher_temp is None else teacher_temp)
        weights = patch_weights(mask, len(student_out))
        loss = ibot_loss(
            student_out, teacher_out, self.center.center_row, self.student_temp, temp, weights=weights,
            samples=len(mask),
        )  # fmt: skip
        self.center.update_center(teacher_out)
        return loss


class _Center(Centered):
    @property
    def value(self) -> Tensor:
        """The centre."""
        return self.center

    def update(self, x: Tensor) -> None:
        """Move the centre towards the mean of logits [B, K]."""
        self.update_center(x)


def _rounded(temp: float | Tensor) -> float | Tensor:
    """Return a number as lightly has it, which is that of a float32 tensor."""
    # Not in a compiled graph, which would have to be left for it; the difference is one of 2e-8 of the temperature.
    as_it_is = isinstance(temp, Tensor) or torch.compiler.is_compiling()
    return temp if as_it_is else torch.tensor(temp).item()


class KoLeoLoss(torch.nn.Module):
    """KoLeo, which keeps each row away from its nearest neighbour; see `fastssl.functional.koleo`.

    Args:
        p: the norm of the differences.
        eps: > 0; added to each difference and to the distance, and the least that the norm of a row counts as.
    """

    def __init__(self, p: float = 2, eps: float = 1e-8) -> None:
        super().__init__()
        self.p, self.eps = p, eps

    def forward(self, x: Tensor) -> Tensor:
        """Return the loss of embeddings [N, d]."""
        return koleo_norm(x, self.eps, self.eps, self.p, False)
