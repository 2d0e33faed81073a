"""The ops of training with a teacher that are compared, and who computes them.

`teachers_measure.py` checks that all providers of a case agree, in the result, in what they update in place and in
every gradient. Eager PyTorch is `fastssl.reference`, or what the authors of a method do; peers are called as their
users call them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import provided
import teachers_forms as forms
import torch
from teachers_forms import Form, FormOf, Inputs, Problem
from torch import Tensor

PACKAGES = {"lightly": "lightly"}
_MODULES = ("lightly.loss", "lightly.loss.swav_loss", "lightly.models.utils", "lightly.models.modules.center")


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


CASES = {
    "dino": Case(
        "DINO and its centre", forms.dino_inputs, forms.DINO, ("student",), "dino_loss", lambda x, out: out
    ),
    "dino-loss": Case("DINO", forms.dino_inputs, forms.DINO_LOSS, ("student",), "dino_loss"),
    "ibot": Case("iBOT and its centre", forms.ibot_inputs, forms.IBOT, ("student",), "dino_loss", lambda x, out: out),
    "sinkhorn": Case(
        "Sinkhorn-Knopp", forms.sinkhorn_inputs, forms.SINKHORN, op="sinkhorn", compared=forms.assignments
    ),
    "koleo": Case("KoLeo", forms.koleo_inputs, forms.KOLEO, ("x",)),
    "ema": Case(
        "average of weights", forms.ema_inputs, forms.EMA, compared=lambda x, out: [*out.parameters()]
    ),
    "center": Case("the centre alone", forms.center_inputs, forms.CENTER),
}  # fmt: skip


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
