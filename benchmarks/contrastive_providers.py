"""The contrastive losses that are compared: their inputs, and how each provider computes them.

`contrastive_measure.py` checks that all providers of a case agree, in the loss and in every gradient. Eager PyTorch is
`fastssl.reference`, with all scores in memory; peers are called as their users call them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import provided
import torch
import torch.nn.functional as F
from torch import Tensor

from fastssl import functional, reference

Inputs = dict[str, Tensor]
Form = Callable[[Inputs], Tensor]
TAU, SCALE, BIAS, CLASSES = 0.2, 1 / 0.07, -10.0, 64
PACKAGES = {
    "lightly": "lightly", "pml": "pytorch_metric_learning", "open_clip": "open_clip", "info-nce-pytorch": "info_nce",
}  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """A case of `CASES` and its sizes, with the seconds that its timing may take and the providers to compare."""

    case: str
    m: int
    n: int
    d: int
    dtype: str = "float32"
    providers: tuple[str, ...] | None = None  # None: all there are
    budget_s: float = 12

    @property
    def label(self) -> str:
        """For test names."""
        return f"{self.case}-{self.m}-{self.n}-{self.d}-{self.dtype}"


@dataclass(frozen=True)
class Case:
    """A loss.

    Attributes:
        title: of its rows.
        inputs: tensors by name, of a problem and a generator.
        forms: what each provider computes from the inputs.
        products: of m x n x d, 2 m n d operations each, that forward and the whole step need on a CPU.
        leaves: inputs that gradients are taken by.
    """

    title: str
    inputs: Callable[[Problem, torch.Generator], Inputs]
    forms: dict[str, Form]
    products: tuple[float, float]
    leaves: tuple[str, ...] = ("x", "y")


def _views(problem: Problem, generator: torch.Generator) -> Inputs:
    x = torch.randn(problem.m, problem.d, generator=generator)
    return {"x": x, "y": x + torch.randn(problem.m, problem.d, generator=generator)}


def _unit_views(problem: Problem, generator: torch.Generator) -> Inputs:
    return {name: F.normalize(x, dim=1) for name, x in _views(problem, generator).items()}


def _queue(problem: Problem, generator: torch.Generator) -> Inputs:
    rows = F.normalize(torch.randn(problem.n, problem.d, generator=generator), dim=1)
    return {**_views(problem, generator), "queue": rows}


def _labelled(problem: Problem, generator: torch.Generator) -> Inputs:
    labels = torch.randint(CLASSES, (problem.m,), generator=generator)
    return {"x": torch.randn(problem.m, problem.d, generator=generator), "labels": labels}


def _vocabulary(problem: Problem, generator: torch.Generator) -> Inputs:
    x = torch.randn(problem.m, problem.d, generator=generator)
    weight = torch.randn(problem.n, problem.d, generator=generator) * problem.d**-0.5
    return {"x": x, "weight": weight, "target": torch.randint(problem.n, (problem.m,), generator=generator)}


def _loss(module: str, name: str, *args: Any, **kwargs: Any) -> Any:
    return getattr(importlib.import_module(module), name)(*args, **kwargs)


def _pml(name: str) -> Form:
    return lambda x: _loss("pytorch_metric_learning.losses", name, temperature=TAU)(x["x"], x["labels"])


def _open_clip(name: str, *rest: float) -> Form:
    def form(x: Inputs) -> Tensor:
        scalars = [torch.tensor(value, device=x["x"].device) for value in rest]
        return _loss("open_clip.loss", name)(x["x"], x["y"], *scalars)

    return form


def _both(call: Callable[[Any, Inputs], Tensor], **peers: Form) -> dict[str, Form]:
    """The form of fastssl of a loss, its eager form, that compiled, and peers."""
    return {
        "fastssl": lambda x: call(functional, x),
        "eager": lambda x: call(reference, x),
        "compile": lambda x: call(reference, x),
        **peers,
    }


CASES = {
    "moco": Case(
        "MoCo", _queue, _both(lambda f, x: f.moco(x["x"], x["y"], x["queue"], TAU)),
        (1, 2), ("x",),
    ),
    "supcon": Case(
        "SupCon", _labelled,
        _both(lambda f, x: f.supcon(x["x"], x["labels"], TAU), pml=_pml("SupConLoss")), (0.5, 2), ("x",),
    ),
    "multi-positive": Case(
        "multi-positive NT-Xent", _labelled,
        _both(lambda f, x: f.multi_positive_ntxent(x["x"], x["labels"], TAU), pml=_pml("NTXentLoss")), (1.5, 5), ("x",),
    ),
    "clip": Case(
        "CLIP", _unit_views,
        _both(lambda f, x: f.clip(x["x"], x["y"], SCALE, normalize=False), open_clip=_open_clip("ClipLoss", SCALE)),
        (1, 4),
    ),
    "siglip": Case(
        "SigLIP", _unit_views,
        _both(
            lambda f, x: f.siglip(x["x"], x["y"], 10.0, BIAS, normalize=False),
            open_clip=_open_clip("SigLipLoss", 10.0, BIAS),
        ),
        (1, 3),
    ),
    "info-nce": Case(
        "InfoNCE", _views,
        _both(
            lambda f, x: f.info_nce(x["x"], x["y"], temperature=TAU),
            **{"info-nce-pytorch": lambda x: _loss("info_nce", "InfoNCE", TAU)(x["x"], x["y"])},
        ),
        (1, 4),
    ),
    "dcl": Case(
        "DCL", _views,
        _both(
            lambda f, x: f.dcl(x["x"], x["y"], TAU),
            lightly=lambda x: _loss("lightly.loss", "DCLLoss", TAU)(x["x"], x["y"]),
        ),
        (2, 8),
    ),
    "hard-negatives": Case(
        "NT-Xent, hard negatives", _views, _both(lambda f, x: f.hard_negative_ntxent(x["x"], x["y"], 0.5)), (4, 16)
    ),
    "uniformity": Case("uniformity", _labelled, _both(lambda f, x: f.uniformity(x["x"])), (0.5, 2), ("x",)),
    "vocabulary": Case(
        "linear cross-entropy", _vocabulary,
        _both(lambda f, x: f.linear_cross_entropy(x["x"], x["weight"], x["target"])), (1, 4), ("x", "weight"),
    ),
}  # fmt: skip


def backends(problem: Problem, device: str) -> list[str]:
    """Backends of fastssl that run a problem here; `auto` takes the first."""
    return provided.backends("pairwise_logsumexp", torch.empty(1, problem.d, device=device))


def available(problem: Problem, device: str) -> list[str]:
    """Names of the problem's providers that can run here; the backend that `auto` takes is left to "fastssl"."""
    return provided.available(CASES[problem.case].forms, PACKAGES, backends(problem, device), problem.providers)


def build(problem: Problem, provider: str) -> Form:
    """What a provider computes; "fastssl-torch" is fastssl on that backend."""
    forms = CASES[problem.case].forms
    if provider == "compile":
        return torch.compile(forms[provider], dynamic=False)  # static shapes, the best case of the compiler
    return forms[provider] if provider in forms else provided.on_backend(forms["fastssl"], provider)


def make_inputs(problem: Problem, device: str, seed: int = 0) -> Inputs:
    """The inputs of a problem; those that gradients are taken by require them."""
    case, dtype = CASES[problem.case], getattr(torch, problem.dtype)
    found = case.inputs(problem, torch.Generator().manual_seed(seed))
    moved = {name: x.to(device, dtype) if x.is_floating_point() else x.to(device) for name, x in found.items()}
    return {name: x.requires_grad_() if name in case.leaves else x for name, x in moved.items()}


def backward(problem: Problem, loss: Tensor, inputs: Inputs) -> tuple[Tensor, ...]:
    """Gradients by the leaves."""
    return torch.autograd.grad(loss, [inputs[name] for name in CASES[problem.case].leaves])


def preload(problem: dict[str, Any], provider: str, mode: str | None = None) -> None:
    """Import what the calls of `memory_case` need."""
    provided.preload(provider, PACKAGES, ("lightly.loss", "pytorch_metric_learning.losses", "open_clip.loss"))


def memory_case(
    problem: dict[str, Any], provider: str, mode: str | None = None, device: str = "cpu"
) -> tuple[Callable[[], object], provided.Calls]:
    """The calls of `provided.memory_calls`."""
    made = Problem(**problem)
    inputs, form = make_inputs(made, device), build(made, provider)
    return provided.memory_calls(lambda: form(inputs), lambda loss: backward(made, loss, inputs), mode)
