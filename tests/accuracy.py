"""The accuracy rule: |kernel - exact| <= 2 |eager - exact| + floor, elementwise, for outputs and every gradient.

`exact` is the reference in float64 on the same inputs, `eager` the reference in the inputs' own type. The floor is a
few roundings of the terms that are summed, for at an element where eager happens to be exact, its error says nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch

from fastssl import reference

# The floor, in units of the type's eps. float64 has no wider type to keep log-sum-exp in, which is 1/tau in size.
ROUNDINGS = {torch.float64: 64, torch.float32: 16, torch.float16: 2, torch.bfloat16: 2}

Values = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def loss_and_grads(loss: Loss, z0: torch.Tensor, z1: torch.Tensor, tau: float, upstream: float) -> Values:
    """Return the loss and its gradients of z0, z1 and temperature, in float64 on the CPU."""
    kind = torch.float64 if z0.dtype == torch.float64 else torch.float32
    temperature = torch.tensor(tau, dtype=kind, device=z0.device, requires_grad=True)
    a, b = z0.detach().requires_grad_(), z1.detach().requires_grad_()
    out = loss(a, b, temperature)
    grads = torch.autograd.grad(out, (a, b, temperature), torch.tensor(upstream).to(out))
    return tuple(x.detach().double().cpu() for x in (out, *grads))


def assert_accurate(
    loss: Loss, z0: torch.Tensor, z1: torch.Tensor, tau: float, upstream: float = 1.7, tiles_differ: bool | None = None
) -> None:
    """Hold `loss` to the rule on one NT-Xent problem.

    `tiles_differ` (by default on a GPU) says that forward and backward multiply in tiles of different shapes: the same
    score may then come out a rounding apart in the two, which 1 / tau enlarges in a probability.
    """
    tau = torch.tensor(tau, dtype=torch.float32).item()  # one value for every type
    exact = loss_and_grads(reference.ntxent, z0.double(), z1.double(), tau, upstream)
    eager = loss_and_grads(reference.ntxent, z0, z1, tau, upstream)
    kernel = loss_and_grads(loss, z0, z1, tau, upstream)
    rows = [1 / z.double().cpu().norm(dim=1, keepdim=True).clamp_min(1e-12) for z in (z0, z1)]
    term = 2 * abs(upstream) / (2 * len(z0) * tau)
    scales = (exact[0].clamp_min(1), term * rows[0], term * rows[1], torch.tensor(abs(upstream) / tau**2))
    # Gradients come out in the embeddings' type, loss and temperature gradient in float32 from its products.
    floor = ROUNDINGS[z0.dtype] * torch.finfo(z0.dtype).eps
    if tiles_differ or (tiles_differ is None and z0.is_cuda):
        floor += torch.finfo(torch.float32).eps / tau / 4
    for name, k, e, x, scale in zip(("loss", "z0", "z1", "tau"), kernel, eager, exact, scales, strict=True):
        error, allowed = (k - x).abs(), 2 * (e - x).abs().nan_to_num(0, 0, 0) + floor * scale
        where = f"{name} {tuple(z0.shape)} {z0.dtype} tau {tau:g}"
        worst = (error / allowed).max()
        assert not error.isnan().any(), f"{where}: NaN"
        assert worst <= 1, f"{where}: error is {worst:.2f} of what is allowed"


def assert_close_to_exact(
    kernel: Mapping[str, torch.Tensor], eager: Mapping[str, torch.Tensor], exact: Mapping[str, torch.Tensor],
    terms: Mapping[str, torch.Tensor], dtype: torch.dtype, scale: float, where: str,
) -> None:  # fmt: skip
    """Hold named outputs and gradients to the rule.

    The floor is a few roundings of `terms`, the size of what is summed for each. A score that is computed in two
    places, in a tile and as a positive, may besides come out a rounding apart, which the scale, or 1 / tau, enlarges.
    """
    floor = ROUNDINGS[dtype] * torch.finfo(dtype).eps
    floor += torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps * scale / 2
    for name, x in exact.items():
        error = (kernel[name] - x).abs()
        # Below the normal numbers a rounding is one step, whatever the size.
        allowed = 2 * (eager[name] - x).abs().nan_to_num(0, 0, 0) + floor * torch.maximum(terms[name], x.abs())
        allowed = allowed + ROUNDINGS[dtype] * torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
        worst = (error / allowed).nan_to_num(0, math.inf).max()
        assert (error <= allowed).all(), f"{where} {dtype} {name}: error {worst:.2f} times the allowed one"
