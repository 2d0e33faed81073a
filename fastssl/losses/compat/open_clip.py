"""The losses of `open_clip.loss`.

Features are taken as they are, as in open_clip, whose models normalise them; give all processes batches of one size.

Differences from open_clip 3.3:

- Several processes are those of torch.distributed's default group: `rank` and `world_size` are checked against it, and
  Horovod is refused where there is more than one.
- ``ClipLoss(exact_gradient=True)`` has the exact gradient of the whole batch in each of its modes. Without it, the
  gradients are open_clip's: with DistributedDataParallel those of the features come out as 1 / world_size of the exact
  ones where neither `local_loss` nor `gather_with_grad` is set, and without a part of them with `local_loss` alone.
- `cache_labels` has nothing to do, as there are no labels. Losses have no ``get_logits``.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from ... import _checks
from ...functional._info_nce import same_shape
from ...functional._peers import Peers, peers
from ...functional._similarity import choice, embeddings, paired_scores, positions, softplus_excess
from ._shared import scalar, scaled_gradient

__all__ = ["ClipLoss", "SigLipLoss"]

# How the text features reach the other processes: passed on, or gathered.
_WAYS = {"bidir": "ring", "shift": "ring", "reduce": "all_gather", "gather": "all_gather"}


class ClipLoss(torch.nn.Module):
    """CLIP's symmetric cross-entropy; see `fastssl.functional.clip`.

    Args:
        local_loss: the value is that of this process's rows, else that of all rows on every process.
        gather_with_grad: features of other processes pass on their gradients.
        cache_labels: without effect.
        rank, world_size: of this process, and number of processes.
        use_horovod: False, unless there is one process.
        exact_gradient: that of the whole batch whatever the modes.
    """

    def __init__(
        self,
        local_loss: bool = False,
        gather_with_grad: bool = False,
        cache_labels: bool = False,
        rank: int = 0,
        world_size: int = 1,
        use_horovod: bool = False,
        *,
        exact_gradient: bool = False,
    ) -> None:
        super().__init__()
        _checks.positive_int("world_size", world_size)
        if use_horovod and world_size > 1:
            raise ValueError("use_horovod: got True, want False: several processes are those of torch.distributed")
        self.local_loss, self.gather_with_grad, self.cache_labels = local_loss, gather_with_grad, cache_labels
        self.rank, self.world_size, self.use_horovod = rank, world_size, use_horovod
        self.exact_gradient = exact_gradient

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: float | Tensor,
        logit_bias: float | Tensor | None = None,
        output_dict: bool = False,
    ) -> Tensor | dict[str, Tensor]:
        """Return the loss of features [N, D]; a bias, which all logits share, changes nothing."""
        same_shape("image_features", image_features, "text_features", text_features)
        scale = _checks.scalar("logit_scale", scalar(logit_scale), image_features.device)
        found = _processes(self.rank, self.world_size, "all_gather", image_features)
        products, (x, y) = embeddings(image_features, text_features, normalize=False)
        exact = self.exact_gradient or self.gather_with_grad or found.count == 1
        if not exact and not self.local_loss:
            x, y = (scaled_gradient(z, 1 / found.count) for z in (x, y))
        own = positions(len(x), x.device, found.start)
        ids = own, own
        if not exact and self.local_loss:
            # Either direction takes the other side as a constant.
            nll = softplus_excess(
                found.logsumexp(x, y.detach(), scale, ids, products, bounded=False),
                paired_scores(x, y.detach()) * scale,
            ) + softplus_excess(
                found.logsumexp(y, x.detach(), scale, ids, products, bounded=False),
                paired_scores(y, x.detach()) * scale,
            )
        else:
            positive = paired_scores(x, y) * scale
            rows, columns = found.both_logsumexp(x, y, scale, ids, products, bounded=False)
            nll = softplus_excess(rows, positive) + softplus_excess(columns, positive)
        loss = (nll.mean() if self.local_loss else found.mean(nll)) / 2
        if logit_bias is not None:
            loss = loss + 0 * scalar(logit_bias)  # with a gradient of 0, which DistributedDataParallel waits for
        loss = loss.to(x.dtype)
        return {"contrastive_loss": loss} if output_dict else loss


class SigLipLoss(torch.nn.Module):
    """SigLIP's pairwise sigmoid loss; see `fastssl.functional.siglip`. The value is that of this process's images.

    Args:
        cache_labels: without effect.
        rank, world_size: of this process, and number of processes.
        dist_impl: "bidir" (also None) and "shift" pass features on from process to process, "reduce" and "gather"
            gather them; values and gradients are the same.
    """

    def __init__(
        self, cache_labels: bool = False, rank: int = 0, world_size: int = 1, dist_impl: str | None = None
    ) -> None:
        super().__init__()
        _checks.positive_int("world_size", world_size)
        self.cache_labels, self.rank, self.world_size, self.dist_impl = cache_labels, rank, world_size, dist_impl
        if dist_impl is None:
            self.dist_impl = "bidir"
        choice("dist_impl", self.dist_impl, tuple(_WAYS))

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: float | Tensor,
        logit_bias: float | Tensor | None,
        output_dict: bool = False,
    ) -> Tensor | dict[str, Tensor]:
        """Return the loss of features [N, D]."""
        same_shape("image_features", image_features, "text_features", text_features)
        device, rows = image_features.device, len(image_features)
        scale = _checks.scalar("logit_scale", scalar(logit_scale), device)
        bias = _checks.scalar("logit_bias", 0.0 if logit_bias is None else scalar(logit_bias), device)
        found = _processes(self.rank, self.world_size, _WAYS[str(self.dist_impl)], image_features)
        products, (x, y) = embeddings(image_features, text_features, normalize=False)
        own = positions(rows, device, found.start)
        total = found.softplus(x, y, scale, bias.to(device).expand(rows), (own, own), products)
        loss = (total / rows).to(x.dtype)
        return {"contrastive_loss": loss} if output_dict else loss


def _processes(rank: int, world_size: int, way: str, features: Tensor) -> Peers:
    if world_size == 1:
        return Peers(len(features))
    group = dist.is_available() and dist.is_initialized()
    got = (rank, world_size)
    if not group or got != (dist.get_rank(), dist.get_world_size()):
        want = f"those of the default group, {(dist.get_rank(), dist.get_world_size())}" if group else "(0, 1)"
        told = "" if group else ": torch.distributed is not initialised"
        raise ValueError(f"rank, world_size: got {got}, want {want}{told}")
    return peers(way, len(features), features.device)
