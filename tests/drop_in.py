"""How a stand-in is held against the original: the same values and gradients, in float64 and in float32."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from accuracy import assert_close_to_exact
from torch import Tensor

Loss = Callable[..., Any]


def views(n: int, d: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two related sets of rows, float64, whose values float32 has."""
    z0 = torch.randn(n, d, generator=generator)
    return z0.double(), (z0 + torch.randn(n, d, generator=generator)).double()


def results(loss: Loss, tensors: Sequence[Tensor], dtype: torch.dtype, upstream: float = 1.7) -> dict[str, Tensor]:
    """Return the loss and the gradient of every float tensor that requires one, in float64."""
    leaves = [
        x.detach().to(dtype, copy=True).requires_grad_(x.requires_grad) if x.is_floating_point() else x for x in tensors
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the originals
        out = loss(*leaves)
    wanted = {f"gradient {i}": x for i, x in enumerate(leaves) if x.requires_grad}
    weights = torch.linspace(upstream, 2 * upstream, out.numel(), dtype=torch.float64)
    grads = torch.autograd.grad((out.double().flatten() * weights).sum(), tuple(wanted.values()), allow_unused=True)
    found = {name: torch.zeros_like(x) if g is None else g for (name, x), g in zip(wanted.items(), grads, strict=True)}
    return {name: x.detach().double() for name, x in ({"loss": out} | found).items()}


def assert_same(
    original: Loss, ours: Loss, tensors: Sequence[Tensor], scale: float = 1.0, where: str = "", double: bool = True,
    grads: Sequence[bool] | None = None, term: float | None = None,
) -> None:  # fmt: skip
    """Hold `ours` to the original's results; both are called with copies of `tensors`.

    In float64 they are the same to 1e-9. In float32 the rule of `accuracy` holds, with the original as what is eager.

    Args:
        scale: what the scores are multiplied by.
        double: whether the original can do float64; else it is held to our own results there.
        grads: which tensors get gradients; all floats by default.
        term: the size of what is summed for a gradient; by default that of a score of two rows, of unit length.
    """
    wants = grads or [True] * len(tensors)
    tensors = [x.requires_grad_(want and x.is_floating_point()) for x, want in zip(tensors, wants, strict=True)]
    mine = results(ours, tensors, torch.float64)
    exact = results(original, tensors, torch.float64) if double else mine
    sizes = {"loss": exact["loss"].abs().max().clamp_min(1)}
    for i, x in enumerate(tensors):
        if x.requires_grad:
            rows = 3.4 * scale / len(x) / x.detach().norm(dim=-1).min() if x.ndim > 1 else torch.tensor(1 + scale)
            sizes[f"gradient {i}"] = exact[f"gradient {i}"].abs().max().clamp_min(float(rows if term is None else term))
    for name, x in exact.items():
        error = (mine[name] - x).abs().max()
        assert error <= 1e-9 * sizes[name], f"{where} float64 {name}: {error:.3g} apart, of {sizes[name]:.3g}"
    found, eager = (results(loss, tensors, torch.float32) for loss in (ours, original))
    assert_close_to_exact(found, eager, exact, sizes, torch.float32, scale, where)
