"""Losses on the two views of a batch whose sums leave out more than NT-Xent's: decoupled, and with hard negatives."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .. import _checks
from ._info_nce import same_shape
from ._peers import Gather, Peers, peers
from ._similarity import softplus_excess
from ._views import views


def dcl(
    z0: Tensor,
    z1: Tensor,
    temperature: float | Tensor = 0.1,
    weights: Tensor | None = None,
    gather_distributed: Gather = False,
) -> Tensor:
    r"""Decoupled contrastive loss: NT-Xent without the positive in the denominator.

    With rows z = [z0; z1], cosines s_ij and p(i) the partner of row i:

        loss = 1/2N sum_i [ log sum_{j not in {i, p(i)}} exp(s_ij / tau) - w_i s_{i p(i)} / tau ]

    Args:
        z0, z1: embeddings of the views, [N, d], as for `ntxent`; at least two pairs in all.
        temperature: tau > 0, a number or a 0-d tensor, which gets its gradient if it requires one.
        weights: w float [N] of the positives, the same for both views; None: 1.
        gather_distributed: take the rows of all processes: True, "all_gather" or "ring"; see `fastssl.losses`.

    Returns:
        A 0-d float32 tensor (float64 for float64 embeddings), of any sign.

    Raises:
        TypeError, ValueError: an argument is of another type, dtype, shape, device or value; the message names it.

    Source: Yeh et al., Decoupled Contrastive Learning, 2022, eq. 6.
    """
    z, positive, scale, ids, products, found = _views(z0, z1, temperature, gather_distributed)
    if weights is not None:
        _checks.float_tensor("weights", weights, "[N]")
        if len(weights) != len(z0):
            raise ValueError(f"weights: got {len(weights)}, want one a pair, {len(z0)}")
        positive = positive * weights.to(positive.dtype).repeat(2)
    return found.mean(found.logsumexp(z, z, scale, ids, products) - positive).to(z.dtype)


def dclw(
    z0: Tensor,
    z1: Tensor,
    temperature: float | Tensor = 0.1,
    sigma: float = 0.5,
    gather_distributed: Gather = False,
) -> Tensor:
    r"""Decoupled contrastive loss whose positives weigh less the closer they are already.

    `dcl` with w_i = 2 - exp(s_{i p(i)} / sigma) / (mean over the batch of the same), taken as constants.

    Args:
        z0, z1, temperature, gather_distributed: as for `dcl`.
        sigma: > 0; the smaller, the more the weights differ.

    Returns:
        A 0-d float32 tensor (float64 for float64 embeddings), of any sign.

    Raises:
        TypeError, ValueError: an argument is of another type, dtype, shape, device or value; the message names it.

    Source: Yeh et al., Decoupled Contrastive Learning, 2022, section 3.3.
    """
    if isinstance(sigma, bool) or not isinstance(sigma, (int, float)) or not 0 < sigma < math.inf:
        raise ValueError(f"sigma: got {sigma!r}, want a finite number > 0")
    z, positive, scale, ids, products, found = _views(z0, z1, temperature, gather_distributed)
    with torch.no_grad():
        likeness = torch.exp((positive / scale - 1) / sigma)
        weights = 2 - likeness * found.total / found.sum(likeness.sum())
    return found.mean(found.logsumexp(z, z, scale, ids, products) - positive * weights).to(z.dtype)


def hard_negative_ntxent(
    z0: Tensor,
    z1: Tensor,
    temperature: float | Tensor = 0.5,
    beta: float = 1.0,
    tau_plus: float = 0.1,
    gather_distributed: Gather = False,
) -> Tensor:
    r"""NT-Xent with hard negatives weighted up, and corrected for negatives that are positives in truth.

    With rows z = [z0; z1], cosines s_ij, e_ij = exp(s_ij / tau), p(i) the partner of row i, and its M = 2N - 2 other
    rows j as negatives:

        hard_i = sum_j e_ij^beta e_ij / (1/M sum_j e_ij^beta)
        g_i = max( (hard_i - tau_plus M e_{i p(i)}) / (1 - tau_plus), M exp(-1 / tau) )
        loss = 1/2N sum_i -log( e_{i p(i)} / (e_{i p(i)} + g_i) )

    Args:
        z0, z1: embeddings of the views, [N, d], as for `ntxent`; at least two pairs in all.
        temperature: tau > 0, a number or a 0-d tensor, which gets its gradient if it requires one.
        beta: >= 0; 0 weighs all negatives alike.
        tau_plus: the chance in [0, 1) that a negative is of the anchor's class.
        gather_distributed: take the rows of all processes: True, "all_gather" or "ring"; see `fastssl.losses`.

    Returns:
        A 0-d float32 tensor (float64 for float64 embeddings), >= 0.

    Raises:
        TypeError, ValueError: an argument is of another type, dtype, shape, device or value; the message names it.

    Two passes over the scores, at the scales (1 + beta) / tau and beta / tau; nothing is exponentiated that could
    overflow.

    Source: Robinson et al., Contrastive Learning with Hard Negative Samples, 2021, eq. 4.
    """
    if isinstance(beta, bool) or not isinstance(beta, (int, float)) or not 0 <= beta < math.inf:
        raise ValueError(f"beta: got {beta!r}, want a finite number >= 0")
    tau_plus = _checks.fraction("tau_plus", tau_plus, below_one=True)
    z, positive, scale, ids, products, found = _views(z0, z1, temperature, gather_distributed)
    log_count = math.log(found.total - 2)
    hard = found.logsumexp(z, z, scale * (1 + beta), ids, products)
    if beta > 0:
        hard = hard - found.logsumexp(z, z, scale * beta, ids, products) + log_count
    # log of (e^hard - tau_plus M e^positive), which may be the log of nothing.
    corrected = hard
    if tau_plus > 0:
        gap = positive + log_count + math.log(tau_plus) - hard
        corrected = hard + torch.log1p(-gap.clamp_max(0).exp().clamp_max(1 - 1e-12))
        corrected = torch.where(gap < 0, corrected, -math.inf)
    negatives = torch.maximum(corrected - math.log1p(-tau_plus), (log_count - scale).to(corrected.dtype))
    return found.mean(softplus_excess(negatives, positive)).to(z.dtype)


def _views(
    z0: Tensor, z1: Tensor, temperature: float | Tensor, gather_distributed: Gather
) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor], torch.dtype, Peers]:
    """Return unit rows of both views, the positives' scores / tau, 1 / tau, pair ids, the products' type, processes."""
    same_shape("z0", z0, "z1", z1)
    scale = 1 / _checks.positive_scalar("temperature", temperature, z0.device)
    found = peers(gather_distributed, 2 * len(z0), z0.device)
    if found.total < 4:
        raise ValueError(f"z0: got {len(z0)} pair, want at least 2: one pair has no negatives")
    products, z, positive, ids = views(z0, z1, scale, found)
    return z, positive, scale, ids, products, found
