"""NT-Xent in torch ops, on the pairwise blocks: O(m d) memory, any device, float64, second derivatives."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from .pairwise_logsumexp import pairwise_logsumexp_bwd, pairwise_logsumexp_fwd

EPS = 1e-12  # of torch.nn.functional.normalize


def _normalize(z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return unit rows [m, d] and 1 / max(norm, EPS) [m, 1]; squares of 1e-20 and 1e20 must not leave the range."""
    largest = z.detach().abs().amax(1, keepdim=True)
    scale = torch.where(largest > 0, largest, 1.0)
    norm = scale * torch.linalg.vector_norm(z / scale, dim=1, keepdim=True)
    inv_norm = 1 / norm.clamp_min(EPS)
    return z * inv_norm, inv_norm


def _rows(z0: torch.Tensor, z1: torch.Tensor) -> torch.Tensor:
    z = torch.cat([z0, z1])
    return z if z.dtype == torch.float64 else z.float()


def _partner(x: torch.Tensor) -> torch.Tensor:
    """Give row i the value of its positive, row i + N mod 2N."""
    return x.roll(x.shape[0] // 2, 0)


def _inverse(temperature: torch.Tensor) -> torch.Tensor:
    """Return 1 / tau in float64, where tau lies: a scalar on the host multiplies device tensors without a copy."""
    tau = temperature.double()
    # A temperature on an accelerator was not checked: <= 0 must not pass for a plausible loss.
    return torch.where(tau > 0, 1 / tau, torch.nan)


def _pairs(zn: torch.Tensor) -> torch.Tensor:
    """Return the same id for a row and its positive, which are left out of the tiles."""
    return torch.arange(len(zn) // 2, dtype=torch.int32, device=zn.device).repeat(2)


def _blocks(zn: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
    """Yield row blocks with their two masked columns: (rows, index of self [b, 1], index of positive [b, 1]).

    A block has about d rows, so that its scores take the memory of the embeddings.
    """
    m, d = zn.shape
    step = min(max(d, 16), 512)
    for start in range(0, m, step):
        own = torch.arange(start, min(start + step, m), device=zn.device)[:, None]
        yield slice(start, start + step), own, (own + m // 2) % m


def ntxent_fwd(z0: torch.Tensor, z1: torch.Tensor, temperature: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return loss [], zn [m, d], inv_norm [m], lse [m] and nll [m]. See `fastssl.functional.ntxent`."""
    zn, inv_norm = _normalize(_rows(z0, z1))
    # Half types multiply in half on an accelerator, and the backward pass must see the same rows.
    kept = zn if zn.device.type == "cpu" else zn.to(z0.dtype)
    zn = kept.to(zn.dtype)
    inv_tau = _inverse(temperature)
    pos = (zn * _partner(zn)).sum(1).double() * inv_tau
    ids = _pairs(zn)
    negatives = pairwise_logsumexp_fwd(zn, None, inv_tau, ids, ids, z0.dtype, True, False, False)[0]
    excess = negatives - pos
    nll = torch.logaddexp(torch.zeros_like(excess), excess)
    # A temperature that is not positive gives NaN even to a single pair, which has no negatives.
    nll = torch.where(inv_tau.isnan(), torch.nan, nll)
    lse, nll = pos + nll, nll.to(zn.dtype)
    return nll.mean(), kept, inv_norm[:, 0].clone(), lse, nll


def ntxent_bwd(
    grad: torch.Tensor, z0: torch.Tensor, z1: torch.Tensor, temperature: torch.Tensor, zn: torch.Tensor,
    inv_norm: torch.Tensor, lse: torch.Tensor, nll: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """Return grad_z0 [N, d], grad_z1 [N, d] and grad_temperature []."""
    zn = zn.to(nll.dtype)
    inv_tau = _inverse(temperature)
    ids = _pairs(zn)
    grad_zn = pairwise_logsumexp_bwd(
        torch.ones_like(nll), None, zn, None, inv_tau, ids, ids, lse, None, z0.dtype, True, True, False
    )[0]
    miss = -torch.expm1(-nll)  # 1 - p_{i, p(i)}, exact where the loss is tiny
    grad_zn -= (miss + _partner(miss))[:, None] * _partner(zn) * inv_tau.to(zn.dtype)
    grad_zn *= (grad / zn.shape[0]).to(zn.dtype)
    dot = (grad_zn * zn).sum(1)
    grad_temperature = -0.5 * inv_tau * dot.sum()
    grad_zn -= torch.where(inv_norm < 1 / EPS, dot, 0)[:, None] * zn
    grad_zn *= inv_norm[:, None]
    grad_z0, grad_z1 = grad_zn.to(z0.dtype).split(z0.shape[0])
    return grad_z0.clone(), grad_z1.clone(), grad_temperature.to(temperature.dtype)


def ntxent_double_bwd(
    grad_grad_z0: torch.Tensor | None, grad_grad_z1: torch.Tensor | None, grad_grad_tau: torch.Tensor | None,
    grad: torch.Tensor, z0: torch.Tensor, z1: torch.Tensor, temperature: torch.Tensor,
) -> tuple[torch.Tensor, ...]:  # fmt: skip
    """Differentiate <ntxent_bwd, grad_grad>: return the gradients of grad, z0, z1 and temperature.

    With u the unit rows and w the direction grad_grad pushed through the normalisation, the backward pass paired
    with grad_grad is grad * (<dF/du, w> + dF/dtau grad_grad_tau). The sum over row blocks of F keeps the
    memory of autograd to one block; normalisation is O(m d) and left to autograd.
    """
    zeros = torch.zeros_like
    with torch.enable_grad():
        z = _rows(z0, z1).detach().requires_grad_()
        tau = temperature.detach().to(z, non_blocking=True).requires_grad_()
        direction = _rows(*(zeros(x) if g is None else g for g, x in ((grad_grad_z0, z0), (grad_grad_z1, z1))))
        direction_tau = zeros(tau) if grad_grad_tau is None else grad_grad_tau.to(tau)
        unit, inv_norm = _normalize(z)
        along = torch.where(inv_norm < 1 / EPS, (unit * direction).sum(1, keepdim=True), 0)
        pushed = (direction - unit * along) * inv_norm

        u, w = unit.detach().requires_grad_(), pushed.detach()
        grad_u, grad_w, grad_tau = zeros(u), zeros(u), zeros(tau)
        value = zeros(tau)
        for rows, own, partner in _blocks(u):
            scores = (u[rows] @ u.T / tau).scatter(1, own, -torch.inf)
            nll = torch.logsumexp(scores, 1) - scores.gather(1, partner)[:, 0]
            first_u, first_tau = torch.autograd.grad(nll.sum(), (u, tau), create_graph=True)
            paired = (first_u * w).sum() + first_tau * direction_tau
            second_u, second_tau = torch.autograd.grad(paired, (u, tau))
            grad_u, grad_w, grad_tau = grad_u + second_u, grad_w + first_u.detach(), grad_tau + second_tau
            value += paired.detach()
        scale = grad.to(tau) / u.shape[0]
        (grad_z,) = torch.autograd.grad((unit, pushed), z, (grad_u * scale, grad_w * scale))
    grad_z0, grad_z1 = grad_z.to(z0.dtype).split(z0.shape[0])
    total = value / u.shape[0]
    return total.to(grad.dtype), grad_z0, grad_z1, (grad_tau * scale).to(temperature)
