"""Gradients that the forward pass makes, for an upstream gradient of 1, and the backward pass multiplies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import _backend
from ._registration import define


def define_times(name: str, function: str) -> None:
    """Register the op `name`, which multiplies gradients of a function of fastssl.functional."""

    def refuse(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        raise RuntimeError(f"fastssl.functional.{function} has no second derivative; use create_graph=False here")

    schema = f"{name}(Tensor grad, Tensor unit, ScalarType dtype) -> Tensor"
    define(schema, _times, _times_fake, refuse, lambda ctx, inputs, output: None)


def times(unit: Tensor, grad: Tensor, dtype: torch.dtype, backend: str, op: Callable[..., Tensor]) -> Tensor:
    """Multiply a saved gradient by the 0-d upstream one: in place where nobody needs it again, else by `op`."""
    if not _last_use(unit):
        return op(grad, unit, dtype)
    # Where the upstream gradient is 1, as after loss.backward(), this moves no byte.
    device = unit.device.type
    _backend.select("masked_mse", unit, "torch" if device == "cpu" else backend).scale_(unit, grad)
    return unit.detach().to(dtype)


def _last_use(saved: Tensor) -> bool:
    """Whether a backward pass may overwrite what it saved: it is no trace, and neither it nor its graph is kept."""
    plain = type(saved) is Tensor and not torch.is_grad_enabled()
    return plain and not torch._C._autograd._get_current_graph_task_keep_graph()


def _times(grad: Tensor, unit: Tensor, dtype: torch.dtype) -> Tensor:
    return (unit * grad).to(dtype)


def _times_fake(grad: Tensor, unit: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.empty_like(unit, dtype=dtype)
