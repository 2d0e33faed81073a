"""NT-Xent (SimCLR's loss) in Triton: forward in three launches, backward in two, no m x m matrix.

Rows z = [z0; z1] (m = 2 N), zn_i = z_i / max(|z_i|, 1e-12), s_ij = <zn_i, zn_j>, positive p(i) = i + N mod m:

    nll_i = log sum_{j != i} exp(s_ij / tau) - s_{i p(i)} / tau,        loss = mean_i nll_i

The tiles leave out both j == i and j == p(i). With r_i the sum over what is left and u_i = log r_i - s_{i p(i)} / tau,
nll_i = softplus(u_i), which keeps every digit of a loss close to zero and never forms `p - 1` from rounded numbers.

Exponentials are in base 2. As |s| <= 1, a sum of exp(s / tau) fits float32 with no offset while 1 / tau <= 64; beyond,
the forward keeps a running maximum and the backward exponentiates differences. tau may live on the device, so that
choice is a branch inside the kernels, the same for every program.
"""

from __future__ import annotations

import torch
import triton

from . import launch
from .ntxent_kernels import (
    ntxent_bwd_kernel,
    ntxent_bwd_tau_kernel,
    ntxent_finish_kernel,
    ntxent_normalize_kernel,
)
from .pairwise_kernels import pairwise_sums_kernel


def ntxent_fwd(
    z0: torch.Tensor,  # [N, d]
    z1: torch.Tensor,  # [N, d]
    temperature: torch.Tensor,  # []
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """NT-Xent of two views, and what its backward needs.

    Args:
        z0, z1: [N, d], one dtype of float32, float16, bfloat16; any strides, any norms.
        temperature: 0-d, on z's device (read there, without a sync) or on the CPU.

    Returns:
        loss: [] float32, the mean of nll.
        zn: [2 N, d], the rows normalised, in z's dtype (float32 on the CPU, that is, in Triton's interpreter).
        inv_norm: [2 N] float32, 1 / max(|z|, 1e-12).
        lse: [2 N] float64, log sum_{j != i} exp(s_ij / tau).
        nll: [2 N] float32, lse_i - s_{i p(i)} / tau.

    Sums of float32 by atomics: the last digits may differ from run to run, unless
    ``torch.use_deterministic_algorithms(True)``, which costs twice the products.
    """
    n, width = z0.shape
    m = 2 * n
    device = z0.device
    tau = launch.readable(temperature, device)
    deterministic = torch.are_deterministic_algorithms_enabled()
    config = launch.pick("sums", device, launch.element_size(z0), m, width)
    row_config = launch.rows(width)
    splits = launch.splits(config, device, m, m, steps=2)

    zn = torch.empty((m, width), dtype=z0.dtype if device.type == "cuda" else torch.float32, device=device)
    inv_norm, nll = (torch.empty(m, dtype=torch.float32, device=device) for _ in range(2))
    lse, pos = (torch.empty(m, dtype=torch.float64, device=device) for _ in range(2))
    part_max, part_sum = (torch.empty((splits, m), dtype=torch.float32, device=device) for _ in range(2))
    loss = torch.empty((), dtype=torch.float32, device=device)
    with torch.cuda.device_of(z0):
        ntxent_normalize_kernel[(triton.cdiv(n, row_config.block_m),)](
            z0, z1, zn, inv_norm, pos, part_sum, n, *z0.stride(), *z1.stride(), WIDTH=width, **row_config.kwargs()
        )  # fmt: skip
        pairwise_sums_kernel[(triton.cdiv(m, config.block_m), splits)](
            zn, zn, tau, None, None, n, part_max, part_sum, None, m, m, splits,
            WIDTH=width, PRECISION=launch.precision(z0), RECIPROCAL=True, BOUNDED=True, HALF=not deterministic,
            IF_PLAIN=True, **config.kwargs(),
        )  # fmt: skip
        ntxent_finish_kernel[(1,)](
            tau, pos, part_max, part_sum, nll, lse, loss, n, splits,
            DETERMINISTIC=deterministic, **launch.REDUCTION.kwargs(),
        )  # fmt: skip
    return loss, zn, inv_norm, lse, nll


def ntxent_bwd(
    grad: torch.Tensor,  # []
    z0: torch.Tensor,  # [N, d]
    z1: torch.Tensor,  # [N, d]
    temperature: torch.Tensor,  # []
    zn: torch.Tensor,  # [2 N, d]
    inv_norm: torch.Tensor,  # [2 N]
    lse: torch.Tensor,  # [2 N]
    nll: torch.Tensor,  # [2 N]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of ``ntxent_fwd``'s loss times ``grad`` (0-d float32); no atomics, bit-identical from run to run.

    Returns:
        grad_z0, grad_z1: [N, d] contiguous, in z's dtype.
        grad_temperature: [], in temperature's dtype (float32 where temperature is on another device than z).
    """
    n, width = z0.shape
    m = 2 * n
    device = z0.device
    tau = launch.readable(temperature, device)
    config = launch.pick("gradient", device, launch.element_size(z0), m, width)
    w_shift = float(min(m.bit_length() - 1, 14)) if zn.dtype == torch.float16 else 0.0  # W <= 2, float16 ends at 2^16

    grad_z0, grad_z1 = (torch.empty((n, width), dtype=z0.dtype, device=device) for _ in range(2))
    grad_zn = torch.empty((m, width), dtype=torch.float32, device=device)
    row_dot = torch.empty(m, dtype=torch.float32, device=device)
    tau_dtype = temperature.dtype if temperature.device == device else torch.float32
    grad_tau = torch.empty((), dtype=tau_dtype, device=device)
    with torch.cuda.device_of(z0):
        ntxent_bwd_kernel[(2 * triton.cdiv(n, config.block_m),)](
            grad, z0, z1, tau, zn, inv_norm, lse, nll, grad_z0, grad_z1, grad_zn, row_dot,
            n, *z0.stride(), *z1.stride(), w_shift,
            WIDTH=width, PRECISION=launch.precision(z0), **config.kwargs(), **launch.epilogue(config, width),
        )  # fmt: skip
        ntxent_bwd_tau_kernel[(1,)](tau, row_dot, grad_tau, n, **launch.REDUCTION.kwargs())
    return grad_z0, grad_z1, grad_tau
