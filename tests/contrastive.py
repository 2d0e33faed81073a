"""The contrastive losses as a table, for the tests of every one of them: arguments and the forms to compare."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Inputs = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """A call of a loss.

    Attributes:
        loss: the name of the function, in `fastssl.functional` and in `fastssl.reference`.
        inputs: makes the tensors of a problem of [n, d] from a generator; the float ones are differentiated.
        options: the other arguments.
        scalars: names of arguments that may be 0-d tensors and have gradients, with a value.
        listed: names of inputs that are handed over as one list, the first argument.
    """

    loss: str
    inputs: Callable[[int, int, torch.Generator], Inputs]
    options: dict[str, Any] = field(default_factory=dict)
    scalars: dict[str, float] = field(default_factory=dict)
    listed: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "-".join([self.loss, *(f"{k}={v}" for k, v in (self.options | self.scalars).items())])

    def call(self, function: Callable[..., Any], tensors: Inputs, scalars: dict[str, Any]) -> Any:
        """Call a form of the loss."""
        first = [[tensors[name] for name in self.listed]] if self.listed else [tensors[n] for n in "xy" if n in tensors]
        rest = {name: x for name, x in tensors.items() if name not in (*self.listed, "x", "y")}
        return function(*first, **rest, **self.options, **scalars)


def _normal(*shape: int, generator: torch.Generator) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def views(n: int, d: int, g: torch.Generator) -> Inputs:
    """Two related sets of rows."""
    z0 = _normal(n, d, generator=g)
    return {"x": z0, "y": z0 + _normal(n, d, generator=g)}


def with_others(name: str, *shape: int) -> Callable[[int, int, torch.Generator], Inputs]:
    """And more: -1 in the shape is the width, 0 the number of rows."""

    def make(n: int, d: int, g: torch.Generator) -> Inputs:
        sizes = [{-1: d, 0: n}.get(s, s) for s in shape]
        return {**views(n, d, g), name: _normal(*sizes, generator=g)}

    return make


def queue(n: int, d: int, g: torch.Generator) -> Inputs:
    """And a queue of unit rows, which has no gradient."""
    found = with_others("queue", 37, -1)(n, d, g)
    return {**found, "queue": torch.nn.functional.normalize(found["queue"], dim=1)}


def labelled(n: int, d: int, g: torch.Generator) -> Inputs:
    """Rows of a few classes, with labels of any value."""
    labels = torch.randint(-(2**40), 2**40, (max(1, n // 3),), generator=g)
    picked = labels[torch.randint(len(labels), (n,), generator=g)]
    return {"x": _normal(n, d, generator=g), "labels": picked}


def futures(n: int, d: int, g: torch.Generator) -> Inputs:
    """Predictions one and two steps ahead, and targets."""
    t = 5
    predictions = {f"p{k}": _normal(n, t - k, d, generator=g) for k in (1, 2)}
    return {**predictions, "targets": _normal(n, t, d, generator=g)}


def vocabulary(n: int, d: int, g: torch.Generator) -> Inputs:
    """Hidden states, a weight of 29 words, targets of which some do not count, and a bias."""
    target = torch.randint(29, (n,), generator=g)
    target[1::3] = -100
    return {"x": _normal(n, d, generator=g), "weight": _normal(29, d, generator=g), "target": target,
            "bias": _normal(29, generator=g)}  # fmt: skip


def matches(n: int, d: int, g: torch.Generator) -> Inputs:
    """Two related sets of rows, and labels of which several are equal."""
    return {**views(n, d, g), "labels": torch.randint(max(1, n // 2), (n,), generator=g)}


TAUS = ({"temperature": 0.5}, {"temperature": 0.07}, {"temperature": 0.005})
CASES = [
    *(Case("info_nce", views, {}, tau) for tau in TAUS),
    *(Case("info_nce", views, {"symmetric": True}, tau) for tau in TAUS),
    Case("info_nce", views, {"reduction": "sum"}, TAUS[0]),
    Case("info_nce", views, {"reduction": "none"}, TAUS[0]),
    Case("info_nce", views, {"normalize": False}, TAUS[0]),
    *(Case("info_nce", with_others("negative_keys", 23, -1), {}, tau) for tau in TAUS),
    Case("info_nce", with_others("negative_keys", 0, 6, -1), {"negative_mode": "paired"}, TAUS[1]),
    *(Case("moco", queue, {}, tau) for tau in TAUS),
    *(Case("clip", views, {}, {"logit_scale": s}) for s in (1.0, 14.3, 100.0)),
    Case("clip", views, {"normalize": False}, {"logit_scale": 2.0}),
    Case("siglip", views, {}, {"logit_scale": 10.0, "logit_bias": -10.0}),
    Case("siglip", views, {}, {"logit_scale": 117.0, "logit_bias": -12.9}),
    Case("siglip", matches, {}, {"logit_scale": 5.0, "logit_bias": -5.0}),
    *(Case("supcon", labelled, {}, tau) for tau in TAUS),
    *(Case("multi_positive_ntxent", labelled, {}, tau) for tau in TAUS),
    *(Case("dcl", views, {}, tau) for tau in TAUS),
    Case("dcl", with_others("weights", 0), {}, TAUS[0]),
    *(Case("dclw", views, {"sigma": sigma}, TAUS[1]) for sigma in (0.5, 0.1)),
    Case("hard_negative_ntxent", views, {}, TAUS[0]),
    Case("hard_negative_ntxent", views, {"beta": 0.0, "tau_plus": 0.0}, TAUS[1]),
    Case("hard_negative_ntxent", views, {"beta": 2.0, "tau_plus": 0.3}, TAUS[0]),
    Case("cpc", futures, {}, {"temperature": 1.0}, ("p1", "p2")),
    Case("cpc", futures, {"normalize": True}, TAUS[1], ("p1", "p2")),
    Case("alignment", views, {"alpha": 2.0}),
    Case("alignment", views, {"alpha": 1.5}),
    Case("uniformity", lambda n, d, g: {"x": _normal(n, d, generator=g)}, {}, {"t": 2.0}),
    Case("linear_cross_entropy", vocabulary),
    Case("linear_cross_entropy", vocabulary, {"reduction": "none"}),
]  # fmt: skip
LOSSES = sorted({case.loss for case in CASES})


def values(
    case: Case, function: Callable[..., Any], tensors: Inputs, dtype: torch.dtype, device: str = "cpu",
    upstream: float = 1.7,
) -> dict[str, Tensor]:  # fmt: skip
    """Return the loss and the gradient of every float input and scalar, in float64 on the CPU."""
    leaves = {
        name: x.to(device, dtype).requires_grad_() if x.is_floating_point() else x.to(device)
        for name, x in tensors.items()
    }
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    scalars = {
        name: torch.tensor(torch.tensor(v).item(), dtype=exact, device=device, requires_grad=True)
        for name, v in case.scalars.items()
    }
    out = case.call(function, leaves, scalars)
    wanted = {name: x for name, x in (leaves | scalars).items() if x.requires_grad}
    weights = torch.linspace(upstream, 2 * upstream, out.numel(), dtype=torch.float64, device=device)
    grads = torch.autograd.grad((out.double().flatten() * weights).sum(), tuple(wanted.values()), allow_unused=True)
    found = {name: torch.zeros_like(x) if g is None else g for (name, x), g in zip(wanted.items(), grads, strict=True)}
    return {name: x.detach().double().cpu() for name, x in ({"loss": out} | found).items()}


def scale_of(case: Case) -> float:
    """What multiplies the scores."""
    given = case.scalars | case.options
    return float(given.get("logit_scale", given.get("t", 1 / given.get("temperature", 1.0))))


def term_sizes(case: Case, tensors: Inputs, exact: dict[str, Tensor], upstream: float = 1.7) -> dict[str, Tensor]:
    """The size of what is summed for the loss and for each gradient: terms that may cancel."""
    scale, normalize = scale_of(case), case.options.get("normalize", case.loss not in ("cpc", "linear_cross_entropy"))
    first = next(iter(tensors.values()))
    rows = 1 if case.options.get("reduction", "mean") != "mean" else max(1, first.shape[:-1].numel())
    largest = max(x.norm(dim=-1).max().item() for x in tensors.values() if x.is_floating_point() and x.ndim > 1)
    sizes = {}
    for name, x in exact.items():
        size = torch.tensor(2 * upstream)
        if name == "temperature":
            size = size * scale**2
        elif name in tensors and x.ndim > 1:
            reach = 1 / tensors[name].norm(dim=-1, keepdim=True) if normalize else torch.tensor(largest)
            size = size * scale * reach / rows
        elif name == "loss":
            size = torch.tensor(1.0)
        if not normalize and x.ndim <= 1:
            size = size * max(1.0, largest**2)
        sizes[name] = size.double()
    return sizes
