"""Cross-entropy with sparse soft targets: docstring, checks, schema, fake, autograd. The maths is in the kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import _backend, _checks
from ._registration import define
from ._unit_gradient import define_times, times

REDUCTIONS = ("mean", "sum", "none")
_INDICES = (torch.int32, torch.int64)
_backend.register(
    "sparse_cross_entropy",
    triton=_backend.Kernel(_backend.FLOATS),
    cpp=_backend.Kernel(_backend.FLOATS),
    torch=_backend.Kernel((torch.float64, *_backend.FLOATS)),
)


def sparse_cross_entropy(logits: Tensor, index: Tensor, weight: Tensor, reduction: str = "mean") -> Tensor:
    r"""Cross-entropy with targets of which only K of Q classes are given, without softmax or dense targets in memory.

    With z the logits of a place, which has the targets w_k of the classes i_k:

        l = sum_k w_k (logsumexp_q z_q - z_{i_k})

    It is -sum_q t_q log softmax(z)_q of the dense target t, which has w_k at i_k, summed where indices repeat, and 0
    elsewhere. The weights may add up to anything, as they do when classes are rebalanced, and may be 0 or negative.

    Args:
        logits: float [N, Q, *], as a convolution gives them, or [N, Q]; any strides. They are read where they are if
            the classes of a place lie side by side (channels_last, [N, Q]), or the places of a class; else copied.
        index: int32 or int64 [N, K, *], classes in [0, Q), or -1 for none, which counts nothing whatever its weight.
        weight: float [N, K, *].
        reduction: "mean" over all places, whatever their weights; "sum"; or "none".

    Returns:
        A 0-d float32 tensor, or [N, *] for "none" (float64 for float64 logits).

    Raises:
        TypeError, ValueError: an argument is of another type, shape or range. Indices on a GPU are not looked at: what
            is out of range there counts as -1.
        RuntimeError: the backend that is forced cannot run this call, or a second derivative is asked for.

    Differentiable in the logits and in the weights. Of float32 and bfloat16 logits that are reduced the gradient is
    made in the forward pass, while they are in the cache, so that they are read once and it is written once; else one
    number a place is kept, and the backward pass reads the logits again. Autocast changes no dtype: 16-bit logits are
    read as they are. Exponentials and sums are taken relative to the largest logit in float32 or better. NaN or inf in
    a place gives NaN or inf there. Results are deterministic on every backend. The second derivative is refused.

    Source: Zhang et al., Colorful Image Colorization, 2016, eq. 2.

    >>> loss = sparse_cross_entropy(model(lab[:, :1] - 50), index, weight)  # [N, 313, h, w]; [N, 10, h, w] both
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction: got {reduction!r}, want {', '.join(map(repr, REDUCTIONS))}")
    _checks._is_float_tensor("logits", logits)
    if logits.ndim < 2 or 0 in logits.shape:
        raise ValueError(f"logits: got shape {tuple(logits.shape)}, want [N, Q, *], none empty")
    _check_index(index, logits)
    _checks._is_float_tensor("weight", weight)
    if weight.shape != index.shape:
        raise ValueError(f"weight: got shape {tuple(weight.shape)}, want that of the index, {tuple(index.shape)}")
    if weight.device != logits.device:
        raise ValueError(f"weight: got device {weight.device}, want that of the logits, {logits.device}")
    if weight.dtype == torch.float64 and logits.dtype != torch.float64:
        raise TypeError(f"weight: got float64 for {logits.dtype} logits, want weight.float()")
    z, i, w = (_places(x) for x in (logits, index, weight.to(_exact(logits))))
    early = reduction != "none" and logits.dtype != torch.float16  # float16 would lose a gradient that is not scaled
    early = early and logits.requires_grad and torch.is_grad_enabled()
    loss: Tensor = torch.ops.fastssl.sparse_cross_entropy(
        z, i, w, REDUCTIONS.index(reduction), early, _backend.requested()
    )[0]
    return loss.reshape(logits.shape[0], *logits.shape[2:]) if reduction == "none" else loss


def _check_index(index: object, logits: Tensor) -> None:
    if not isinstance(index, Tensor) or index.dtype not in _INDICES:
        got = f"dtype {index.dtype}" if isinstance(index, Tensor) else type(index).__name__
        raise TypeError(f"index: got {got}, want an int32 or int64 tensor [N, K, *]")
    places = (logits.shape[0], *logits.shape[2:])
    if index.ndim != logits.ndim or (index.shape[0], *index.shape[2:]) != places or index.shape[1] == 0:
        want = ", ".join(map(str, (logits.shape[0], "K", *logits.shape[2:])))
        raise ValueError(f"index: got shape {tuple(index.shape)}, want [{want}], as the logits have, with K >= 1")
    if index.device != logits.device:
        raise ValueError(f"index: got device {index.device}, want that of the logits, {logits.device}")
    if index.device.type == "cpu" and not torch.compiler.is_compiling():
        low, high = (int(x) for x in index.aminmax())
        if low < -1 or high >= logits.shape[1]:
            wrong = low if low < -1 else high
            raise ValueError(f"index: got {wrong}, want classes from 0 to {logits.shape[1] - 1}, or -1 for none")


def _places(x: Tensor) -> Tensor:
    """[N, C, *] as [N, C, P]."""
    return x.unsqueeze(2) if x.ndim == 2 else x.flatten(2)


def _exact(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _along_rows(logits: Tensor) -> bool:
    """Whether the classes of a place lie side by side."""
    return logits.stride(1) == 1 and (logits.shape[2] == 1 or logits.stride(2) != 1)


def _dense(logits: Tensor) -> Tensor:
    """Logits as the kernels take them: classes or places side by side."""
    return logits if _along_rows(logits) or logits.stride(2) == 1 else logits.contiguous()


def _forward(logits: Tensor, index: Tensor, weight: Tensor, reduction: int, early: bool, backend: str) -> Any:
    kernels = _backend.select("sparse_cross_entropy", logits, backend)
    z = _dense(logits)
    n, _, places = z.shape
    share = 1 / (n * places) if REDUCTIONS[reduction] == "mean" else 1.0
    losses, lse, grad = kernels.sparse_cross_entropy_fwd(z, index, weight, _along_rows(z), share, early)
    if REDUCTIONS[reduction] == "none":
        return losses, lse, grad
    return (losses.sum(dtype=torch.float64) * share).to(losses.dtype), lse, grad


def _like(logits: Tensor) -> Tensor:
    """An empty gradient in the order of the logits."""
    n, q, places = logits.shape
    strides = (q * places, 1, q) if _along_rows(logits) else (q * places, places, 1)
    return logits.new_empty_strided((n, q, places), strides)


def _forward_fake(logits: Tensor, index: Tensor, weight: Tensor, reduction: int, early: bool, backend: str) -> Any:
    shape = (logits.shape[0], logits.shape[2])
    return (
        logits.new_empty(shape if REDUCTIONS[reduction] == "none" else (), dtype=_exact(logits)),
        logits.new_empty(shape, dtype=torch.float64),
        _like(logits) if early else logits.new_empty(0),
    )


def _backward(
    grad: Tensor, logits: Tensor, index: Tensor, weight: Tensor, lse: Tensor, reduction: int, of_logits: bool,
    of_weight: bool, backend: str,
) -> Any:  # fmt: skip
    kernels = _backend.select("sparse_cross_entropy", logits, backend)
    z = _dense(logits)
    n, _, places = z.shape
    upstream = grad.to(lse.dtype) / (n * places) if REDUCTIONS[reduction] == "mean" else grad.to(lse.dtype)
    upstream = upstream.to(_exact(logits)).expand(n, places)
    return kernels.sparse_cross_entropy_bwd(upstream, z, index, weight, lse, _along_rows(z), of_logits, of_weight)


def _backward_fake(
    grad: Tensor, logits: Tensor, index: Tensor, weight: Tensor, lse: Tensor, reduction: int, of_logits: bool,
    of_weight: bool, backend: str,
) -> Any:  # fmt: skip
    return (
        _like(logits) if of_logits else logits.new_empty(0),
        weight.new_empty(weight.shape if of_weight else (0,)),
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    logits, index, weight, ctx.reduction, ctx.early, ctx.backend = inputs
    _, lse, unit = output
    ctx.dtype = logits.dtype
    again = not ctx.early or weight.requires_grad  # whether the logits are read again
    ctx.save_for_backward(unit, *((logits, index, weight, lse) if again else ()))
    # The gradient is not marked: a second derivative then meets the refusal below, and is not silently 0.
    ctx.mark_non_differentiable(lse)
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad: Tensor | None, *unused: Any) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 6
    unit, *others = ctx.saved_tensors
    of_logits, _, of_weight = ctx.needs_input_grad[:3]
    grad_logits = grad_weight = None
    if (of_logits and not ctx.early) or of_weight:
        grad_logits, grad_weight = torch.ops.fastssl.sparse_cross_entropy_backward(
            grad, *others, ctx.reduction, of_logits and not ctx.early, of_weight, ctx.backend
        )
    if ctx.early:
        grad_logits = times(unit, grad, ctx.dtype, ctx.backend, torch.ops.fastssl.sparse_cross_entropy_times)
    return grad_logits if of_logits else None, None, grad_weight if of_weight else None, None, None, None


def _refuse(ctx: Any, *grads: Any) -> Any:
    raise RuntimeError("fastssl.functional.sparse_cross_entropy has no second derivative; use create_graph=False here")


define(
    "sparse_cross_entropy(Tensor logits, Tensor index, Tensor weight, int reduction, bool early, str backend)"
    " -> (Tensor loss, Tensor lse, Tensor grad_logits)",
    _forward, _forward_fake, _differentiate, _save,
)  # fmt: skip
define(
    "sparse_cross_entropy_backward(Tensor grad, Tensor logits, Tensor index, Tensor weight, Tensor lse, int reduction,"
    " bool of_logits, bool of_weight, str backend) -> (Tensor grad_logits, Tensor grad_weight)",
    _backward, _backward_fake, _refuse, lambda ctx, inputs, output: None,
)  # fmt: skip
define_times("sparse_cross_entropy_times", "sparse_cross_entropy")
