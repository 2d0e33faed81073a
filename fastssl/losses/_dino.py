"""DINO's and iBOT's losses with the state of their targets, and KoLeo."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import _checks, functional
from .._wide import Wide
from ..functional._similarity import choice
from ._contrastive import _Loss

_CENTERINGS = ("mean", "sinkhorn", "none")
Views = Tensor | Sequence[Tensor]


class _Centered(_Loss, Wide):
    """The settings of a loss against a teacher, and what is subtracted from its logits."""

    center: Tensor
    student_temp: float | Tensor
    teacher_temp: float | Tensor
    center_momentum: float | Tensor
    centering: str
    iterations: int
    gather_distributed: bool | str

    def __init__(self, out_dim: int, **settings: Any) -> None:
        _checks.positive_int("out_dim", out_dim)
        choice("centering", settings["centering"], _CENTERINGS)
        _checks.positive_int("iterations", settings["iterations"])
        for name in ("student_temp", "teacher_temp"):
            value = settings[name]
            _checks.positive_scalar(name, value, getattr(value, "device", torch.device("cpu")))
        if not isinstance(settings["center_momentum"], Tensor):
            _checks.fraction("center_momentum", settings["center_momentum"])
        super().__init__(**settings)
        self.out_dim = out_dim
        if self.centering == "mean":
            self.register_buffer("center", torch.zeros(out_dim))

    def _target(self, teacher_logits: Views, teacher_temp: float | Tensor | None) -> dict[str, Any]:
        """Return the centre and the temperature of the teacher's logits."""
        temp = self.teacher_temp if teacher_temp is None else teacher_temp
        center = self.center if self.centering == "mean" else None
        if self.centering == "sinkhorn":
            if not isinstance(teacher_logits, Tensor):
                views = [_checks._is_float_tensor("teacher_logits", t) for t in teacher_logits]
                teacher_logits = torch.cat([t.flatten(0, -2) for t in views])
            center = functional.sinkhorn(
                teacher_logits, self.iterations, temp, gather_distributed=bool(self.gather_distributed)
            )  # fmt: skip
        return {"center": center, "teacher_temp": temp}

    def _move(self, teacher_logits: Views) -> None:
        """Move the mean; after the loss, which has that of the steps before."""
        if self.training and self.centering == "mean":
            functional.center_update(
                self.center, teacher_logits, self.center_momentum, gather_distributed=bool(self.gather_distributed)
            )  # fmt: skip

    def extra_repr(self) -> str:
        return f"{self.out_dim}, {super().extra_repr()}"


class DINOLoss(_Centered):
    """DINO's cross-entropy between views of a teacher and a student; see `fastssl.functional.dino_loss`.

    Args:
        out_dim: K, the number of prototypes.
        student_temp: temperature > 0 of the student, a number or a 0-d tensor; a parameter is learnt.
        teacher_temp: temperature > 0 of the teacher, a number or a 0-d tensor, where a call does not give one.
        center_momentum: part of the moving mean that stays at each step, in [0, 1].
        centering: what is subtracted from the teacher's logits: "mean", their moving mean over the steps before, which
            is moved after each loss in training mode; "sinkhorn", that with which Sinkhorn-Knopp spreads this batch
            evenly over the prototypes; "none", nothing.
        iterations: of Sinkhorn-Knopp, >= 1.
        skip_same_view: leave out the pairs of a view with itself.
        gather_distributed: take the mean, or Sinkhorn-Knopp, over the rows of all processes of torch.distributed's
            default group, if there is one; True, "all_gather" and "ring" are the same here. The loss is that of this
            process's rows, for DistributedDataParallel to average.

    Raises:
        TypeError, ValueError: an argument is of another type or out of range; the message names it.

    The moving mean is the buffer `center` [K], part of the state dict, and stays in float32 when the module is cast to
    16 bits. A list of the teacher's views is copied for Sinkhorn-Knopp.

    >>> criterion = DINOLoss(65536)
    >>> loss = criterion(student_logits, teacher_logits, teacher_temp=0.04)  # [10, B, K] and [2, B, K], or lists
    """

    skip_same_view: bool

    def __init__(
        self,
        out_dim: int,
        student_temp: float | Tensor = 0.1,
        teacher_temp: float | Tensor = 0.04,
        center_momentum: float | Tensor = 0.9,
        centering: str = "mean",
        iterations: int = 3,
        skip_same_view: bool = True,
        gather_distributed: bool | str = True,
    ) -> None:
        super().__init__(
            out_dim, student_temp=student_temp, teacher_temp=teacher_temp, center_momentum=center_momentum,
            centering=centering, iterations=iterations, skip_same_view=bool(skip_same_view),
            gather_distributed=gather_distributed,
        )  # fmt: skip

    def forward(
        self, student_logits: Views, teacher_logits: Views, teacher_temp: float | Tensor | None = None
    ) -> Tensor:
        """Return the loss of the student's views [S, B, K] and the teacher's [T, B, K], or lists of them."""
        loss = functional.dino_loss(
            student_logits, teacher_logits, student_temp=self.student_temp, skip_same_view=self.skip_same_view,
            **self._target(teacher_logits, teacher_temp),
        )  # fmt: skip
        self._move(teacher_logits)
        return loss


class IBOTLoss(_Centered):
    """iBOT's cross-entropy between a teacher and a student on masked patches; see `fastssl.functional.ibot_loss`.

    Args:
        out_dim, student_temp, teacher_temp, center_momentum, centering, iterations, gather_distributed: as for
            `DINOLoss`; processes may have different numbers of patches.

    Raises:
        TypeError, ValueError: an argument is of another type or out of range; the message names it.

    >>> criterion = IBOTLoss(8192)
    >>> loss = criterion(student_patches[mask], teacher_patches[mask], weights, samples=len(mask))  # [M, K] each
    """

    def __init__(
        self,
        out_dim: int,
        student_temp: float | Tensor = 0.1,
        teacher_temp: float | Tensor = 0.04,
        center_momentum: float | Tensor = 0.9,
        centering: str = "mean",
        iterations: int = 3,
        gather_distributed: bool | str = True,
    ) -> None:
        super().__init__(
            out_dim, student_temp=student_temp, teacher_temp=teacher_temp, center_momentum=center_momentum,
            centering=centering, iterations=iterations, gather_distributed=gather_distributed,
        )  # fmt: skip

    def forward(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor,
        weights: Tensor | None = None,
        samples: int = 1,
        teacher_temp: float | Tensor | None = None,
    ) -> Tensor:
        """Return the loss of logits [M, K] of masked patches, with weights [M], of so many images."""
        loss = functional.ibot_loss(
            student_logits, teacher_logits, student_temp=self.student_temp, weights=weights, samples=samples,
            **self._target(teacher_logits, teacher_temp),
        )  # fmt: skip
        self._move(teacher_logits)
        return loss


class KoLeoLoss(_Loss):
    """KoLeo, which keeps each embedding away from its nearest neighbour; see `fastssl.functional.koleo`.

    >>> loss = dino + 0.1 * KoLeoLoss()(student_features)
    """

    def __init__(self, eps: float = 1e-8, gather_distributed: bool | str = False) -> None:
        super().__init__(eps=eps, gather_distributed=gather_distributed)

    def forward(self, x: Tensor) -> Tensor:
        """Return the loss of embeddings [N, d]."""
        return functional.koleo(x, **self._given())
