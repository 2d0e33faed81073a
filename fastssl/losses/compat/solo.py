"""The loss functions of `solo.losses`.

As in solo-learn, those that look at other processes do so wherever torch.distributed has a default group, whose
processes then need batches of one size. Values are those of this process's rows, gradients take all of them in;
`vicreg_loss_func` has the value of the batch of all processes, of which the original's values are parts.

Differences from solo-learn 1.0.6:

- ``barlow_loss_func(exact_gradient=True)`` has the exact gradient of the processes' mean loss; without it, as in the
  original, DistributedDataParallel ends with 1 / processes of it.
- `simclr_loss_func` reads, on an accelerator, the ranges of its positives, which waits for the device once.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from ... import _checks
from ...functional import info_nce, masked_mse
from ...functional._peers import Peers, peers
from ...functional._similarity import embeddings, softplus_excess
from .. import _redundancy
from .._cosine import cosines
from ._positives import positive_logsumexp
from ._shared import scaled_gradient

__all__ = [
    "barlow_loss_func", "byol_loss_func", "mae_loss_func", "mocov2plus_loss_func", "mocov3_loss_func",
    "nnclr_loss_func", "simclr_loss_func", "simsiam_loss_func", "vicreg_loss_func",
]  # fmt: skip


def simclr_loss_func(z: Tensor, indexes: Tensor, temperature: float | Tensor = 0.1) -> Tensor:
    r"""SimCLR's loss of rows z [m, d], normalised here, of which those with equal `indexes` [m] are positives.

        loss = -1/m sum_i log( sum_{j in P(i)} exp(s_ij / tau) / sum_{j != i} exp(s_ij / tau) )

    With several positives a row, their sum is in the logarithm, unlike in SupCon. A row without any makes the loss
    infinite. Rows are compared with those of all processes; the value is the mean over those of this one.
    """
    _checks.float_tensor("z", z, "[m, d]")
    _checks.ids("indexes", indexes, len(z), z.device)
    scale = 1 / _checks.positive_scalar("temperature", temperature, z.device)
    found = peers(True, len(z), z.device)
    products, (z,) = embeddings(z, normalize=True)
    ids = found.all_ids(indexes)
    negatives = found.logsumexp(z, z, scale, ids, products)
    everyone, everyone_ids = _gather(z, found), _gather(ids[0], found)
    positives = positive_logsumexp(z, ids[0], everyone, everyone_ids, scale, found.start)
    return softplus_excess(negatives, positives).mean().to(z.dtype)


def mocov2plus_loss_func(query: Tensor, key: Tensor, queue: Tensor, temperature: float | Tensor = 0.1) -> Tensor:
    """MoCo's loss of queries and keys [N, D] with a queue [D, K], all taken as they are: normalise them first."""
    _checks.float_tensor("queue", queue, "[D, K]")
    return info_nce(query, key, queue.to(query.dtype).T, temperature, normalize=False)


def mocov3_loss_func(query: Tensor, key: Tensor, temperature: float | Tensor = 0.2) -> Tensor:
    """MoCo v3's loss of queries and keys [N, D], times 2 tau; keys get no gradient, and are those of all processes."""
    nll = info_nce(query, key.detach(), temperature=temperature, reduction="none", gather_distributed=True)
    return nll.mean() * (2 * temperature)


def nnclr_loss_func(nn: Tensor, p: Tensor, temperature: float | Tensor = 0.1) -> Tensor:
    """NNCLR's loss of neighbours and predictions [N, D], which are those of all processes."""
    return info_nce(nn, p, temperature=temperature, reduction="none", gather_distributed=True).mean()


def byol_loss_func(p: Tensor, z: Tensor, simplified: bool = True) -> Tensor:
    """BYOL's loss, 2 - 2 mean cos(p, z), of predictions p [N, D] and targets z, which are detached."""
    return 2 - 2 * _cosine(p, z, simplified)


def simsiam_loss_func(p: Tensor, z: Tensor, simplified: bool = True) -> Tensor:
    """SimSiam's loss, -mean cos(p, z), of predictions p [N, D] and targets z, which are detached."""
    return -_cosine(p, z, simplified)


def barlow_loss_func(
    z1: Tensor, z2: Tensor, lamb: float = 5e-3, scale_loss: float = 0.025, *, exact_gradient: bool = False
) -> Tensor:
    """Barlow Twins' loss times `scale_loss`; see `fastssl.losses.BarlowTwinsLoss`.

    Each process standardises its own batch, and the mean of their cross-correlations is taken.
    """
    if not exact_gradient:
        z1, z2 = (scaled_gradient(z, 1 / peers(True, len(z), z.device).count) for z in (z1, z2))
    return scale_loss * _redundancy.barlow_twins(z1, z2, lamb, True, local_statistics=True)


def vicreg_loss_func(
    z1: Tensor,
    z2: Tensor,
    sim_loss_weight: float = 25.0,
    var_loss_weight: float = 25.0,
    cov_loss_weight: float = 1.0,
) -> Tensor:
    """VICReg's loss, with a variance term of twice that of `fastssl.losses.VICRegLoss`."""
    weights = sim_loss_weight, 2 * var_loss_weight, cov_loss_weight
    return _redundancy.vicreg(z1, z2, weights, True, 1e-4)


def mae_loss_func(imgs: Tensor, pred: Tensor, mask: Tensor, patch_size: int, norm_pix_loss: bool = True) -> Tensor:
    """MAE's loss of float images [N, C, H, W], predictions [N, L, p p C] and a mask [N, L], 1 for what was removed.

    See `fastssl.functional.masked_mse`, which takes uint8 images and ids of the masked patches, too.
    """
    _checks.float_tensor("imgs", imgs, "[N, C, H, W]")
    return masked_mse(pred, imgs, mask.float(), patch_size, norm_pix_loss)


def _cosine(p: Tensor, z: Tensor, simplified: bool) -> Tensor:
    # The other form differs in what counts as a norm of 0.
    return cosines(p, z.detach(), -1, 1e-8 if simplified else 1e-12).mean()


def _gather(x: Tensor, found: Peers) -> Tensor:
    """Return the rows of all processes, of which gradients come back."""
    if found.count == 1:
        return x
    if x.dtype.is_floating_point:
        from torch.distributed.nn.functional import all_gather

        return torch.cat(all_gather(x.contiguous()))
    everyone = x.new_empty((found.count * len(x), *x.shape[1:]))
    dist.all_gather_into_tensor(everyone, x.contiguous())
    return everyone
