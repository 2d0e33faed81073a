"""DINO's loss in Triton: every row of logits is read once for the loss and once for its gradient, written along.

    loss = sum_b sum_tv w_tvb [ sum_k q_tbk (level_vb - s_vbk) / tau + (sum_k q_tbk) (lse_vb - level_vb / tau) ]

With levels that are the maxima of their rows no term is negative: small losses of large logits keep their digits. The
sum over v goes inside that over k, so that a teacher has one sum of products, not one for each student.

1. `dino_loss_slices_kernel`, one program a slice of the prototypes of an image, or of a few if there are few views: for
   all views at once, maxima, sums of exponentials and, of the teachers, the products with the sum of the students. Each
   lane keeps its own, which meet at the end of the slice.
2. `dino_loss_combine_kernel`, one program an image: its slices, in float64.
3. `sum_kernel`: the images, in one order.

Backward: `dino_loss_grad_kernel`, with the teachers' probabilities once for all students, and `sum_kernel` for the
gradient of the temperature. Batches of different sizes, and views beyond the twelfth, take launches of their own of 1
and of the gradient's kernel, each of which reads the teachers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from . import launch
from .dino_loss_kernels import (
    STUDENT,
    TEACHER,
    dino_loss_combine_kernel,
    dino_loss_grad_kernel,
    dino_loss_slices_kernel,
)
from .online import sum_kernel


def dino_loss_fwd(
    students: list[Tensor], teachers: list[Tensor], center: Tensor | None, student_temp: Tensor, teacher_temp: Tensor,
    row_weights: Tensor | None, skip_same_view: bool, soft_targets: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Return loss [], student_lse [S, Bs] and teacher_norm [T, Bt] in float64. See `fastssl.functional.dino_loss`.

    Bit-identical from run to run.
    """
    problem = _Problem(students, teachers, center, student_temp, teacher_temp, skip_same_view, soft_targets)
    numbers = STUDENT.value * problem.s + TEACHER.value * problem.t * len(problem.chunks)
    parts = problem.empty(problem.images, numbers, problem.slices, dtype=torch.float32)
    student_lse, teacher_norm = (
        problem.empty(problem.s, problem.student_rows),
        problem.empty(problem.t, problem.teacher_rows),
    )
    losses, loss = problem.empty(problem.images), problem.empty()
    with torch.cuda.device_of(parts):
        for i, chunk in enumerate(problem.chunks):
            rows = chunk.rows if i else problem.images  # the first launch has to do with all rows of the teachers
            of_teachers = STUDENT.value * problem.s + TEACHER.value * problem.t * i
            dino_loss_slices_kernel[(problem.programs(rows),)](
                *problem.arguments(chunk, rows), parts, numbers, STUDENT.value * chunk.first, of_teachers,
                **problem.constants(chunk),
            )  # fmt: skip
        dino_loss_combine_kernel[(problem.images,)](
            parts, problem.student_temp, problem.teacher_temp, row_weights, student_lse, teacher_norm, losses,
            tuple(chunk.rows for chunk in problem.chunks), problem.rows_of_teachers, problem.student_rows,
            problem.teacher_rows, problem.pairs, numbers, problem.slices,
            CHUNKS=tuple(chunk.views for chunk in problem.chunks), FIRSTS=tuple(c.first for c in problem.chunks),
            S=problem.s, T=problem.t, SKIP=skip_same_view, SOFT=soft_targets,
            **launch.combine(max(chunk.views for chunk in problem.chunks), problem.slices),
        )  # fmt: skip
        sum_kernel[(1,)](losses, loss, problem.images, **launch.SUM)
    return loss, student_lse, teacher_norm


def dino_loss_bwd(
    grad: Tensor, students: list[Tensor], teachers: list[Tensor], center: Tensor | None, student_temp: Tensor,
    teacher_temp: Tensor, row_weights: Tensor | None, student_lse: Tensor, teacher_norm: Tensor, skip_same_view: bool,
    soft_targets: bool,
) -> tuple[list[Tensor], Tensor]:  # fmt: skip
    """Return the gradients of the students' stacks and, in float64, of student_temp []. Bit-identical, as well."""
    problem = _Problem(students, teachers, center, student_temp, teacher_temp, skip_same_view, soft_targets)
    grads = [torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in students]
    programs = [problem.programs(chunk.rows) for chunk in problem.chunks]
    sums, grad_temp = problem.empty(sum(programs)), problem.empty()
    with torch.cuda.device_of(sums):
        for i, chunk in enumerate(problem.chunks):
            dino_loss_grad_kernel[(programs[i],)](
                grad, *problem.arguments(chunk, chunk.rows), row_weights, student_lse, teacher_norm,
                *_views(chunk.of(grads)), problem.rows_of_teachers, sums, sum(programs[:i]), chunk.first,
                problem.student_rows, problem.teacher_rows, problem.pairs,
                RAGGED=min(problem.rows_of_teachers) < chunk.rows, **problem.constants(chunk),
            )  # fmt: skip
        sum_kernel[(1,)](sums, grad_temp, len(sums), **launch.SUM)
    return grads, grad_temp


@dataclass
class _Chunk:
    """Neighbouring views of one batch size, as pieces of the stacks that they are in."""

    first: int  # number of the first through all stacks
    rows: int
    pieces: list[tuple[int, int, int]]  # stack, first view and the one after the last

    @property
    def views(self) -> int:
        return sum(end - start for _, start, end in self.pieces)

    def of(self, stacks: list[Tensor]) -> list[Tensor]:
        return [stacks[i] if len(stacks[i]) == end - start else stacks[i][start:end] for i, start, end in self.pieces]


def _chunks(stacks: list[Tensor]) -> list[_Chunk]:
    found: list[_Chunk] = []
    number = 0
    for i, stack in enumerate(stacks):
        start = 0
        while start < len(stack):
            if not found or found[-1].rows != stack.shape[1] or found[-1].views == launch.MAX_VIEWS:
                found.append(_Chunk(number, stack.shape[1], []))
            end = min(len(stack), start + launch.MAX_VIEWS - found[-1].views)
            found[-1].pieces.append((i, start, end))
            number, start = number + end - start, end
    return found


def _views(stacks: list[Tensor]) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """Stacks as the kernels take them, and of each the strides of views and rows, and the number of rows."""
    return tuple(stacks), tuple(n for x in stacks for n in (*x.stride()[:2], x.shape[1]))


class _Problem:
    """What the launches of both passes have in common."""

    def __init__(
        self, students: list[Tensor], teachers: list[Tensor], center: Tensor | None, student_temp: Tensor,
        teacher_temp: Tensor, skip: bool, soft: bool,
    ) -> None:  # fmt: skip
        like = students[0]
        self.device, self.width = like.device, like.shape[-1]
        self.students, self.teachers = students, teachers
        self.student_temp, self.teacher_temp = (launch.readable(t, like.device) for t in (student_temp, teacher_temp))
        self.center = center
        self.skip, self.soft = skip, soft
        self.rows_of_teachers = tuple(x.shape[1] for x in teachers for _ in range(len(x)))
        self.s, self.t = sum(len(x) for x in students), len(self.rows_of_teachers)
        self.student_rows, self.teacher_rows = max(x.shape[1] for x in students), max(self.rows_of_teachers)
        self.images = max(self.student_rows, self.teacher_rows)
        self.pairs = self.s * self.t - (min(self.s, self.t) if skip else 0)
        self.chunks = _chunks(students)
        whole = all(stride % 16 == 0 for x in (*students, *teachers) for stride in x.stride()[:2])
        views = max(chunk.views for chunk in self.chunks)
        self.tile = launch.views(views, self.t, like.element_size(), self.width, whole)
        self.block = self.tile["LANES"] * self.tile["PER"]
        groups = triton.cdiv(self.images, self.tile["IMAGES"])
        self.slices, self.steps = launch.slices(groups, self.width, self.block, like.device)

    def empty(self, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=self.device)

    def programs(self, images: int) -> int:
        return triton.cdiv(images, self.tile["IMAGES"]) * self.slices

    def arguments(self, chunk: _Chunk, images: int) -> tuple[Any, ...]:
        return (
            *_views(chunk.of(self.students)), *_views(self.teachers), self.center, self.student_temp,
            self.teacher_temp, images, self.width, self.slices, self.steps,
        )  # fmt: skip

    def constants(self, chunk: _Chunk) -> dict[str, Any]:
        return {
            "STUDENTS": tuple(end - start for _, start, end in chunk.pieces),
            "TEACHERS": tuple(len(x) for x in self.teachers),
            "S": chunk.views,
            "T": self.t,
            "CENTERS": 0 if self.center is None else len(self.center),
            "OFFSET": min(chunk.first, self.t) if self.skip else self.t,
            "SOFT": self.soft,
            "MASKED": self.width % self.block != 0,
            **self.tile,
        }
