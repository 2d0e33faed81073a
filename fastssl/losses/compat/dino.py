"""The loss of DINO's reference code, `main_dino.DINOLoss`.

Differences:

- Centre and loss need no process group; with one, the centre is the mean over the rows of all processes, which may have
  different numbers of them.
- The centre stays in float32 when the module is cast to 16 bits.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from ... import _checks
from ...functional import dino_loss
from ._teachers import Centered

__all__ = ["DINOLoss"]


class DINOLoss(Centered):
    """Cross-entropy of a student's crops with the global ones of a teacher; see `fastssl.functional.dino_loss`.

    Args:
        out_dim: K, the number of prototypes.
        ncrops: crops of an image that the student sees, the two global ones first.
        warmup_teacher_temp, teacher_temp: the teacher's temperature in the first epoch and after the warm-up.
        warmup_teacher_temp_epochs, nepochs: epochs of the warm-up, in which it goes from the one to the other by equal
            steps, and of all.
        student_temp: temperature of the student.
        center_momentum: part of the centre that stays at each step.

    The centre is the buffer `center` [1, K], and is moved after each loss, in eval mode as well.

    >>> criterion = DINOLoss(65536, 10, 0.04, 0.07, 30, 100)
    >>> loss = criterion(student_output, teacher_output, epoch)  # [10 B, K], [2 B, K]
    """

    def __init__(
        self,
        out_dim: int,
        ncrops: int,
        warmup_teacher_temp: float,
        teacher_temp: float,
        warmup_teacher_temp_epochs: int,
        nepochs: int,
        student_temp: float = 0.1,
        center_momentum: float = 0.9,
    ) -> None:
        super().__init__(out_dim, 2, center_momentum)
        _checks.int_in("ncrops", ncrops, 2, 2**31)
        _checks.int_in("warmup_teacher_temp_epochs", warmup_teacher_temp_epochs, 0, nepochs)
        self.student_temp, self.ncrops = student_temp, ncrops
        warmup = np.linspace(warmup_teacher_temp, teacher_temp, warmup_teacher_temp_epochs)
        self.teacher_temp_schedule = np.append(warmup, [teacher_temp] * (nepochs - warmup_teacher_temp_epochs))
        self._schedule: list[float] = self.teacher_temp_schedule.tolist()

    def forward(self, student_output: Tensor, teacher_output: Tensor, epoch: int) -> Tensor:
        """Return the loss of logits [ncrops B, K] and [2 B, K], crop by crop, in an epoch from 0."""
        views = {"student_output": (student_output, self.ncrops), "teacher_output": (teacher_output, 2)}
        for name, (x, crops) in views.items():
            _checks.float_tensor(name, x, "[crops B, K]")
            if len(x) % crops:
                raise ValueError(f"{name}: got {len(x)} rows, want a multiple of {crops}, the number of crops")
        students, teachers = (x.unflatten(0, (crops, -1)) for x, crops in views.values())
        loss = dino_loss(students, teachers, self.center_row, self.student_temp, self._schedule[epoch])
        self.update_center(teacher_output)
        return loss
