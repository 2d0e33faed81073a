"""Supervised contrastive losses, where rows of one label are each other's positives."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import _checks
from ._peers import Gather, Peers, peers
from ._similarity import embeddings, paired_scores, positions, softplus_excess


def supcon(
    z: Tensor,
    labels: Tensor,
    temperature: float | Tensor = 0.1,
    normalize: bool = True,
    gather_distributed: Gather = False,
) -> Tensor:
    r"""SupCon: supervised contrastive loss, with the sum over positives outside the logarithm.

    With s_ij = <z_i, z_j> / tau, of unit rows if `normalize`, and P(i) the other rows of label i:

        loss = mean over rows with positives of [ log sum_{j != i} exp(s_ij) - 1/|P(i)| sum_{p in P(i)} s_ip ]

    Args:
        z: embeddings [m, d], all views of all images as rows; float32, float16, bfloat16 or float64; any strides.
        labels: int [m], any values.
        temperature: tau > 0, a number or a 0-d tensor, which gets its gradient if it requires one.
        normalize: divide the rows by max(|row|, 1e-12) first.
        gather_distributed: take the rows of all processes: True, "all_gather" or "ring"; see `fastssl.losses`.

    Returns:
        A 0-d float32 tensor (float64 for float64 embeddings); 0 where no row has a positive.

    Raises:
        TypeError, ValueError: an argument is of another type, dtype, shape, device or value; the message names it.

    Neither scores nor a mask of size m x m exist: the positives of a row are a sum of rows, O(m d).

    Source: Khosla et al., Supervised Contrastive Learning, 2020, eq. 2.
    """
    _checks.float_tensor("z", z, "[m, d]")
    _checks.ids("labels", labels, len(z), z.device)
    scale = 1 / _checks.positive_scalar("temperature", temperature, z.device)
    found = peers(gather_distributed, len(z), z.device)
    products, (z,) = embeddings(z, normalize=normalize)
    own = positions(len(z), z.device, found.start)
    lse = found.logsumexp(z, z, scale, (own, own), products, bounded=normalize)
    fixed = z.detach().double()  # a row is to be taken out of its class without a rounding
    sums, count = found.class_sums(labels, fixed)
    positives = count - 1
    others = paired_scores(z, (sums - fixed).to(z.dtype))
    # Both rows of a pair have its score in their terms, with one weight: half of its gradient is that of the others.
    others = 2 * others - others.detach()
    has = positives > 0
    nll = torch.where(has, lse, 0.0) - others / positives.clamp_min(1) * scale
    return found.ratio(torch.where(has, nll, 0.0).sum(), at_least_one(has.sum(), found)).to(z.dtype)


def multi_positive_ntxent(
    z: Tensor,
    labels: Tensor,
    temperature: float | Tensor = 0.07,
    normalize: bool = True,
    gather_distributed: Gather = False,
) -> Tensor:
    r"""NT-Xent with several positives a row, each against the negatives alone.

    With s_ij = <z_i, z_j> / tau, of unit rows if `normalize`, N(i) the rows of other labels than i:

        loss = mean over pairs (i, p), p != i of label i, of [ log( exp s_ip + sum_{n in N(i)} exp s_in ) - s_ip ]

    Unlike in SupCon, the other positives of a row are not in the denominator.

    Args:
        z, labels, temperature, normalize, gather_distributed: as for `supcon`.

    Returns:
        A 0-d float32 tensor (float64 for float64 embeddings); 0 where no row has a positive.

    Raises:
        TypeError, ValueError: an argument is of another type, dtype, shape, device or value; the message names it.

    Neither scores nor triplets exist in memory, O(m d).

    Source: NTXentLoss of pytorch-metric-learning; Sohn, Improved Deep Metric Learning with Multi-class N-pair Loss
    Objective, 2016.
    """
    _checks.float_tensor("z", z, "[m, d]")
    _checks.ids("labels", labels, len(z), z.device)
    scale = 1 / _checks.positive_scalar("temperature", temperature, z.device)
    found = peers(gather_distributed, len(z), z.device)
    products, (z,) = embeddings(z, normalize=normalize)
    ids = found.all_ids(labels)
    lse = found.logsumexp(z, z, scale, ids, products, bounded=normalize)
    total = found.softplus(z, z, scale, -lse, ids, products, only_same=True)
    # A row is of its own label, but no positive of its own: the smallest term of its row, so nothing is lost.
    own = softplus_excess(lse, paired_scores(z, z) * scale).sum()
    pairs = (found.class_sums(labels, z.detach()[:, :1])[1] - 1).sum()
    excess = torch.where(found.sum(pairs) > 0, total - own, 0.0)
    return found.ratio(excess, at_least_one(pairs, found)).to(z.dtype)


def at_least_one(count: Tensor, found: Peers) -> Tensor:
    """Return this process's count, or 1 where no process has any, so that the ratio of no terms is 0."""
    return torch.where(found.sum(count) > 0, count, 1)
