"""The ops of the classic pretexts that are compared, and who computes them.

`pretexts_measure.py` checks that all providers of a case agree, in the result and in every gradient. Eager PyTorch is
what people write, or the best they could.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import colors_forms as colors
import pretexts_forms as forms
import provided
import torch
from pretexts_forms import Form, FormOf, Inputs, Problem
from torch import Tensor

PACKAGES = {"torchvision": "torchvision", "kornia": "kornia", "tree": "sklearn"}


@dataclass(frozen=True)
class Case:
    """An op on inputs of a kind.

    Attributes:
        title: of its rows.
        op: of fastssl, whose backends can be forced.
        inputs: by name, of a problem and a generator.
        forms: of the problem, what each provider computes from the inputs.
        moved: bytes that have to be read or written, of the problem and the mode.
        compared: of inputs and result, what has to be equal for all providers.
        leaves: inputs that gradients are taken by; none: a forward pass is all there is.
    """

    title: str
    op: str
    inputs: Callable[[Problem, torch.Generator], Inputs]
    forms: dict[str, FormOf]
    moved: Callable[[Problem, str], int]
    compared: Callable[[Inputs, Any], Sequence[Tensor]] = lambda x, out: [out]
    leaves: tuple[str, ...] = ()


def _patches(title: str) -> Case:
    return Case(
        title, "extract_patches", forms.patch_inputs, forms.PATCHES, forms.patch_bytes, forms.without_noise
    )  # fmt: skip


CASES = {
    "jigsaw": _patches("tiles of jigsaw"),
    "context": _patches("patches of context prediction"),
    "lab": Case("Lab", "lab_bins", colors.image_inputs, colors.LAB, colors.color_bytes),
    "bins": Case(
        "Lab, 10 bins of every 4th pixel",
        "lab_bins",
        colors.image_inputs,
        colors.COLOR_BINS,
        colors.color_bytes,
        colors.colors_alike,
    ),
    "loss": Case(
        "loss of 10 of 313 bins",
        "sparse_cross_entropy",
        colors.target_inputs,
        colors.LOSS,
        colors.loss_bytes,
        leaves=("logits",),
    ),
}


def backends(problem: Problem, device: str) -> list[str]:
    """Backends of fastssl that run a problem here; `auto` takes the first."""
    like = torch.empty(1, 1, dtype=getattr(torch, problem.dtype), device=device)
    return provided.backends(CASES[problem.case].op, like)


def available(problem: Problem, device: str) -> list[str]:
    """Names of the problem's providers that can run here; the backend that `auto` takes is left to "fastssl"."""
    return provided.available(CASES[problem.case].forms, PACKAGES, backends(problem, device), problem.providers)


def build(problem: Problem, provider: str) -> Form:
    """What a provider computes; "fastssl-torch" is fastssl on that backend."""
    return provided.build(CASES[problem.case].forms, problem, provider)


def make_inputs(problem: Problem, device: str, seed: int = 0) -> Inputs:
    """The inputs of a problem; leaves are of its type and require gradients, all else is as it was made."""
    case = CASES[problem.case]
    found = case.inputs(problem, torch.Generator().manual_seed(seed))
    moved = {name: x.to(device) if isinstance(x, Tensor) else x for name, x in found.items()}
    for name in case.leaves:
        moved[name] = moved[name].to(getattr(torch, problem.dtype)).requires_grad_()
    return moved


def backward(problem: Problem, out: Any, inputs: Inputs) -> tuple[Tensor, ...]:
    """Gradients by the leaves."""
    by = [inputs[name] for name in CASES[problem.case].leaves]
    return torch.autograd.grad(out, by) if by else ()


def preload(problem: dict[str, Any], provider: str, mode: str | None = None) -> None:
    """Import what the calls of `memory_case` need."""
    provided.preload(provider, PACKAGES, ("torchvision.transforms.v2", "sklearn.neighbors"))


def memory_case(
    problem: dict[str, Any], provider: str, mode: str | None = None, device: str = "cpu"
) -> tuple[Callable[[], object], provided.Calls]:
    """The calls of `provided.memory_calls`."""
    made = Problem(**problem)
    inputs, form = make_inputs(made, device), build(made, provider)
    back = functools.partial(backward, made, inputs=inputs)
    return provided.memory_calls(lambda: form(inputs), back if CASES[made.case].leaves else None, mode)
