"""Restoring the order of tokens: docstring, checks, schema, fake, autograd. The copying is in the kernels."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from .. import _backend, _checks
from ._registration import define

_backend.register(
    "restore_tokens",
    triton=_backend.Kernel(_backend.FLOATS),
    cpp=_backend.Kernel(_backend.FLOATS),
    torch=_backend.Kernel((torch.float64, *_backend.FLOATS)),
)


def restore_tokens(
    visible: Tensor, ids_restore: Tensor, mask_token: Tensor, pos: Tensor | None = None, *, prefix_tokens: int = 0
) -> Tensor:
    """Put visible tokens back to their places, a mask token everywhere else, and add the positions, in one pass.

    With r = ids_restore[n, l]: row P + l of the result is visible[n, P + r] where 0 <= r < K, else mask_token, and row
    j < P is visible[n, j]; plus pos[j] in each row j.

    Args:
        visible: float [N, P + K, D], any strides; the output of an encoder.
        ids_restore: int64 [N, L], as `random_masking` gives it; what is not in [0, K) is masked.
        mask_token: float [D] or [1, 1, D].
        pos: float [P + L, D] or [1, P + L, D], positions to add.
        prefix_tokens: P, tokens in front that stay there, such as the class token.

    Returns:
        [N, P + L, D], of the type that the float arguments promote to, as `torch.cat` and an addition would.

    Raises:
        TypeError, ValueError: an argument is of another type, shape or range.
        RuntimeError: the backend that is forced cannot run this call.

    Differentiable in `visible`, `mask_token` and `pos`, without atomics: deterministic on every backend but torch's on
    a GPU, which obeys `torch.use_deterministic_algorithms`. Sums over samples and tokens are taken in float32 or
    better. Second derivatives are supported.

    Source: He et al., Masked Autoencoders Are Scalable Vision Learners, 2022, section 3.
    """
    _checks.float_tensor("visible", visible, "[N, (P + K), (D)]")
    rows, width = visible.shape[1:]
    _checks.int_in("prefix_tokens", prefix_tokens, 0, rows)
    _checks.token_ids("ids_restore", ids_restore, visible, "[N, L]", None)
    _rows("mask_token", mask_token, visible, (width,), (1, 1, width))
    length = prefix_tokens + ids_restore.shape[1]
    if pos is not None:
        _rows("pos", pos, visible, (length, width), (1, length, width))
        pos = pos.reshape(length, width)
    out: Tensor = torch.ops.fastssl.restore_tokens(
        visible, ids_restore, mask_token.reshape(width), pos, prefix_tokens, _backend.requested()
    )
    return out


def _rows(name: str, x: object, like: Tensor, *shapes: tuple[int, ...]) -> None:
    """Check a float tensor of one of the shapes, on the device of `like`."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise TypeError(f"{name}: got {x.dtype if isinstance(x, Tensor) else type(x).__name__}, want a float tensor")
    if tuple(x.shape) not in shapes:
        raise ValueError(f"{name}: got shape {tuple(x.shape)}, want {' or '.join(str(list(s)) for s in shapes)}")
    if x.device != like.device:
        raise ValueError(f"{name}: got device {x.device}, want {like.device}")


def _promoted(*tensors: Tensor | None) -> torch.dtype:
    return functools.reduce(torch.promote_types, (t.dtype for t in tensors if t is not None))


def _forward(visible: Tensor, ids: Tensor, mask_token: Tensor, pos: Tensor | None, prefix: int, backend: str) -> Tensor:
    dtype = _promoted(visible, mask_token, pos)
    # Float64 parameters make a float64 result of any tokens, for which only one backend has kernels.
    kernels = _backend.select("restore_tokens", visible.new_empty(0, dtype=dtype), backend)
    out: Tensor = kernels.restore_tokens_fwd(visible, ids, mask_token, pos, prefix, dtype)
    return out


def _fake(visible: Tensor, ids: Tensor, mask_token: Tensor, pos: Tensor | None, prefix: int, backend: str) -> Tensor:
    shape = (visible.shape[0], prefix + ids.shape[1], visible.shape[2])
    return visible.new_empty(shape, dtype=_promoted(visible, mask_token, pos))


def _backward(grad: Tensor, ids: Tensor, num_visible: int, prefix: int, with_pos: bool, backend: str) -> Any:
    kernels = _backend.select("restore_tokens", grad, backend)
    return kernels.restore_tokens_bwd(grad, ids, num_visible, prefix, with_pos)


def _backward_fake(grad: Tensor, ids: Tensor, num_visible: int, prefix: int, with_pos: bool, backend: str) -> Any:
    exact = torch.float64 if grad.dtype == torch.float64 else torch.float32
    samples, length, width = grad.shape
    return (
        grad.new_empty((samples, num_visible, width)),
        grad.new_empty((width,), dtype=exact),
        grad.new_empty((length, width) if with_pos else (0,), dtype=exact),
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    visible, ids, mask_token, pos, ctx.prefix, ctx.backend = inputs
    ctx.num_visible = visible.shape[1]
    ctx.dtypes = visible.dtype, mask_token.dtype, None if pos is None else pos.dtype
    ctx.save_for_backward(ids)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (ids,) = ctx.saved_tensors
    needed = ctx.needs_input_grad
    grads = torch.ops.fastssl.restore_tokens_backward(grad, ids, ctx.num_visible, ctx.prefix, needed[3], ctx.backend)
    cast = [
        g.to(t) if t and want else None for g, t, want in zip(grads, ctx.dtypes, (needed[0], *needed[2:4]), strict=True)
    ]
    return cast[0], None, cast[1], cast[2], None, None


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    grad, ids, _, ctx.prefix, ctx.with_pos, ctx.backend = inputs
    ctx.dtype = grad.dtype
    ctx.save_for_backward(ids)


def _differentiate_backward(ctx: Any, grad_visible: Tensor, grad_token: Tensor, grad_pos: Tensor) -> tuple[Any, ...]:
    # The backward pass is linear in the gradient, and the forward pass is its transpose.
    (ids,) = ctx.saved_tensors
    pos = grad_pos if ctx.with_pos else None
    out = torch.ops.fastssl.restore_tokens(grad_visible, ids, grad_token, pos, ctx.prefix, ctx.backend)
    return out.to(ctx.dtype), None, None, None, None, None


define(
    "restore_tokens(Tensor visible, Tensor ids_restore, Tensor mask_token, Tensor? pos, SymInt prefix, str backend)"
    " -> Tensor",
    _forward, _fake, _differentiate, _save,
)  # fmt: skip
define(
    "restore_tokens_backward(Tensor grad, Tensor ids_restore, SymInt num_visible, SymInt prefix, bool with_pos,"
    " str backend) -> (Tensor grad_visible, Tensor grad_mask_token, Tensor grad_pos)",
    _backward, _backward_fake, _differentiate_backward, _save_backward,
)  # fmt: skip
