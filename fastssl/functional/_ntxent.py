"""NT-Xent: docstring, checks, schema, fake, autograd and autocast. The maths is in the kernels."""

from __future__ import annotations

from typing import Any

import torch

from .. import _backend, _checks
from ._peers import Gather, peers
from ._registration import define
from ._similarity import reduced, softplus_excess
from ._views import views

_backend.register(
    "ntxent",
    triton=_backend.Kernel(_backend.FLOATS, max_width=1024),
    cpp=_backend.Kernel(_backend.FLOATS),
    torch=_backend.Kernel((torch.float64, *_backend.FLOATS)),
)


def ntxent(
    z0: torch.Tensor,
    z1: torch.Tensor,
    temperature: float | torch.Tensor = 0.5,
    gather_distributed: Gather = False,
) -> torch.Tensor:
    r"""Normalised-temperature cross-entropy of N positive pairs, without the 2N x 2N similarity matrix.

    With rows z = [z0; z1], m = 2N, cosines s_ij = <z_i, z_j> / (max(|z_i|, eps) max(|z_j|, eps)), eps = 1e-12 as in
    `torch.nn.functional.normalize`, and p(i) = (i + N) mod m the partner of row i:

        loss = 1/m sum_i [ log sum_{j != i} exp(s_ij / tau) - s_{i p(i)} / tau ]

    Args:
        z0: embeddings of the first views, [N, d], N >= 1, d >= 1; float32, float16, bfloat16 or float64;
            any strides. They are normalised here.
        z1: embeddings of the second views, same shape, dtype and device; z1[i] is the positive of z0[i].
        temperature: tau > 0, a number or a 0-d tensor on the embeddings' device. A tensor that requires grad
            gets its gradient. The value of a tensor on an accelerator is not checked, as that would
            synchronise the host: there, tau <= 0 gives a NaN loss.
        gather_distributed: take the negatives of all processes, and the mean over the rows of all: True, "all_gather"
            or "ring"; see `fastssl.losses`. Without torch.distributed, and in a group of one, this changes nothing.

    Returns:
        The mean over the 2N rows: a 0-d float32 tensor (float64 for float64 embeddings), at least 0.

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: wrong rank, shapes or devices that differ, N = 0, d = 0, or a temperature that is not a
            finite number > 0.
        RuntimeError: the backend that is forced cannot run this call.

    Memory beyond inputs and gradients is O(N d) in forward and backward, on every backend. Sums are taken in
    float32 or better. Matrix products of float32 embeddings obey `torch.get_float32_matmul_precision()` on a GPU
    and are float32 throughout on a CPU; under autocast they run in the autocast type. The loss and its gradients
    stay accurate for tau down to 0.005 and for losses near 0. NaN or inf in an embedding gives a NaN loss.

    CPU results are bit-identical from run to run for a given thread count. On a GPU the fastest forward sums with
    float32 atomics; under `torch.use_deterministic_algorithms(True)` it does not, and is bit-identical too.
    Second derivatives are supported, at the speed of the torch backend, in one process; third ones are not.

    Source: Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, 2020, eq. 1.
    """
    _checks.paired_embeddings(z0, z1)
    tau = _checks.positive_scalar("temperature", temperature, z0.device)
    if gather_distributed is not False:
        found = peers(gather_distributed, 2 * len(z0), z0.device)
        if found.total > found.rows:
            products, z, positive, ids = views(z0, z1, 1 / tau, found)
            # A row and its positive have one id, which leaves both out; the positive enters outside the tiles.
            lse = found.logsumexp(z, z, 1 / tau, ids, products)
            return reduced(softplus_excess(lse, positive), "mean", found, z.dtype)
    loss: torch.Tensor = torch.ops.fastssl.ntxent(z0, z1, tau, _backend.requested())[0]
    return loss


def _forward(z0: torch.Tensor, z1: torch.Tensor, temperature: torch.Tensor, backend: str) -> Any:
    return _backend.select("ntxent", z0, backend).ntxent_fwd(z0, z1, temperature)


def _backward(
    grad: torch.Tensor, z0: torch.Tensor, z1: torch.Tensor, temperature: torch.Tensor, zn: torch.Tensor,
    inv_norm: torch.Tensor, lse: torch.Tensor, nll: torch.Tensor, backend: str,
) -> Any:  # fmt: skip
    kernels = _backend.select("ntxent", z0, backend)
    return kernels.ntxent_bwd(grad, z0, z1, temperature, zn, inv_norm, lse, nll)


def _forward_fake(z0: torch.Tensor, z1: torch.Tensor, temperature: torch.Tensor, backend: str) -> Any:
    m, d = 2 * z0.shape[0], z0.shape[1]
    exact = torch.float64 if z0.dtype == torch.float64 else torch.float32
    # The normalised rows are kept in what the kernels multiply: float32 on a CPU, the input's type elsewhere.
    zn = z0.new_empty((m, d), dtype=exact if z0.device.type == "cpu" else z0.dtype)
    # lse is kept in float64: rounded to float32, it would shift every probability of its row by 1e-5 at tau = 0.005.
    inv_norm, lse, nll = (z0.new_empty((m,), dtype=t) for t in (exact, torch.float64, exact))
    return z0.new_empty((), dtype=exact), zn, inv_norm, lse, nll


def _backward_fake(
    grad: torch.Tensor, z0: torch.Tensor, z1: torch.Tensor, temperature: torch.Tensor, *rest: Any
) -> Any:
    return z0.new_empty(z0.shape), z1.new_empty(z1.shape), z0.new_empty((), dtype=temperature.dtype)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    z0, z1, temperature, ctx.backend = inputs
    ctx.save_for_backward(z0, z1, temperature, *output[1:])
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad: torch.Tensor | None, *unused: Any) -> tuple[torch.Tensor | None, ...]:
    if grad is None:
        return None, None, None, None
    z0, z1, temperature, *rows = ctx.saved_tensors
    grads = torch.ops.fastssl.ntxent_backward(grad, z0, z1, temperature, *rows, ctx.backend)
    return *(g if needed else None for g, needed in zip(grads, ctx.needs_input_grad, strict=False)), None


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:4])


def _differentiate_backward(ctx: Any, *grads: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
    if torch.is_grad_enabled():
        raise RuntimeError("fastssl.functional.ntxent has no third derivative; use create_graph=False here")
    from fastssl.kernels.torch.ntxent import ntxent_double_bwd

    return *ntxent_double_bwd(*grads, *ctx.saved_tensors), *(None,) * 5


define(
    "ntxent(Tensor z0, Tensor z1, Tensor temperature, str backend)"
    " -> (Tensor loss, Tensor zn, Tensor inv_norm, Tensor lse, Tensor nll)",
    _forward, _forward_fake, _differentiate, _save, autocast=("z0", "z1"),
)  # fmt: skip
define(
    "ntxent_backward(Tensor grad, Tensor z0, Tensor z1, Tensor temperature, Tensor zn, Tensor inv_norm,"
    " Tensor lse, Tensor nll, str backend) -> (Tensor grad_z0, Tensor grad_z1, Tensor grad_temperature)",
    _backward, _backward_fake, _differentiate_backward, _save_backward,
)  # fmt: skip
