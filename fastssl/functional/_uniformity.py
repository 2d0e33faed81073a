"""What contrastive losses do in the limit: positives align, and all rows spread over the sphere."""

from __future__ import annotations

import math

from torch import Tensor

from .. import _checks
from ._info_nce import same_shape
from ._peers import Gather, peers
from ._similarity import embeddings, positions


def alignment(z0: Tensor, z1: Tensor, alpha: float = 2.0, gather_distributed: Gather = False) -> Tensor:
    r"""Mean distance of the unit positives: 1/N sum_i |z0_i - z1_i|^alpha.

    Args:
        z0, z1: embeddings of the views, [N, d]; normalised here.
        alpha: exponent > 0.
        gather_distributed: the mean over the pairs of all processes.

    Returns:
        A 0-d float32 tensor (float64 for float64 embeddings), in [0, 2^alpha].

    Raises:
        TypeError, ValueError: an argument is of another type, dtype, shape, device or value; the message names it.

    Source: Wang and Isola, Understanding Contrastive Representation Learning through Alignment and Uniformity, 2020.
    """
    same_shape("z0", z0, "z1", z1)
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not 0 < alpha < math.inf:
        raise ValueError(f"alpha: got {alpha!r}, want a finite number > 0")
    _, (x, y) = embeddings(z0, z1, normalize=True)
    distances = (x - y).norm(dim=1) ** alpha if alpha != 2 else (x - y).square().sum(1)
    return peers(gather_distributed, len(x), x.device).mean(distances.double()).to(x.dtype)


def uniformity(z: Tensor, t: float = 2.0, gather_distributed: Gather = False) -> Tensor:
    r"""Log of the mean Gaussian potential of all pairs of unit rows.

        loss = log 1/(m (m - 1)) sum_{i != j} exp(-t |z_i - z_j|^2),        |z_i - z_j|^2 = 2 - 2 s_ij

    Args:
        z: embeddings [m, d], at least two rows in all; normalised here.
        t: > 0.
        gather_distributed: the pairs among the rows of all processes: True, "all_gather" or "ring".

    Returns:
        A 0-d float32 tensor (float64 for float64 embeddings), in [-4t, 0].

    Raises:
        TypeError, ValueError: an argument is of another type, dtype, shape, device or value; the message names it.

    The m x m distances are never stored.

    Source: Wang and Isola, Understanding Contrastive Representation Learning through Alignment and Uniformity, 2020.
    """
    _checks.float_tensor("z", z, "[m, d]")
    scale = 2 * _checks.positive_scalar("t", t, z.device)
    found = peers(gather_distributed, len(z), z.device)
    if found.total < 2:
        raise ValueError(f"z: got {len(z)} row, want at least 2: one row has no pairs")
    products, (x,) = embeddings(z, normalize=True)
    own = positions(len(x), x.device, found.start)
    lse = found.logsumexp(x, x, scale, (own, own), products)
    pairs = math.log(found.total) + math.log(found.total - 1)
    return (found.total_logsumexp(lse) - scale - pairs).to(x.dtype)
