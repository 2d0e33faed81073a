"""The losses of self-distillation, DINO's and iBOT's, in eager PyTorch with all probabilities in memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Views = Tensor | Sequence[Tensor]


def _each(logits: Views) -> list[Tensor]:
    """Views [B_v, K], of a tensor [V, B, K] or of a list of views or of such tensors."""
    return [view for x in logits for view in (x if x.ndim == 3 else [x])]


def dino_loss(
    student_logits: Views, teacher_logits: Views, center: Tensor | None = None, student_temp: float | Tensor = 0.1,
    teacher_temp: float | Tensor = 0.04, skip_same_view: bool = True, *, row_weights: Tensor | None = None,
    soft_targets: bool = False,
) -> Tensor:  # fmt: skip
    """Cross-entropy of every teacher view with every student view. See `fastssl.functional.dino_loss`."""
    log_p = [F.log_softmax(s / student_temp, -1) for s in _each(student_logits)]
    targets = [t.detach() for t in _each(teacher_logits)]
    if center is not None:
        targets = [t - c for t, c in zip(targets, center.expand(len(targets), -1), strict=True)]
    q = targets if soft_targets else [F.softmax(t / teacher_temp, -1) for t in targets]
    terms = []
    for t, v in ((t, v) for t in range(len(q)) for v in range(len(log_p)) if t != v or not skip_same_view):
        rows = min(len(q[t]), len(log_p[v]))
        nll = -(q[t][:rows] * log_p[v][:rows]).sum(-1)
        terms.append(nll.mean() if row_weights is None else (row_weights[:rows] * nll).sum())
    return torch.stack(terms).mean()


def ibot_loss(
    student_logits: Tensor, teacher_logits: Tensor, center: Tensor | None = None, student_temp: float | Tensor = 0.1,
    teacher_temp: float | Tensor = 0.04, *, weights: Tensor | None = None, samples: int = 1,
    soft_targets: bool = False,
) -> Tensor:  # fmt: skip
    """Weighted cross-entropy of masked patches. See `fastssl.functional.ibot_loss`."""
    target = teacher_logits.detach() if center is None else teacher_logits.detach() - center
    q = target if soft_targets else F.softmax(target / teacher_temp, -1)
    nll = -(q * F.log_softmax(student_logits / student_temp, -1)).sum(-1)
    return (nll.mean() if weights is None else (weights * nll).sum()) / samples
