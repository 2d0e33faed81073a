"""DINO's loss in torch ops, a block of images and prototypes at a time: any device, float64, bounded memory.

Students and teachers are lists of stacks of views [V, B_v, K], rows contiguous, of one dtype a side, which may differ;
center and row_weights are contiguous float32 (float64 for float64). Views are numbered through the stacks.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .tokens import sum_type

# Numbers of one block, of all views together. A launch on an accelerator costs more than a block that size.
BLOCK = {"cpu": 2**18}
LARGE_BLOCK = 2**22


@dataclass
class _Part:
    """Views of a stack of students that have the same teachers."""

    stack: int
    views: slice  # in the stack
    numbers: slice  # through the stacks
    teachers: list[int]
    rows: int


@dataclass
class _Problem:
    parts: list[_Part]
    teachers: list[Tensor]  # [B_t, K] each
    centers: list[Tensor | None]
    pairs: int
    weighted: bool  # rows have weights in place of the mean

    def share(self, part: _Part, teacher: int) -> float:
        """Weight of a row of a pair of views, but for the row's own."""
        rows = 1 if self.weighted else min(part.rows, len(self.teachers[teacher]))
        return 1 / (self.pairs * rows)


def dino_loss_fwd(
    students: list[Tensor], teachers: list[Tensor], center: Tensor | None, student_temp: Tensor, teacher_temp: Tensor,
    row_weights: Tensor | None, skip_same_view: bool, soft_targets: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Return loss [], student_lse [S, Bs] and teacher_norm [T, Bt] in float64. See `fastssl.functional.dino_loss`."""
    problem = _problem(students, teachers, center, row_weights, skip_same_view)
    student_tau, teacher_tau = _positive(student_temp), _positive(teacher_temp)
    like = students[0]
    student_lse, teacher_norm = (
        like.new_zeros((sum(len(x) for x in side), max(x.shape[1] for x in side)), dtype=torch.float64)
        for side in (students, teachers)
    )
    for view, row in zip((view for stack in students for view in stack), student_lse, strict=True):
        _logsumexp(view, None, student_tau, row)
    for view, shift, row in zip(problem.teachers, problem.centers, teacher_norm, strict=True):
        if soft_targets:
            row[: len(view)] = view.sum(1, dtype=torch.float64)
        else:
            _logsumexp(view, shift, teacher_tau, row)
    levels = _levels(student_lse, student_tau, sum_type(like.dtype))
    loss = like.new_zeros((), dtype=torch.float64)
    for block in _blocks(students, problem, teacher_norm, teacher_tau, soft_targets):
        for part, target, mass in block.targets(problem):
            level, lse = levels[part.numbers, block.rows], student_lse[part.numbers, block.rows]
            # -log p = (level - s) / tau + lse - level / tau: no term is negative, whatever the size of the logits.
            far = level[..., None] - block.of(students, part)
            rows = (far.mul_(target)).sum(-1, dtype=torch.float64) / student_tau
            if block.first:
                rows += mass * (lse - level.double() / student_tau)
            loss += (rows if row_weights is None else rows * row_weights[block.rows]).sum()
    return loss, student_lse, teacher_norm


def dino_loss_bwd(
    grad: Tensor, students: list[Tensor], teachers: list[Tensor], center: Tensor | None, student_temp: Tensor,
    teacher_temp: Tensor, row_weights: Tensor | None, student_lse: Tensor, teacher_norm: Tensor, skip_same_view: bool,
    soft_targets: bool,
) -> tuple[list[Tensor], Tensor]:  # fmt: skip
    """Return the gradients of the students' stacks and, in float64, of student_temp []."""
    problem = _problem(students, teachers, center, row_weights, skip_same_view)
    student_tau, teacher_tau = _positive(student_temp), _positive(teacher_temp)
    dtype = sum_type(students[0].dtype)
    levels = _levels(student_lse, student_tau, dtype)
    rest = (levels.double() / student_tau - student_lse).exp().to(dtype)
    grads = [torch.zeros(x.shape, dtype=x.dtype, device=x.device) for x in students]
    grad_temp = students[0].new_zeros((), dtype=torch.float64)
    scale = grad.double() / student_tau
    for block in _blocks(students, problem, teacher_norm, teacher_tau, soft_targets):
        for part, target, mass in block.targets(problem):
            at = part.numbers, block.rows
            far = block.of(students, part) - levels[at][..., None]
            factor = scale if row_weights is None else scale * row_weights[block.rows]
            p = (far * (1 / student_tau)).exp_()
            p *= (rest[at] * mass).to(dtype)[..., None]
            found = p.sub_(target).mul_(factor.to(dtype)[..., None])
            grad_temp -= (far.mul_(found)).sum(dtype=torch.float64)
            grads[part.stack][part.views, block.rows, block.columns] = found.to(grads[part.stack].dtype)
    return grads, grad_temp / student_tau


@dataclass
class _Block:
    """Probabilities of the teachers for some images and prototypes."""

    rows: slice
    columns: slice
    q: dict[int, Tensor]
    norm: dict[int, Tensor]  # sum_k q, over all prototypes
    first: bool  # of the blocks of its rows

    def targets(self, problem: _Problem) -> Iterator[tuple[_Part, Tensor, Tensor]]:
        """Yield what a part of the students is compared with: sum_t w_t q_t [b, k] and sum_t w_t sum_k q_t [b]."""
        made: dict[tuple[tuple[int, float], ...], tuple[Tensor, Tensor]] = {}
        for part in problem.parts:
            shares = tuple((t, problem.share(part, t)) for t in part.teachers if t in self.q)
            if part.rows <= self.rows.start or not shares:
                continue
            if shares not in made:
                target, mass = torch.zeros_like(self.q[shares[0][0]]), 0
                for t, share in shares:
                    target.add_(self.q[t], alpha=share)
                    mass = mass + share * self.norm[t]
                made[shares] = target, mass
            yield part, *made[shares]

    def of(self, students: list[Tensor], part: _Part) -> Tensor:
        return students[part.stack][part.views, self.rows, self.columns]


def _blocks(
    students: list[Tensor], problem: _Problem, teacher_norm: Tensor, tau: Tensor, soft_targets: bool
) -> Iterator[_Block]:
    """Yield all images and prototypes in blocks, over whose rows the same views are present."""
    dtype, width = sum_type(students[0].dtype), students[0].shape[-1]
    levels = _levels(teacher_norm, tau, dtype)
    rest = (levels.double() / tau - teacher_norm).exp().to(dtype)
    views = sum(len(x) for x in students) + 2 * len(problem.teachers)
    row_step, column_step = _steps(students[0], views)
    ends = sorted({len(x) for x in problem.teachers} | {x.shape[1] for x in students})
    for low, high in itertools.pairwise((0, *ends)):
        present = [t for t, x in enumerate(problem.teachers) if len(x) >= high]
        for start in range(low, high, row_step):
            rows = slice(start, min(start + row_step, high))
            norm = {t: teacher_norm[t, rows] for t in present}
            if not soft_targets:
                norm = {t: torch.ones_like(n) for t, n in norm.items()}
            for first in range(0, width, column_step):
                columns = slice(first, first + column_step)
                q = {}
                for t in present:
                    x = problem.teachers[t][rows, columns].to(dtype)
                    if not soft_targets:
                        x = _centered(x, problem.centers[t], columns).sub(levels[t, rows, None])
                        x = x.mul_(1 / tau).exp_().mul_(rest[t, rows, None])
                    q[t] = x
                yield _Block(rows, columns, q, norm, first == 0)


def _problem(
    students: list[Tensor], teachers: list[Tensor], center: Tensor | None, row_weights: Tensor | None, skip: bool
) -> _Problem:
    each = [view for stack in teachers for view in stack]
    everyone = list(range(len(each)))
    parts, start = [], 0
    for i, stack in enumerate(students):
        # Views that have a teacher of the same number are on their own, the others go together.
        alone = min(max(len(each) - start, 0), len(stack)) if skip else 0
        cuts = [*range(alone), alone, len(stack)] if alone < len(stack) else [*range(alone), alone]
        for low, high in itertools.pairwise(cuts):
            number = start + low
            others = [t for t in everyone if t != number] if low < alone else everyone
            views, numbers = slice(low, high), slice(number, start + high)
            parts.append(_Part(i, views, numbers, others, stack.shape[1]))
        start += len(stack)
    pairs = start * len(each) - (min(start, len(each)) if skip else 0)
    centers = [None] * len(each) if center is None else list(center.expand(len(each), -1))
    return _Problem(parts, each, centers, pairs, row_weights is not None)


def _positive(temperature: Tensor) -> Tensor:
    """Return tau in float64, where it lies; one that is not positive must not pass for a plausible loss."""
    tau = temperature.double()
    return torch.where(tau > 0, tau, torch.nan)


def _steps(like: Tensor, views: int) -> tuple[int, int]:
    """Rows and columns of a block, of so many views."""
    size = BLOCK.get(like.device.type, LARGE_BLOCK)
    columns = min(like.shape[-1], max(size // 16, 1))
    return max(size // (views * columns), 1), columns


def _centered(x: Tensor, center: Tensor | None, columns: slice) -> Tensor:
    return x if center is None else x - center[columns]


def _logsumexp(view: Tensor, center: Tensor | None, tau: Tensor, out: Tensor) -> None:
    """Write logsumexp_k((view - center) / tau) of the rows of a view [B_v, K] to the first B_v places of `out`."""
    dtype, width = sum_type(view.dtype), view.shape[1]
    row_step, column_step = _steps(view, 2)
    for start in range(0, len(view), row_step):
        rows = slice(start, start + row_step)
        found = None
        for first in range(0, width, column_step):
            columns = slice(first, first + column_step)
            x = _centered(view[rows, columns].to(dtype), center, columns)
            top = x.amax(1)
            top = torch.where(top == -torch.inf, 0.0, top)
            # In float64, a sum that is barely above 1 keeps its digits.
            total = (x - top[:, None]).mul_(1 / tau).exp_().sum(1, dtype=torch.float64)
            lse = total.log() + top.double() / tau
            found = lse if found is None else torch.logaddexp(found, lse)
        out[: len(view)][rows] = found


def _levels(lse: Tensor, tau: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what is subtracted from a row of logits before the exponential: close to its maximum, and exact."""
    return (lse * tau).to(dtype)
