"""Problems of self-distillation, and the accuracy rule for the loss and its gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from accuracy import ROUNDINGS, assert_close_to_exact
from torch import Tensor

from fastssl import reference
from fastssl.functional import dino_loss

Views = Tensor | Sequence[Tensor]
Sizes = int | tuple[int, ...]


def logits(views: int, rows: Sizes, k: int, dtype: torch.dtype = torch.float32, device: str = "cpu", size: float = 1.0,
           seed: int = 0) -> Views:  # fmt: skip
    """Views of one batch, [V, B, K], or a list of views of `rows` each."""
    g = torch.Generator().manual_seed(seed)
    if isinstance(rows, int):
        return (size * torch.randn(views, rows, k, generator=g)).to(device, dtype)
    return [(size * torch.randn(b, k, generator=g)).to(device, dtype) for b in rows]


def problem(
    s: int, t: int, b: int, k: int, dtype: torch.dtype = torch.float32, device: str = "cpu", size: float = 1.0,
    teacher_dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Views [S, B, K] of a student and [T, B, K] of a teacher that know something of each other."""
    g = torch.Generator().manual_seed(s + 10 * t + 100 * b + 1000 * k)
    image = torch.randn(b, k, generator=g)
    sides = (((image + torch.randn(v, b, k, generator=g)) * size / 2**0.5) for v in (s, t))
    student, teacher = (x.to(device, d) for x, d in zip(sides, (dtype, teacher_dtype or dtype), strict=True))
    return student, teacher


def each(views: Views) -> list[Tensor]:
    """The views [B_v, K] of one side."""
    return [view for x in views for view in (x if x.ndim == 3 else [x])]


def convert(views: Views, change: Callable[[Tensor], Tensor]) -> Views:
    return change(views) if isinstance(views, Tensor) else [change(x) for x in views]


def evaluate(
    form: Callable[..., Tensor], student: Views, teacher: Views, center: Tensor | None, student_temp: float,
    teacher_temp: float, upstream: float, options: dict[str, Any],
) -> dict[str, Tensor]:  # fmt: skip
    """Return the loss and the gradients of each of the student's tensors and of its temperature, in float64."""
    student = convert(student, lambda x: x.detach().requires_grad_())
    leaves = [student] if isinstance(student, Tensor) else list(student)
    kind = torch.float64 if leaves[0].dtype == torch.float64 else torch.float32
    tau = torch.tensor(student_temp, dtype=kind, device=leaves[0].device, requires_grad=True)
    loss = form(student, teacher, center, tau, teacher_temp, **options)
    grads = torch.autograd.grad(loss, (*leaves, tau), torch.tensor(upstream).to(loss), materialize_grads=True)
    names = (*(f"student {i}" for i in range(len(leaves))), "student_temp")
    return {name: x.detach().double().cpu() for name, x in zip(("loss", *names), (loss, *grads), strict=True)}


def sizes_of_terms(
    student: Views, teacher: Views, center: Tensor | None, student_temp: float, teacher_temp: float, upstream: float,
    roundings: float, skip_same_view: bool = True, row_weights: Tensor | None = None, soft_targets: bool = False,
) -> dict[str, Tensor]:  # fmt: skip
    """Return the size of what is summed for each of the values of `evaluate`.

    An exponent x, in eager PyTorch as in a kernel, is made by three operations (two differences and a scale, or the
    like), each off by half a step of x, which is relative to exp(x); the `roundings` are what a term of a sum is
    allowed. What is below the normal numbers next to the largest exponential of its row may come out as 0.
    """
    s, t = ([view.double().cpu() for view in each(side)] for side in (student, teacher))
    shifts = [None] * len(t) if center is None else list(center.double().cpu().expand(len(t), -1))
    kind = torch.finfo(torch.float64 if each(student)[0].dtype == torch.float64 else torch.float32)
    least = kind.smallest_normal / (roundings * kind.eps)
    q = []
    for x, shift in zip(t, shifts, strict=True):
        inner = (x if shift is None else x - shift) / teacher_temp
        log_q = torch.log_softmax(inner, -1)
        exponent = -log_q if shift is None else -log_q + (x.abs() + shift.abs()) / teacher_temp
        q.append(
            (x.abs(), x.abs())
            if soft_targets
            else (log_q.exp(), log_q.exp() * (1 + 1.5 * exponent / roundings) + least)
        )
    pairs = [(i, v) for i in range(len(t)) for v in range(len(s)) if i != v or not skip_same_view]
    loss, grads = torch.zeros((), dtype=torch.float64), [torch.zeros_like(x) for x in s]
    grad_temp = torch.zeros((), dtype=torch.float64)
    for i, v in pairs:
        rows = min(len(t[i]), len(s[v]))
        share = torch.full((rows, 1), 1 / rows) if row_weights is None else row_weights.cpu()[:rows, None].abs()
        share, log_p = share.double() / len(pairs), torch.log_softmax(s[v][:rows] / student_temp, -1)
        mass, weighted = q[i][0][:rows].sum(-1, keepdim=True), q[i][1][:rows]
        loss += (share * weighted * (1 - log_p)).sum()
        p = log_p.exp() * (1 - 1.5 * log_p / roundings) + least
        term = abs(upstream) / student_temp * share * (mass * p + weighted)
        grads[v][:rows] += term
        grad_temp += (term * (-log_p + 1)).sum()
    terms = {"loss": loss, "student_temp": grad_temp}
    for i, x in enumerate([student] if isinstance(student, Tensor) else student):
        count = len(x) if x.ndim == 3 else 1
        terms[f"student {i}"] = torch.stack(grads[:count]).reshape(x.shape)
        grads = grads[count:]
    return terms


def assert_accurate(
    student: Views, teacher: Views, center: Tensor | None = None, student_temp: float = 0.1, teacher_temp: float = 0.04,
    upstream: float = 1.7, **options: Any,
) -> None:  # fmt: skip
    """Hold the op to the rule on one problem."""
    student_temp = torch.tensor(student_temp, dtype=torch.float32).item()  # one value for every type
    dtype = each(student)[0].dtype
    doubles = (None if x is None else convert(x, Tensor.double) for x in (student, teacher, center))
    taus = student_temp, teacher_temp, upstream
    exact = evaluate(reference.dino_loss, *doubles, *taus, options)
    eager, kernel = (evaluate(f, student, teacher, center, *taus, options) for f in (reference.dino_loss, dino_loss))
    terms = sizes_of_terms(student, teacher, center, *taus, ROUNDINGS[dtype], **options)
    shapes = [tuple(x.shape) for side in (student, teacher) for x in ([side] if isinstance(side, Tensor) else side)]
    # float64 has no wider type to keep log-sum-exps in, the exact values no more than the kernel: there, the exponents
    # themselves are rounded on the way.
    largest = 0.0
    if dtype == torch.float64:
        sides = (student, student_temp), (teacher, teacher_temp), (center, teacher_temp)
        largest = 8 * sum(max(x.abs().max().item() for x in views) / tau for views, tau in sides if views is not None)
    assert_close_to_exact(kernel, eager, exact, terms, dtype, largest, f"{shapes} {taus} {list(options)}")
