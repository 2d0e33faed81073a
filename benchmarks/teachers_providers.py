"""The ops of training with a teacher that are compared: their inputs, and how each provider computes them.

`teachers_measure.py` checks that all providers of a case agree, in the result, in what they update in place and in
every gradient. Eager PyTorch is `fastssl.reference`, or what the authors of a method do; peers are called as their
users call them. Where lightly's loss updates its centre, as a step of training has to, all providers do.
"""

from __future__ import annotations

import copy
import functools
import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import provided
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastssl import functional, reference

Inputs = dict[str, Any]  # tensors, lists of them, modules
Form = Callable[[Inputs], Any]
STUDENT_TEMP, TEACHER_TEMP, SINKHORN_TEMP, ITERATIONS = 0.1, 0.04, 0.05, 3
CENTER_MOMENTUM, EMA_MOMENTUM = 0.9, 0.996
GLOBAL_VIEWS, IMAGES, PATCH, TOKENS = 2, 64, 16, 197
PACKAGES = {"lightly": "lightly"}
_MODULES = ("lightly.loss", "lightly.loss.swav_loss", "lightly.models.utils", "lightly.models.modules.center")


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


@dataclass(frozen=True)
class Case:
    """An op, or a few together.

    Attributes:
        title: of its rows.
        inputs: by name, of a problem and a generator.
        forms: of the problem, what each provider computes from the inputs; the first of several results is the loss.
        leaves: inputs that gradients are taken by; none: a forward pass is all there is.
        op: of fastssl, whose backends can be forced; None where there is but one.
        compared: of inputs and result, what has to be equal for all providers.
    """

    title: str
    inputs: Callable[[Problem, torch.Generator], Inputs]
    forms: dict[str, FormOf]
    leaves: tuple[str, ...] = ()
    op: str | None = None
    compared: Callable[[Inputs, Any], Sequence[Tensor]] = lambda x, out: [out]


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


def _center(problem: Problem, generator: torch.Generator) -> Inputs:
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


# The loss between views.
def _views(problem: Problem, generator: torch.Generator) -> Inputs:
    sides = {"student": problem.views, "teacher": GLOBAL_VIEWS}
    views = {
        side: [_logits(generator, problem.rows, problem.width) for _ in range(n)] for side, n in sides.items()
    }  # fmt: skip
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


# The loss of masked patches.
def _patches(problem: Problem, generator: torch.Generator) -> Inputs:
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


# Balanced assignments.
def _scores(problem: Problem, generator: torch.Generator) -> Inputs:
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


def _assignments(x: Inputs, out: Tensor) -> list[Tensor]:
    """Q itself, or that of a centre."""
    if out.ndim == 2:
        return [out]
    return [((x["logits"].float() - out) / SINKHORN_TEMP).softmax(1)]


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


def _models(problem: Problem, generator: torch.Generator) -> Inputs:
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


def _rows(problem: Problem, generator: torch.Generator) -> Inputs:
    return {"x": torch.randn(problem.rows, problem.width, generator=generator)}


CASES = {
    "dino": Case(
        "DINO and its centre", _views,
        {
            "fastssl": _keeping(_own_center, _dino_by_fastssl),
            "eager": _keeping(_own_center, _dino_by_eager, _center_of), "compile": _dino_by_compiler,
            "lightly": _keeping(_lightly_dino, _dino_by_lightly),
            "pairs": _keeping(_own_center, _dino_by_pairs, _center_of),
        },
        ("student",), "dino_loss", lambda x, out: out,
    ),
    "dino-loss": Case(
        "DINO", _views,
        {"fastssl": _same(lambda x: _loss(functional, x, x["center"])),
         "eager": _same(lambda x: _loss(reference, x, x["center"]))},
        ("student",), "dino_loss",
    ),
    "ibot": Case(
        "iBOT and its centre", _patches,
        {"fastssl": _keeping(_own_center, _ibot_by_fastssl),
         "eager": _keeping(_own_center, _ibot_by_eager, _center_of),
         "lightly": _keeping(_lightly_ibot, _ibot_by_lightly)},
        ("student",), "dino_loss", lambda x, out: out,
    ),
    "sinkhorn": Case(
        "Sinkhorn-Knopp", _scores,
        {
            "fastssl": _own_sinkhorn(), "fastssl-assignments": _own_sinkhorn(assignments=True),
            "eager": _same(_eager_sinkhorn), "compile": lambda problem: torch.compile(_eager_sinkhorn, dynamic=False),
            "lightly": _same(
                lambda x: _lightly("loss.swav_loss", "sinkhorn")(x["logits"], ITERATIONS, SINKHORN_TEMP)
            ),
        },
        (), "sinkhorn", _assignments,
    ),
    "koleo": Case(
        "KoLeo", _rows,
        {"fastssl": _same(lambda x: functional.koleo(x["x"])), "eager": _same(lambda x: reference.koleo(x["x"])),
         "lightly": _same(lambda x: _lightly("loss", "KoLeoLoss")()(x["x"]))},
        ("x",),
    ),
    "ema": Case(
        "average of weights", _models,
        {"fastssl": _keeping(_own_teacher, _ema_by_fastssl), "eager": _keeping(_own_teacher, _ema_by_loop),
         "lightly": _keeping(_own_teacher, _ema_by_lightly)},
        compared=lambda x, out: [*out.parameters()],
    ),
    "center": Case(
        "the centre alone", _center,
        {
            "fastssl": _keeping(_own_center, lambda x, center: _update_by_fastssl(center, [x["teacher"]])),
            "eager": _keeping(_own_center, lambda x, center: _update(center, [x["teacher"]]), lambda out: out),
            "lightly": _keeping(_lightly_center, _update_by_lightly),
        },
    ),
}  # fmt: skip


def weights(problem: Problem) -> int:
    """Numbers that the average of weights moves."""
    d = problem.width
    return problem.rows * (12 * d * d + 13 * d) + d * (1 + TOKENS + 3 * PATCH**2 + 1 + 2)


def backends(problem: Problem, device: str) -> list[str]:
    """Backends of fastssl that run a problem here, where there are several; `auto` takes the first."""
    op = CASES[problem.case].op
    like = torch.empty(1, 1, problem.width, dtype=getattr(torch, problem.dtype), device=device)
    return [] if op is None else provided.backends(op, like)


def available(problem: Problem, device: str) -> list[str]:
    """Names of the problem's providers that can run here; the backend that `auto` takes is left to "fastssl"."""
    return provided.available(CASES[problem.case].forms, PACKAGES, backends(problem, device), problem.providers)


def build(problem: Problem, provider: str) -> Form:
    """What a provider computes; "fastssl-torch" is fastssl on that backend."""
    return provided.build(CASES[problem.case].forms, problem, provider)


def make_inputs(problem: Problem, device: str, seed: int = 0) -> Inputs:
    """The inputs of a problem; those that gradients are taken by require them, and centre and weights are float32."""
    case, dtype = CASES[problem.case], getattr(torch, problem.dtype)

    def moved(name: str, x: Any) -> Any:
        if isinstance(x, list):
            return [moved(name, view) for view in x]
        if not isinstance(x, Tensor) or name in ("center", "weights", "mask"):
            return x.to(device)
        return x.to(device, dtype).requires_grad_(name in case.leaves)

    found = case.inputs(problem, torch.Generator().manual_seed(seed))
    return {name: moved(name, x) for name, x in found.items()}


def leaves(problem: Problem, inputs: Inputs) -> list[Tensor]:
    """Tensors that gradients are taken by."""
    found = (inputs[name] for name in CASES[problem.case].leaves)
    return [leaf for x in found for leaf in (x if isinstance(x, list) else [x])]


def backward(problem: Problem, out: Any, inputs: Inputs) -> tuple[Tensor, ...]:
    """Gradients by the leaves."""
    by = leaves(problem, inputs)
    return torch.autograd.grad(out[0] if isinstance(out, tuple) else out, by) if by else ()


def preload(problem: dict[str, Any], provider: str, mode: str | None = None) -> None:
    """Import what the calls of `memory_case` need."""
    provided.preload(provider, PACKAGES, _MODULES)


def memory_case(
    problem: dict[str, Any], provider: str, mode: str | None = None, device: str = "cpu"
) -> tuple[Callable[[], object], provided.Calls]:
    """The calls of `provided.memory_calls`; what a provider keeps is there before."""
    made = Problem(**problem)
    inputs, form = make_inputs(made, device), build(made, provider)
    back = functools.partial(backward, made, inputs=inputs)
    return provided.memory_calls(lambda: form(inputs), back if CASES[made.case].leaves else None, mode)
