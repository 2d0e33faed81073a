"""What the stand-ins for losses against a teacher share: its centre, and the weights of masked patches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ... import _checks
from ..._wide import Wide
from ...functional import center_update
from ...functional._center_update import column_sums, in_group


class Centered(Wide):
    """A loss with the moving mean of a teacher's logits in a buffer `center` of so many axes, as the original has it.

    It stays in float32 whatever the module is cast to.
    """

    center: Tensor

    def __init__(self, width: int, axes: int, momentum: float) -> None:
        super().__init__()
        _checks.positive_int("out_dim", width)
        self.center_momentum = _checks.fraction("center_momentum", momentum)
        self.register_buffer("center", torch.zeros(*(1,) * (axes - 1), width))

    @property
    def center_row(self) -> Tensor:
        """The centre [K], in the memory of `center`."""
        return self.center.view(-1)

    @torch.no_grad()
    def update_center(self, teacher_output: Tensor | Sequence[Tensor]) -> None:
        """Move the centre towards the mean of logits [..., B, K], or of a list of them, of all processes."""
        center_update(self.center_row, teacher_output, self.center_momentum)


class LateCentered(Centered):
    """Whose exchange between processes begins in `update_center` and ends where the centre is next asked for."""

    def __init__(self, width: int, axes: int, momentum: float) -> None:
        super().__init__(width, axes, momentum)
        self.updated = True
        self.reduce_handle: Any = None
        self._sums: Tensor | None = None

    @torch.no_grad()
    def update_center(self, teacher_output: Tensor | Sequence[Tensor]) -> None:
        """Begin to move the centre towards the mean of logits [..., B, K] of all processes."""
        together = in_group()
        total, rows = column_sums("teacher_output", teacher_output, self.center_row, empty=together)
        self._sums = torch.cat([total.double(), total.new_full((1,), rows, dtype=torch.float64)])
        self.reduce_handle = dist.all_reduce(self._sums, async_op=True) if together else None
        self.updated = False

    @torch.no_grad()
    def apply_center_update(self) -> None:
        """Move the centre, if that has begun."""
        if self.updated or self._sums is None:
            return
        if self.reduce_handle is not None:
            self.reduce_handle.wait()
        mean = (self._sums[:-1] / self._sums[-1]).to(self.center.dtype)
        self.center_row.lerp_(mean, 1 - self.center_momentum)
        self.updated, self.reduce_handle, self._sums = True, None, None

    @torch.no_grad()
    def softmax_center_teacher(self, teacher_output: Tensor, teacher_temp: float | Tensor) -> Tensor:
        """Return softmax((teacher_output - center) / teacher_temp) of logits [..., K], in float32 or better."""
        self.apply_center_update()
        return (teacher_output - self.center).div_(teacher_temp).softmax(-1)


def like_student(target: Tensor, student: Tensor) -> Tensor:
    """Return probabilities in a type that the loss takes along with the student's, float64 with float64 alone."""
    alone = (target.dtype == torch.float64) != (student.dtype == torch.float64)
    return target.to(student.dtype) if alone else target


def patch_weights(mask: Tensor, patches: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return, for each of so many patches of a mask [B, ...], 1 / (patches of its image); nothing waits."""
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.ndim < 2:
        got = f"{mask.dtype} {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"mask: got {got}, want a bool tensor [B, ...]")
    if mask.device.type == "cpu" and not torch.compiler.is_compiling() and int(mask.sum()) != patches:
        raise ValueError(f"mask: got {int(mask.sum())} masked patches, want one for each row of logits, {patches}")
    counts = mask.flatten(1).sum(1)
    image = torch.searchsorted(counts.cumsum(0), torch.arange(patches, device=mask.device), right=True)
    return (1 / counts.clamp(min=1).to(dtype))[image.clamp(max=len(counts) - 1)]
