"""The engine of the softmax losses: docstring, checks, schema, fake, autograd. The maths is in the kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import _backend, _checks
from ._registration import define
from ._similarity import embeddings, positions, ranks

Exclude = str | Tensor | tuple[Tensor, Tensor] | None

_backend.register(
    "pairwise_logsumexp",
    triton=_backend.Kernel((torch.float32,), max_width=1024),
    cpp=_backend.Kernel((torch.float32,)),
    torch=_backend.Kernel((torch.float64, torch.float32)),
)


def pairwise_logsumexp(
    x: Tensor,
    y: Tensor | None = None,
    scale: float | Tensor = 1.0,
    exclude: Exclude = None,
    normalize: bool = False,
    columns: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Log-sum-exp over the rows, and columns, of all scaled scores, which are never stored.

    With s_ij = <x_i, y_j>, of unit rows if `normalize`:

        row_lse_i = log sum_{j: (i, j) not excluded} exp(scale s_ij)
        col_lse_j = log sum_{i: (i, j) not excluded} exp(scale s_ij)

    Every softmax contrastive loss is this and a term of size [m, d]: nll_i = row_lse_i - scale s_{i t(i)}.

    Args:
        x: embeddings [m, d], m >= 1, d >= 1; float32, float16, bfloat16 or float64; any strides.
        y: embeddings [n, d] of the same dtype and device. None: x with itself, every pair of rows visited once.
        scale: a finite number or a 0-d tensor on the embeddings' device, of any sign. A tensor that requires grad gets
            its gradient. A tensor's value is read on a CPU alone: elsewhere that would synchronise the host.
        exclude: which pairs are left out: None; "diagonal", where i = j; or ids, for pairs of equal ids: an int tensor
            [m] for x and y alike, or a tuple of [m] and [n].
        normalize: divide the rows by max(|row|, 1e-12) first.
        columns: return col_lse, too, from the same pass over the scores.

    Returns:
        row_lse [m], or (row_lse [m], col_lse [n]), in float32 (float64 for float64 embeddings); -inf where all pairs of
        a row are left out, which then has no gradient.

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: wrong rank, shapes or devices that differ, an empty axis, or a scale that is not finite.
        RuntimeError: the backend that is forced cannot run this call.

    Memory beyond inputs and gradients is O((m + n) d) on every backend. Sums are taken in float32 or better, and
    relative to a running maximum where exp(scale s_ij) could leave the range of float32, so that any scale is right.
    Products of float32 obey `torch.get_float32_matmul_precision()` on a GPU and are float32 throughout on a CPU; under
    autocast they run in the autocast type. Where y needs no gradient (a queue, a bank of negatives), forward and
    backward need no second pass over the scores. NaN in an embedding gives NaN. CPU results are bit-identical from run
    to run for a given thread count. Second derivatives are refused.

    >>> nll = pairwise_logsumexp(q, keys, 1 / 0.07, normalize=True) - positive / 0.07
    """
    pair("x", x, "y", y)
    scale = _checks.scalar("scale", scale, x.device)
    tensors = [x] if y is None else [x, y]
    m, n = len(x), len(tensors[-1])
    ids = _ids(exclude, m, n, x.device)
    exact = torch.float64 if x.dtype == torch.float64 else torch.float32
    products, rows = embeddings(*tensors, normalize=normalize)
    other = rows[1] if y is not None else None
    found = logsumexp(rows[0], other, scale, ids, products, bounded=normalize, columns=columns)
    row_lse, col_lse = (lse.to(exact) for lse in found)
    if columns:
        return row_lse, row_lse if y is None else col_lse
    return row_lse


def logsumexp(
    x: Tensor,
    y: Tensor | None,
    scale: Tensor,
    ids: tuple[Tensor, Tensor] | None,
    products: torch.dtype,
    *,
    bounded: bool,
    columns: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return row_lse [m] and col_lse ([n] if asked for with a y) in float64, of rows that `embeddings` has made.

    Losses call this rather than `pairwise_logsumexp`: rounded to float32, a log-sum-exp would be off by 1e-5 at a
    temperature of 0.005. `ids` are int32; `bounded` promises scores within [-1, 1].
    """
    row_ids, col_ids = ids or (None, None)
    # With y fixed the gradient is the mean of y under the softmax, which the forward pass can have at once.
    attend = torch.is_grad_enabled() and y is not None and not y.requires_grad and not columns
    attend = attend and (x.requires_grad or scale.requires_grad)
    row_lse, col_lse, _ = torch.ops.fastssl.pairwise_logsumexp(
        x, y, scale, row_ids, col_ids, products, bounded, columns and y is not None, attend, _backend.requested()
    )
    return row_lse, col_lse


def pair(x_name: str, x: Tensor, y_name: str, y: Tensor | None) -> None:
    """Check embeddings [m, d] and, where there are any, [n, d] of the same dtype and device."""
    _checks.float_tensor(x_name, x, "[m, d]")
    if y is None:
        return
    _checks.float_tensor(y_name, y, "[n, d]")
    if y.shape[1] != x.shape[1]:
        raise ValueError(f"{y_name}: got width {y.shape[1]}, want that of {x_name}, {x.shape[1]}")
    _checks.alike(y_name, y, x_name, x)


def _ids(exclude: Exclude, m: int, n: int, device: torch.device) -> tuple[Tensor, Tensor] | None:
    if exclude is None:
        return None
    if isinstance(exclude, str):
        if exclude != "diagonal":
            raise ValueError(f"exclude: got {exclude!r}, want None, 'diagonal', ids [m] or a tuple of ids [m] and [n]")
        return positions(m, device), positions(n, device)
    given = exclude if isinstance(exclude, tuple) else (exclude, exclude)
    if len(given) != 2:
        raise ValueError(f"exclude: got a tuple of {len(given)}, want ids [m] and ids [n]")
    for ids, count in zip(given, (m, n), strict=True):
        _checks.ids("exclude", ids, count, device)
    return ranks(*given)


def _forward(
    x: Tensor, y: Tensor | None, scale: Tensor, row_ids: Tensor | None, col_ids: Tensor | None, products: torch.dtype,
    bounded: bool, columns: bool, attend: bool, backend: str,
) -> Any:  # fmt: skip
    kernels = _backend.select("pairwise_logsumexp", x, backend)
    x, y = x.contiguous(), None if y is None else y.contiguous()
    return kernels.pairwise_logsumexp_fwd(x, y, scale, row_ids, col_ids, products, bounded, columns, attend)


def _forward_fake(
    x: Tensor, y: Tensor | None, scale: Tensor, row_ids: Tensor | None, col_ids: Tensor | None, products: torch.dtype,
    bounded: bool, columns: bool, attend: bool, backend: str,
) -> Any:  # fmt: skip
    m, d = x.shape
    row_lse = x.new_empty((m,), dtype=torch.float64)
    col_lse = x.new_empty((y.shape[0] if columns and y is not None else 0,), dtype=torch.float64)
    return row_lse, col_lse, x.new_empty((m if attend else 0, d))


def _backward(
    grad_row: Tensor | None, grad_col: Tensor | None, x: Tensor, y: Tensor | None, scale: Tensor,
    row_ids: Tensor | None, col_ids: Tensor | None, row_lse: Tensor, col_lse: Tensor | None, products: torch.dtype,
    bounded: bool, need_x: bool, need_y: bool, backend: str,
) -> Any:  # fmt: skip
    kernels = _backend.select("pairwise_logsumexp", x, backend)
    grad_row, grad_col = (None if g is None else g.to(x.dtype).contiguous() for g in (grad_row, grad_col))
    x, y = x.contiguous(), None if y is None else y.contiguous()
    return kernels.pairwise_logsumexp_bwd(
        grad_row, grad_col, x, y, scale, row_ids, col_ids, row_lse, col_lse, products, bounded, need_x, need_y
    )


def _backward_fake(
    grad_row: Tensor | None, grad_col: Tensor | None, x: Tensor, y: Tensor | None, scale: Tensor,
    row_ids: Tensor | None, col_ids: Tensor | None, row_lse: Tensor, col_lse: Tensor | None, products: torch.dtype,
    bounded: bool, need_x: bool, need_y: bool, backend: str,
) -> Any:  # fmt: skip
    m, d = x.shape
    n = y.shape[0] if y is not None and need_y else 0
    return x.new_empty((m if need_x else 0, d)), x.new_empty((n, d)), x.new_empty((), dtype=torch.float64)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, y, scale, row_ids, col_ids, ctx.products, ctx.bounded, ctx.columns, ctx.attend, ctx.backend = inputs
    # The mean stands for y, which may change before the backward pass: a queue takes its new keys in.
    ctx.save_for_backward(x, None if ctx.attend else y, scale, row_ids, col_ids, *output)
    ctx.set_materialize_grads(False)


def _differentiate(
    ctx: Any, grad_row: Tensor | None, grad_col: Tensor | None, *unused: Any
) -> tuple[Tensor | None, ...]:
    x, y, scale, row_ids, col_ids, row_lse, col_lse, mean = ctx.saved_tensors
    if grad_row is None and grad_col is None:
        return (None,) * 10
    need_x, need_y, need_scale = ctx.needs_input_grad[:3]
    if ctx.attend:
        pulled = torch.ops.fastssl.pairwise_upstream(mean, grad_row)
        grad_x, grad_y = pulled * scale.to(mean.dtype) if need_x else None, None
        grad_scale = (pulled * x).sum(dtype=torch.float64) if need_scale else None
    else:
        grad_x, grad_y, grad_scale = torch.ops.fastssl.pairwise_logsumexp_backward(
            grad_row, grad_col if ctx.columns else None, x, y, scale, row_ids, col_ids, row_lse,
            col_lse if ctx.columns else None, ctx.products, ctx.bounded, need_x, need_y and y is not None, ctx.backend,
        )  # fmt: skip
    return (
        grad_x if need_x else None,
        grad_y if need_y else None,
        grad_scale.to(scale) if need_scale and grad_scale is not None else None,
        *(None,) * 7,
    )


def _upstream(unit: Tensor, grad: Tensor) -> Tensor:
    return unit * grad.to(unit.dtype).reshape(grad.shape + (1,) * (unit.ndim - grad.ndim))


def _refuse(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    raise RuntimeError(
        "fastssl.functional.pairwise_logsumexp, pairwise_softplus and the losses on them have no second derivative; "
        "use create_graph=False here, or fastssl.functional.ntxent, which has one"
    )


define(
    "pairwise_logsumexp(Tensor x, Tensor? y, Tensor scale, Tensor? row_ids, Tensor? col_ids, ScalarType products,"
    " bool bounded, bool columns, bool attend, str backend) -> (Tensor row_lse, Tensor col_lse, Tensor mean)",
    _forward, _forward_fake, _differentiate, _save,
)  # fmt: skip
define(
    "pairwise_logsumexp_backward(Tensor? grad_row, Tensor? grad_col, Tensor x, Tensor? y, Tensor scale,"
    " Tensor? row_ids, Tensor? col_ids, Tensor row_lse, Tensor? col_lse, ScalarType products, bool bounded,"
    " bool need_x, bool need_y, str backend) -> (Tensor grad_x, Tensor grad_y, Tensor grad_scale)",
    _backward, _backward_fake, _refuse, lambda ctx, inputs, output: None,
)  # fmt: skip
# Gradients made in the forward pass, times the upstream gradient [] or [m]: an op, so that a second derivative meets
# the refusal, and is not silently 0.
define(
    "pairwise_upstream(Tensor unit, Tensor grad) -> Tensor",
    _upstream, lambda unit, grad: torch.empty_like(unit), _refuse, lambda ctx, inputs, output: None,
)  # fmt: skip
