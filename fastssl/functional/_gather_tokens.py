"""Gathering tokens: docstring, checks, schema, fake, autograd. The copying is in the kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import _backend, _checks
from ._registration import define

_backend.register(
    "gather_tokens",
    triton=_backend.Kernel(_backend.FLOATS),
    cpp=_backend.Kernel(_backend.FLOATS),
    torch=_backend.Kernel((torch.float64, *_backend.FLOATS)),
)


def gather_tokens(x: Tensor, ids: Tensor, *, prefix_tokens: int = 0) -> Tensor:
    """Take tokens of each sample by their number: the visible ones for an encoder, the masked ones for a head.

    Row j < P of the result is x[n, j], row P + k is x[n, P + ids[n, k]], or zeros where ids[n, k] is -1.

    Args:
        x: float [N, P + L, D], any strides.
        ids: int64 [N, K], each in [0, L), or -1 for none; in any order, also several times the same. K may be 0.
        prefix_tokens: P, tokens in front that stay where they are; the ids do not count them.

    Returns:
        [N, P + K, D] of the type of `x`.

    Raises:
        TypeError, ValueError: an argument is of another type, shape or range. Ids on a GPU are not looked at, which
            would stall it: what is out of range there counts as -1.
        RuntimeError: the backend that is forced cannot run this call.

    The derivative adds the gradients of equal ids in their order, without atomics: it is deterministic on every
    backend but torch's on a GPU, which obeys `torch.use_deterministic_algorithms`. Reads and writes each row once.
    Second derivatives are supported.
    """
    _checks.float_tensor("x", x, "[N, P + L, (D)]")
    _checks.int_in("prefix_tokens", prefix_tokens, 0, x.shape[1])
    _checks.token_ids("ids", ids, x, "[N, K]", x.shape[1] - prefix_tokens)
    out: Tensor = torch.ops.fastssl.gather_tokens(x, ids, prefix_tokens, _backend.requested())
    return out


def _forward(x: Tensor, ids: Tensor, prefix: int, backend: str) -> Tensor:
    out: Tensor = _backend.select("gather_tokens", x, backend).gather_tokens_fwd(x, ids, prefix)
    return out


def _fake(x: Tensor, ids: Tensor, prefix: int, backend: str) -> Tensor:
    return x.new_empty((x.shape[0], prefix + ids.shape[1], x.shape[2]))


def _backward(grad: Tensor, ids: Tensor, length: int, prefix: int, backend: str) -> Tensor:
    out: Tensor = _backend.select("gather_tokens", grad, backend).gather_tokens_bwd(grad, ids, length, prefix)
    return out


def _backward_fake(grad: Tensor, ids: Tensor, length: int, prefix: int, backend: str) -> Tensor:
    return grad.new_empty((grad.shape[0], length, grad.shape[2]))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, ids, ctx.prefix, ctx.backend = inputs
    ctx.length = x.shape[1]
    ctx.save_for_backward(ids)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (ids,) = ctx.saved_tensors
    return torch.ops.fastssl.gather_tokens_backward(grad, ids, ctx.length, ctx.prefix, ctx.backend), None, None, None


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, ids, _, ctx.prefix, ctx.backend = inputs
    ctx.save_for_backward(ids)


def _differentiate_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (ids,) = ctx.saved_tensors
    return torch.ops.fastssl.gather_tokens(grad, ids, ctx.prefix, ctx.backend), None, None, None, None


define(
    "gather_tokens(Tensor x, Tensor ids, SymInt prefix, str backend) -> Tensor",
    _forward, _fake, _differentiate, _save,
)  # fmt: skip
define(
    "gather_tokens_backward(Tensor grad, Tensor ids, SymInt length, SymInt prefix, str backend) -> Tensor",
    _backward, _backward_fake, _differentiate_backward, _save_backward,
)  # fmt: skip
