"""The engine of the sigmoid losses: docstring, checks, schema, fake, autograd. The maths is in the kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import _backend, _checks
from ._pairwise_logsumexp import pair
from ._registration import define
from ._similarity import embeddings, positions, ranks

_backend.register(
    "pairwise_softplus",
    triton=_backend.Kernel((torch.float32,), max_width=1024),
    cpp=_backend.Kernel((torch.float32,)),
    torch=_backend.Kernel((torch.float64, torch.float32)),
)


def pairwise_softplus(
    x: Tensor,
    y: Tensor,
    scale: float | Tensor = 1.0,
    bias: float | Tensor = 0.0,
    same: str | tuple[Tensor, Tensor] = "diagonal",
    normalize: bool = False,
    only_same: bool = False,
) -> Tensor:
    r"""Sum of the softplus of all signed logits, which are never stored: logistic regression on every pair.

    With s_ij = <x_i, y_j>, of unit rows if `normalize`, and l_ij = 1 for pairs that are the same, else -1:

        loss = sum_ij softplus(-l_ij (scale s_ij + bias_i)),        softplus(t) = log(1 + exp(t))

    Args:
        x: embeddings [m, d], m >= 1, d >= 1; float32, float16, bfloat16 or float64; any strides.
        y: embeddings [n, d] of the same dtype and device.
        scale: a finite number or a 0-d tensor on the embeddings' device, of any sign.
        bias: a finite number, a 0-d tensor, or one value a row [m].
        same: "diagonal", where i = j, or a tuple of int ids [m] and [n], of which equal ones are the same.
        normalize: divide the rows by max(|row|, 1e-12) first.
        only_same: sum over the pairs that are the same alone.

    Returns:
        The sum over all pairs: a 0-d float32 tensor (float64 for float64 embeddings).

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: wrong rank, shapes or devices that differ, an empty axis, or a number that is not finite.
        RuntimeError: the backend that is forced cannot run this call.

    Embeddings, scale and bias that require grad get their gradients, which are made in the forward pass: there is no
    row sum to wait for. Memory beyond inputs and gradients is O((m + n) d). Second derivatives are refused.

    Source: Zhai et al., Sigmoid Loss for Language Image Pre-Training, 2023, without its division by m.
    """
    pair("x", x, "y", y)
    scale = _checks.scalar("scale", scale, x.device)
    m, n = len(x), len(y)
    if not (isinstance(bias, Tensor) and bias.ndim == 1):
        bias = _checks.scalar("bias", bias, x.device).to(x.device).expand(m)
    elif bias.shape != (m,) or bias.device != x.device:
        raise ValueError(f"bias: got shape {tuple(bias.shape)} on {bias.device}, want [{m}] on {x.device}")
    if isinstance(same, str):
        if same != "diagonal":
            raise ValueError(f"same: got {same!r}, want 'diagonal' or a tuple of ids [m] and [n]")
        ids = positions(m, x.device), positions(n, x.device)
    else:
        ids = ranks(_checks.ids("same", same[0], m, x.device), _checks.ids("same", same[1], n, x.device))
    products, rows = embeddings(x, y, normalize=normalize)
    exact = torch.float64 if x.dtype == torch.float64 else torch.float32
    return softplus(rows[0], rows[1], scale, bias, ids, products, only_same=only_same).to(exact)


def softplus(
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    bias: Tensor,
    ids: tuple[Tensor, Tensor],
    products: torch.dtype,
    *,
    only_same: bool = False,
) -> Tensor:
    """Return the sum in float64, of rows that `embeddings` has made, a bias [m] of any float type and int32 ids."""
    grads = torch.is_grad_enabled()
    total: Tensor = torch.ops.fastssl.pairwise_softplus(
        x, y, scale, bias.to(x.dtype), *ids, products, only_same, grads and x.requires_grad, grads and y.requires_grad,
        _backend.requested(),
    )[0]  # fmt: skip
    return total


def _forward(
    x: Tensor, y: Tensor, scale: Tensor, bias: Tensor, row_ids: Tensor, col_ids: Tensor, products: torch.dtype,
    only_same: bool, need_x: bool, need_y: bool, backend: str,
) -> Any:  # fmt: skip
    kernels = _backend.select("pairwise_softplus", x, backend)
    return kernels.pairwise_softplus_fwd(
        x.contiguous(), y.contiguous(), scale, bias.contiguous(), row_ids, col_ids, products, only_same, need_x, need_y
    )


def _fake(
    x: Tensor, y: Tensor, scale: Tensor, bias: Tensor, row_ids: Tensor, col_ids: Tensor, products: torch.dtype,
    only_same: bool, need_x: bool, need_y: bool, backend: str,
) -> Any:  # fmt: skip
    m, d = x.shape
    scalars = (x.new_empty((), dtype=torch.float64) for _ in range(2))
    grad_x, grad_y = x.new_empty((m if need_x else 0, d)), x.new_empty((y.shape[0] if need_y else 0, d))
    return next(scalars), grad_x, grad_y, next(scalars), x.new_empty((m,))


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.scale = inputs[2].dtype, inputs[2].device
    ctx.save_for_backward(*output[1:])
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad: Tensor | None, *unused: Any) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 11
    grad_x, grad_y, grad_scale, grad_bias = (
        torch.ops.fastssl.pairwise_upstream(unit, grad) if needed else None
        for unit, needed in zip(ctx.saved_tensors, ctx.needs_input_grad[:4], strict=True)
    )
    if grad_scale is not None:
        dtype, device = ctx.scale
        grad_scale = grad_scale.to(device, dtype)
    return grad_x, grad_y, grad_scale, grad_bias, *(None,) * 7


define(
    "pairwise_softplus(Tensor x, Tensor y, Tensor scale, Tensor bias, Tensor row_ids, Tensor col_ids,"
    " ScalarType products, bool only_same, bool need_x, bool need_y, str backend)"
    " -> (Tensor total, Tensor grad_x, Tensor grad_y, Tensor grad_scale, Tensor grad_bias)",
    _forward, _fake, _differentiate, _save,
)  # fmt: skip
