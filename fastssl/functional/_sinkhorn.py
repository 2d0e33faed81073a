"""Balanced assignments: docstring, checks, schema, fake, the loop over passes. The maths is in the kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .. import _backend, _checks
from ._registration import define_data_op

_backend.register(
    "sinkhorn",
    triton=_backend.Kernel(_backend.FLOATS),
    cpp=_backend.Kernel(_backend.FLOATS),
    torch=_backend.Kernel((torch.float64, *_backend.FLOATS)),
)


def sinkhorn(
    logits: Tensor,
    iterations: int = 3,
    temp: float | Tensor = 0.05,
    *,
    assignments: bool = False,
    gather_distributed: bool = False,
) -> Tensor:
    r"""Sinkhorn-Knopp: the center with which a softmax spreads the samples evenly over the prototypes.

    Of Q = exp(logits / temp), B samples by K prototypes, each iteration divides the columns by their sums and K, then
    the rows by their sums and B; in the end Q is multiplied by B. As rows come last, that Q is a softmax after one
    vector, which the iterations find on logarithms, from r = 0:

        c_k = temp log sum_b exp(logits_bk / temp - r_b),        r_b = log sum_k exp((logits_bk - c_k) / temp)
        Q_bk = exp((logits_bk - c_k) / temp - r_b)

    Args:
        logits: scores [..., K] of all samples for the prototypes; float32, float16, bfloat16 or float64. All axes but
            the last are samples. Any strides, though logits whose samples cannot be numbered by one stride, or whose
            prototypes are not next to each other, are copied. They are data: no derivative by them.
        iterations: >= 0; of none the center is 0, and Q the softmax.
        temp: finite number > 0, or a 0-d float tensor; it may change at every call without recompilation.
        assignments: return Q rather than the center.
        gather_distributed: take the samples of all processes of torch.distributed's default group, each of which may
            have any number of them, even none. Where no group is initialised there is one process. Collective.

    Returns:
        The center c [K], to be handed to ``dino_loss(..., center=c, teacher_temp=temp)``, in float32 (float64 for
        float64); nothing of the size of the logits is made. With `assignments` Q [..., K] in that type, of this
        process's samples: rows sum to 1, columns almost to B / K.

    Raises:
        TypeError, ValueError: an argument is of another type, dtype, shape, device or value; the message names it.
        RuntimeError: the backend that is forced cannot run this call.

    No logits overflow, of any size at any temperature, unlike in the published form. NaN and +inf anywhere give NaN.
    A score of -inf closes a prototype to a sample; a sample or prototype that has no other gives NaN, as in the
    published form.

    On a CPU each iteration reads the logits once, and twice where there are more than 512 samples or several processes;
    it takes 16 bytes a sample and prototype and up to 0.4 MB a thread, and gives the same bits at every run with as
    many threads. Torch ops take blocks of samples of 32 MB (64 MB in float64).

    Sources: Caron et al., Unsupervised Learning of Visual Features by Contrasting Cluster Assignments, 2020, section
    3.1; Oquab et al., DINOv2, 2023, section 4; Cuturi, Sinkhorn Distances, 2013.
    """
    processes = _processes(gather_distributed)
    samples = _samples(logits, processes > 1)
    if isinstance(iterations, bool) or not isinstance(iterations, int) or iterations < 0:
        raise ValueError(f"iterations: got {iterations!r}, want an int >= 0")
    scale = _checks.positive_scalar("temp", temp, logits.device).detach()
    exact = torch.float64 if logits.dtype == torch.float64 else torch.float32
    backend = _backend.requested()
    center: Tensor
    if iterations == 0:
        center = logits.new_zeros(logits.shape[-1], dtype=exact)
    elif processes == 1:
        center = torch.ops.fastssl.sinkhorn(samples, iterations, scale, backend)
    else:
        from ._collectives import log_sum_exp_of_processes

        def one_pass(center: Tensor | None) -> Tensor:
            own = torch.ops.fastssl.sinkhorn_pass(samples, center, scale, True, backend)[1]
            column_lse: Tensor = log_sum_exp_of_processes(own)
            return column_lse

        center = _iterate(one_pass, iterations, scale, exact)
    if not assignments:
        return center
    return logits.detach().to(exact).sub(center).div_(scale).softmax(-1)


def _processes(gather_distributed: object) -> int:
    """The number of processes whose samples count."""
    if not isinstance(gather_distributed, bool):
        raise ValueError(f"gather_distributed: got {gather_distributed!r}, want a bool")
    if not gather_distributed:
        return 1
    if not dist.is_available():
        raise RuntimeError("gather_distributed: got True, but this torch is built without torch.distributed")
    return dist.get_world_size() if dist.is_initialized() else 1


def _samples(logits: object, may_be_empty: bool) -> Tensor:
    """Check the logits and return them as [B, K]."""
    if isinstance(logits, Tensor) and logits.ndim > 2:
        logits = logits.flatten(0, -2)
    return _checks.float_tensor("logits", logits, "[(...), K]" if may_be_empty else "[..., K]").detach()


def _iterate(one_pass: Callable[[Tensor | None], Tensor], iterations: int, temp: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the center after at least one pass, each of which makes log-sum-exps of columns from the last center."""
    center = None
    for _ in range(iterations):
        center = (temp.double() * one_pass(center)).to(dtype)
    assert center is not None
    return center


def _forward(logits: Tensor, iterations: int, temp: Tensor, backend: str) -> Tensor:
    kernels = _backend.select("sinkhorn", logits, backend)
    whole = getattr(kernels, "sinkhorn_fwd", None)
    if whole is not None:  # all iterations at once, with which a backend may do better than pass by pass
        return whole(logits, iterations, temp)  # type: ignore[no-any-return]
    exact = torch.float64 if logits.dtype == torch.float64 else torch.float32
    return _iterate(lambda center: kernels.sinkhorn_pass(logits, center, temp, True)[1], iterations, temp, exact)


def _fake(logits: Tensor, iterations: int, temp: Tensor, backend: str) -> Tensor:
    return logits.new_empty(logits.shape[1], dtype=torch.float64 if logits.dtype == torch.float64 else torch.float32)


def _pass(logits: Tensor, center: Tensor | None, temp: Tensor, columns: bool, backend: str) -> Any:
    return _backend.select("sinkhorn", logits, backend).sinkhorn_pass(logits, center, temp, columns)


def _pass_fake(
    logits: Tensor, center: Tensor | None, temp: Tensor, columns: bool, backend: str
) -> tuple[Tensor, Tensor]:
    samples, prototypes = logits.shape
    row_lse = logits.new_empty(samples, dtype=torch.float64)
    return row_lse, row_lse.new_empty(prototypes if columns else 0)


define_data_op(
    "sinkhorn(Tensor logits, int iterations, Tensor temp, str backend) -> Tensor",
    _forward, _fake,
)  # fmt: skip
define_data_op(
    "sinkhorn_pass(Tensor logits, Tensor? center, Tensor temp, bool columns, str backend)"
    " -> (Tensor row_lse, Tensor column_lse)",
    _pass, _pass_fake,
)  # fmt: skip
