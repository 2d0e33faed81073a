"""Gradients that the forward pass makes, for an upstream gradient of 1, and the backward pass multiplies."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import _backend
from ._registration import define


def times(unit: Tensor, grad: Tensor, dtype: torch.dtype, backend: str, op: str) -> Tensor:
    """The gradient of `op` for the 0-d upstream gradient: its saved one, where nobody needs that again, or a copy."""
    if _last_use(unit):
        # Where the upstream gradient is 1, as after loss.backward(), this moves no byte.
        device = unit.device.type
        _backend.select("masked_mse", unit, "torch" if device == "cpu" else backend).scale_(unit, grad)
        return unit.detach().to(dtype)
    found: Tensor = torch.ops.fastssl.unit_gradient_times(grad, unit, dtype, op)
    return found


def _last_use(saved: Tensor) -> bool:
    """Whether a backward pass may overwrite what it saved: it is no trace, and neither it nor its graph is kept."""
    plain = type(saved) is Tensor and not torch.is_grad_enabled()
    return plain and not torch._C._autograd._get_current_graph_task_keep_graph()


def _times(grad: Tensor, unit: Tensor, dtype: torch.dtype, op: str) -> Tensor:
    return (unit * grad).to(dtype)


def _times_fake(grad: Tensor, unit: Tensor, dtype: torch.dtype, op: str) -> Tensor:
    return torch.empty_like(unit, dtype=dtype)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.op = inputs[-1]


def _refuse(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    raise RuntimeError(f"fastssl.functional.{ctx.op} has no second derivative; use create_graph=False here")


define(
    "unit_gradient_times(Tensor grad, Tensor unit, ScalarType dtype, str op) -> Tensor",
    _times, _times_fake, _refuse, _save,
)  # fmt: skip
