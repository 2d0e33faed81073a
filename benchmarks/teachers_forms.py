"""Inputs of the ops of training with a teacher, and the forms in which fastssl, eager PyTorch and lightly compute them.

Logits are cosines, as the weight-normed last layers of heads give. Where lightly's loss updates its centre, as a
step of training has to, all forms do.
"""

from __future__ import annotations

import copy
import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastssl import functional, reference

Inputs = dict[str, Any]  # tensors, lists of them, modules
Form = Callable[[Inputs], Any]
STUDENT_TEMP, TEACHER_TEMP, SINKHORN_TEMP, ITERATIONS = 0.1, 0.04, 0.05, 3
CENTER_MOMENTUM, EMA_MOMENTUM = 0.9, 0.996
GLOBAL_VIEWS, IMAGES, PATCH, TOKENS = 2, 64, 16, 197


@dataclass(frozen=True)
class Problem:
    """A case of `CASES` and its sizes, with the seconds that its timing may take and the providers to compare."""

    case: str
    rows: int  # images, samples or patches; of the weights' average, blocks of a Vision Transformer
    width: int  # of a row
    views: int = 1  # of the student
    dtype: str = "float32"
    providers: tuple[str, ...] | None = None  # None: all there are
    budget_s: float = 12

    @property
    def label(self) -> str:
        """For test names."""
        return f"{self.case}-v{self.views}-{self.rows}-{self.width}-{self.dtype}"

    @property
    def images(self) -> int:
        """That masked patches are of."""
        return math.gcd(self.rows, IMAGES)


FormOf = Callable[[Problem], Form]


def _logits(generator: torch.Generator, *shape: int) -> Tensor:
    """Cosines, as the weight-normed last layer of a head gives."""
    return torch.randn(shape, generator=generator).mul_(0.25).clamp_(-1, 1)


def _same(form: Form) -> FormOf:
    """A form that is the same for all problems."""
    return lambda problem: form


def _keeping(
    make: Callable[[Inputs], Any], call: Callable[[Inputs, Any], Any], next_of: Callable[[Any], Any] | None = None
) -> FormOf:  # fmt: skip
    """A form with something of its own, made of the first inputs that it gets, that each call changes.

    It is changed in place, or is found in the result by `next_of`.
    """

    def form_of(problem: Problem) -> Form:
        kept: list[Any] = []

        def form(x: Inputs) -> Any:
            if not kept:
                kept.append(make(x))
            out = call(x, kept[0])
            if next_of is not None:
                kept[0] = next_of(out)
            return out

        return form

    return form_of


def _lightly(module: str, name: str) -> Any:
    return getattr(importlib.import_module(f"lightly.{module}"), name)


# The centre.
def _own_center(x: Inputs) -> Tensor:
    return x["center"].clone()


def _update(center: Tensor, teachers: Sequence[Tensor]) -> Tensor:
    """The next centre, in eager PyTorch."""
    mean = sum(t.sum(0) for t in teachers) / sum(len(t) for t in teachers)
    return CENTER_MOMENTUM * center + (1 - CENTER_MOMENTUM) * mean


def center_inputs(problem: Problem, generator: torch.Generator) -> Inputs:
    return {"center": 0.1 * _logits(generator, problem.width),
            "teacher": _logits(generator, problem.rows, problem.width)}  # fmt: skip


def _update_by_fastssl(center: Tensor, teachers: Sequence[Tensor]) -> Tensor:
    functional.center_update(center, teachers, CENTER_MOMENTUM)
    return center


def _lightly_center(x: Inputs) -> nn.Module:
    made = _lightly("models.modules.center", "Center")((1, len(x["center"])), momentum=CENTER_MOMENTUM)
    made.center = x["center"][None]
    return made


def _update_by_lightly(x: Inputs, center: Any) -> Tensor:
    center.update(x["teacher"])
    return center.value[0]


CENTER: dict[str, FormOf] = {
    "fastssl": _keeping(_own_center, lambda x, center: _update_by_fastssl(center, [x["teacher"]])),
    "eager": _keeping(_own_center, lambda x, center: _update(center, [x["teacher"]]), lambda out: out),
    "lightly": _keeping(_lightly_center, _update_by_lightly),
}


# The loss between views.
def dino_inputs(problem: Problem, generator: torch.Generator) -> Inputs:
    sides = {"student": problem.views, "teacher": GLOBAL_VIEWS}
    views = {side: [_logits(generator, problem.rows, problem.width) for _ in range(n)] for side, n in sides.items()}
    return {**views, "center": 0.1 * _logits(generator, problem.width)}


def _loss(layer: Any, x: Inputs, center: Tensor) -> Tensor:
    return layer.dino_loss(x["student"], x["teacher"], center, STUDENT_TEMP, TEACHER_TEMP)


def _dino_by_fastssl(x: Inputs, center: Tensor) -> tuple[Tensor, Tensor]:
    return _loss(functional, x, center), _update_by_fastssl(center, x["teacher"])


def _dino_by_eager(x: Inputs, center: Tensor) -> tuple[Tensor, Tensor]:
    return _loss(reference, x, center), _update(center, x["teacher"])


def _dino_by_compiler(problem: Problem) -> Form:
    run = torch.compile(_dino_by_eager, dynamic=False)  # static shapes, the best case of the compiler
    return _keeping(_own_center, run, _center_of)(problem)


def _center_of(out: tuple[Tensor, Tensor]) -> Tensor:
    return out[1]


def _dino_by_pairs(x: Inputs, center: Tensor) -> tuple[Tensor, Tensor]:
    """As DINO's authors do: from the logits to the mean anew for each pair."""
    students = [s / STUDENT_TEMP for s in x["student"]]
    total, pairs = torch.zeros((), device=center.device), 0
    for i, t in enumerate(x["teacher"]):
        q = F.softmax((t - center) / TEACHER_TEMP, dim=-1)
        for v, s in enumerate(students):
            if v != i:
                total = total + torch.sum(-q * F.log_softmax(s, dim=-1), dim=-1).mean()
                pairs += 1
    return total / pairs, _update(center, x["teacher"])


def _lightly_dino(x: Inputs) -> nn.Module:
    loss = _lightly("loss", "DINOLoss")(
        len(x["center"]), teacher_temp=TEACHER_TEMP, student_temp=STUDENT_TEMP, center_momentum=CENTER_MOMENTUM
    )
    loss.center = x["center"][None, None].clone()
    return loss


def _dino_by_lightly(x: Inputs, loss: Any) -> tuple[Tensor, Tensor]:
    return loss(x["teacher"], x["student"]), loss.center[0, 0]


DINO: dict[str, FormOf] = {
    "fastssl": _keeping(_own_center, _dino_by_fastssl),
    "eager": _keeping(_own_center, _dino_by_eager, _center_of),
    "compile": _dino_by_compiler,
    "lightly": _keeping(_lightly_dino, _dino_by_lightly),
    "pairs": _keeping(_own_center, _dino_by_pairs, _center_of),
}
DINO_LOSS: dict[str, FormOf] = {
    "fastssl": _same(lambda x: _loss(functional, x, x["center"])),
    "eager": _same(lambda x: _loss(reference, x, x["center"])),
}


# The loss of masked patches.
def ibot_inputs(problem: Problem, generator: torch.Generator) -> Inputs:
    sides = {side: _logits(generator, problem.rows, problem.width) for side in ("student", "teacher")}
    mask = torch.ones(problem.images, problem.rows // problem.images, 1, dtype=torch.bool)
    weights = torch.full((problem.rows,), problem.images / problem.rows)  # 1 / (patches of the image)
    return {**sides, "center": 0.1 * _logits(generator, problem.width), "weights": weights, "mask": mask}


def _patch_loss(layer: Any, x: Inputs, center: Tensor) -> Tensor:
    return layer.ibot_loss(
        x["student"], x["teacher"], center, STUDENT_TEMP, TEACHER_TEMP, weights=x["weights"], samples=len(x["mask"])
    )


def _ibot_by_fastssl(x: Inputs, center: Tensor) -> tuple[Tensor, Tensor]:
    return _patch_loss(functional, x, center), _update_by_fastssl(center, [x["teacher"]])


def _ibot_by_eager(x: Inputs, center: Tensor) -> tuple[Tensor, Tensor]:
    return _patch_loss(reference, x, center), _update(center, [x["teacher"]])


def _lightly_ibot(x: Inputs) -> nn.Module:
    loss = _lightly("loss", "IBOTPatchLoss")(
        len(x["center"]), TEACHER_TEMP, STUDENT_TEMP, center_momentum=CENTER_MOMENTUM
    )
    loss.center.center = x["center"][None]
    return loss


def _ibot_by_lightly(x: Inputs, loss: Any) -> tuple[Tensor, Tensor]:
    return loss(x["teacher"], x["student"], x["mask"]), loss.center.value[0]


IBOT: dict[str, FormOf] = {
    "fastssl": _keeping(_own_center, _ibot_by_fastssl),
    "eager": _keeping(_own_center, _ibot_by_eager, _center_of),
    "lightly": _keeping(_lightly_ibot, _ibot_by_lightly),
}


# Balanced assignments.
def sinkhorn_inputs(problem: Problem, generator: torch.Generator) -> Inputs:
    return {"logits": _logits(generator, problem.rows, problem.width)}


def _own_sinkhorn(assignments: bool = False) -> FormOf:
    return _same(lambda x: functional.sinkhorn(x["logits"], ITERATIONS, SINKHORN_TEMP, assignments=assignments))


@torch.no_grad()
def _eager_sinkhorn(x: Inputs) -> Tensor:
    """The published form: exponentials first, then sums and divisions."""
    q = (x["logits"] / SINKHORN_TEMP).exp().t()
    prototypes, samples = q.shape
    q /= q.sum()
    for _ in range(ITERATIONS):
        q /= q.sum(dim=1, keepdim=True)
        q /= prototypes
        q /= q.sum(dim=0, keepdim=True)
        q /= samples
    q *= samples
    return q.t()


def assignments(x: Inputs, out: Tensor) -> list[Tensor]:
    """Q itself, or that of a centre."""
    if out.ndim == 2:
        return [out]
    return [((x["logits"].float() - out) / SINKHORN_TEMP).softmax(1)]


def _lightly_sinkhorn(x: Inputs) -> Tensor:
    return _lightly("loss.swav_loss", "sinkhorn")(x["logits"], ITERATIONS, SINKHORN_TEMP)


SINKHORN: dict[str, FormOf] = {
    "fastssl": _own_sinkhorn(),
    "fastssl-assignments": _own_sinkhorn(assignments=True),
    "eager": _same(_eager_sinkhorn),
    "compile": lambda problem: torch.compile(_eager_sinkhorn, dynamic=False),
    "lightly": _same(_lightly_sinkhorn),
}


# The average of weights.
class _Weights(nn.Module):
    """The parameters of a Vision Transformer."""

    def __init__(self, depth: int, width: int, generator: torch.Generator) -> None:
        super().__init__()
        layers = [(3 * width, width), (width, width), (4 * width, width), (width, 4 * width)]
        block = [(width,)] * 4 + [shape for rows, columns in layers for shape in ((rows, columns), (rows,))]
        first = [(1, 1, width), (1, TOKENS, width), (width, 3, PATCH, PATCH), (width,)]
        shapes = [*first, *(shape for _ in range(depth) for shape in block), (width,), (width,)]
        self.weights = nn.ParameterList([torch.randn(shape, generator=generator) for shape in shapes])


def ema_inputs(problem: Problem, generator: torch.Generator) -> Inputs:
    return {side: _Weights(problem.rows, problem.width, generator) for side in ("student", "teacher")}


def _own_teacher(x: Inputs) -> nn.Module:
    return copy.deepcopy(x["teacher"])


def _ema_by_fastssl(x: Inputs, teacher: nn.Module) -> nn.Module:
    functional.ema_update(teacher, x["student"], EMA_MOMENTUM)
    return teacher


@torch.no_grad()
def _ema_by_loop(x: Inputs, teacher: nn.Module) -> nn.Module:
    for t, s in zip(teacher.parameters(), x["student"].parameters(), strict=True):
        t.mul_(EMA_MOMENTUM).add_(s, alpha=1 - EMA_MOMENTUM)
    return teacher


def _ema_by_lightly(x: Inputs, teacher: nn.Module) -> nn.Module:
    _lightly("models.utils", "update_momentum")(x["student"], teacher, EMA_MOMENTUM)
    return teacher


def weights(problem: Problem) -> int:
    """Numbers that the average of weights moves."""
    d = problem.width
    return problem.rows * (12 * d * d + 13 * d) + d * (1 + TOKENS + 3 * PATCH**2 + 1 + 2)


EMA: dict[str, FormOf] = {
    "fastssl": _keeping(_own_teacher, _ema_by_fastssl),
    "eager": _keeping(_own_teacher, _ema_by_loop),
    "lightly": _keeping(_own_teacher, _ema_by_lightly),
}


# Rows that keep apart.
def koleo_inputs(problem: Problem, generator: torch.Generator) -> Inputs:
    return {"x": torch.randn(problem.rows, problem.width, generator=generator)}


KOLEO: dict[str, FormOf] = {
    "fastssl": _same(lambda x: functional.koleo(x["x"])),
    "eager": _same(lambda x: reference.koleo(x["x"])),
    "lightly": _same(lambda x: _lightly("loss", "KoLeoLoss")()(x["x"])),
}
