"""SwAV: each view predicts the cluster that another view of its image is assigned to, with equally large clusters."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .. import _checks, transforms
from .._queue import Queue
from ..functional import dino_loss, sinkhorn
from ..functional._similarity import unit_rows
from ._heads import mlp
from ._multi_crop import GLOBAL_VIEWS, MultiCrop
from ._two_views import Transform


class SwAV(MultiCrop):
    """SwAV: encoder, head and prototypes, a plain module for any training loop; there is no momentum copy.

    Scores are the cosines of projections z_v and K prototypes. The codes q_t of the two global views are their scores
    after Sinkhorn-Knopp, which spreads the batch evenly over the prototypes, and every other view predicts them:

        loss = mean over t in {0, 1} and views v != t of -sum_k q_tk log softmax_k(score_vk / temperature)

    One training step is ``loss = method(method.augment(images))``, the backward pass, ``method.before_step(step,
    total_steps)``, the optimizer's step, and ``method.after_step(step, total_steps)``, with steps counted from 1.
    `fastssl.fit` does all that.

    Args:
        encoder: a module [B, C, H, W] -> features [B, f] or [B, f, h, w] (averaged over h, w), for images of all sizes
            that it is shown, such as ``timm.create_model("resnet50", num_classes=0)``; or the name of a timm model, for
            RGB images.
        prototypes: K, about ten times the number of classes that one expects, or more.
        projection_dim: width of projections and prototypes.
        hidden_dim: width of the head's hidden layer.
        temperature: tau > 0 of the predictions.
        epsilon: > 0, the temperature of the codes, see `fastssl.functional.sinkhorn`; the larger, the softer they are.
        iterations: of Sinkhorn-Knopp.
        queue_size: past projections of each global view that are spread over the prototypes along with the batch, for
            batches smaller than K; 0 for none. The authors take 3840 for a batch of 256.
        queue_epochs: epochs before the queue is used, in which features change fast.
        freeze_prototypes: epochs at the start in which the prototypes stay as they are.
        local_views: local views of the default transform.
        transform: a batch of uint8 images -> list of float views, two global ones first, in any number and sizes; by
            default `transforms.SwAV` for views over 64 pixels, and up to 64 the steps of `transforms.SimCLRSmall` with
            crops of two sizes.
        image_size: height and width of the global views of the default transform; by default those of the images, and
            224 for images of different sizes.
        local_size: of its local views; by default 3/7 of it in whole patches (96 of 224), half of it up to 64 pixels.
        feature_dim: f, where the encoder has no attribute `num_features` to tell.
        steps_per_epoch: what schedules in epochs need: in a loop of your own ``len(loader)``; `fastssl.fit` sets it.

    Raises:
        TypeError, ValueError: an argument is of another type or out of range, or the encoder is a classifier.
        MissingExtraError: `encoder` is a name and timm is not installed.

    Queues and whether they are used are in the state dict. In several processes codes are those of the images of all,
    who share one queue of the projections of all; the loss is that of their own images, for DistributedDataParallel to
    average, and batch norm needs ``SyncBatchNorm.convert_sync_batchnorm`` to see them all. The queue is filled from the
    first step on, where the authors' starts to fill after `queue_epochs`.

    Source: Caron et al. 2020, "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments", and its
    code.

    >>> method = fastssl.methods.SwAV("resnet50", steps_per_epoch=len(loader))
    >>> loss = method(method.augment(images))  # images uint8 [B, 3, H, W]
    >>> loss.backward()
    >>> method.before_step(step, total_steps)
    >>> optimizer.step()
    >>> method.after_step(step, total_steps)
    """

    # Of the authors, for a batch of 256.
    defaults: ClassVar[dict[str, Any]] = {"optimizer": "lars", "lr": 0.6, "weight_decay": 1e-6, "warmup_epochs": 0}

    def __init__(
        self,
        encoder: nn.Module | str,
        prototypes: int = 3000,
        projection_dim: int = 128,
        hidden_dim: int = 2048,
        temperature: float | Tensor = 0.1,
        epsilon: float = 0.05,
        iterations: int = 3,
        queue_size: int = 0,
        queue_epochs: int = 15,
        freeze_prototypes: int = 1,
        local_views: int = 6,
        transform: Transform | None = None,
        image_size: int | None = None,
        local_size: int | None = None,
        feature_dim: int | None = None,
        steps_per_epoch: int | None = None,
    ) -> None:
        sizes = {"prototypes": prototypes, "projection_dim": projection_dim, "hidden_dim": hidden_dim}
        for name, size in {**sizes, "iterations": iterations}.items():
            _checks.positive_int(name, size)
        counts = {"queue_size": queue_size, "queue_epochs": queue_epochs, "freeze_prototypes": freeze_prototypes}
        for name, count in counts.items():
            _checks.count(name, count)
        for name, value in (("temperature", temperature), ("epsilon", epsilon)):
            device = value.device if isinstance(value, Tensor) else torch.device("cpu")
            _checks.positive_scalar(name, value, device)
        super().__init__(encoder, transform, image_size, feature_dim, local_views, local_size, steps_per_epoch)
        self.projector: nn.Module = mlp((self.width, hidden_dim, projection_dim), last_bias=True)
        self.prototypes = nn.Linear(projection_dim, prototypes, bias=False)
        self._normalize()
        self.queues = nn.ModuleList(
            Queue(queue_size, projection_dim, gather_distributed=True) for _ in range(GLOBAL_VIEWS if queue_size else 0)
        )
        self.queue_on = False
        self.temperature, self.epsilon, self.iterations = temperature, epsilon, iterations
        self.queue_epochs, self.freeze_prototypes = queue_epochs, freeze_prototypes

    @torch.no_grad()
    def _normalize(self) -> None:
        self.prototypes.weight.copy_(unit_rows(self.prototypes.weight))

    def get_extra_state(self) -> Tensor:
        """Return what the state dict keeps besides tensors: whether the queues are used."""
        return torch.tensor(self.queue_on)

    def set_extra_state(self, state: Tensor) -> None:
        """Take it back."""
        self.queue_on = bool(state)

    def published(self, size: int, local_size: int) -> transforms.Transform:
        """Return the published transform for large images."""
        return transforms.SwAV(
            size, local_size=local_size, local_views=self.local_views, memory_format=torch.channels_last
        )

    def forward(self, views: list[Tensor]) -> Tensor:
        """Return the loss, a 0-d float32 tensor, of two global views and any number of local ones; fill the queues.

        Raises:
            ValueError: the views are fewer, of different images or of a size that the encoder does not take.
        """
        images = self.check(views)
        z = self.projector(self.features(views))
        z = unit_rows(z.to(torch.promote_types(z.dtype, torch.float32)))
        scores = self.prototypes(z.to(self.prototypes.weight.dtype)).view(len(views), images, -1)
        centers = torch.stack([self.center(scores[t].detach(), t) for t in range(GLOBAL_VIEWS)])
        loss = dino_loss(scores, scores[:GLOBAL_VIEWS], centers, self.temperature, self.epsilon)
        if self.training:
            queue: Any
            for queue, keys in zip(self.queues, z.detach().view(len(views), images, -1), strict=False):
                queue.enqueue(keys)
        return loss

    @torch.no_grad()
    def center(self, scores: Tensor, view: int) -> Tensor:
        """Return what Sinkhorn-Knopp subtracts from the scores [B, K] of a global view to make codes of them."""
        if self.queues and self.queue_on:
            past = self.queues[view].get_buffer("rows")
            if dist.is_available() and dist.is_initialized():
                # All processes have the same rows, and each brings a part of them.
                past = past.tensor_split(dist.get_world_size())[dist.get_rank()]
            scores = torch.cat([scores, self.prototypes(past.to(self.prototypes.weight.dtype)).to(scores.dtype)])
        return sinkhorn(scores, self.iterations, self.epsilon, gather_distributed=True)

    def before_step(self, step: int, total_steps: int) -> None:
        """Take the gradients of the prototypes away at first, before each step of the optimizer.

        Args:
            step: the number of the step, from 1.
            total_steps: of the whole run.
        """
        if step <= self.steps(self.freeze_prototypes):
            self.prototypes.weight.grad = None

    def after_step(self, step: int, total_steps: int) -> None:
        """Bring the prototypes that the optimizer has changed back to unit length, after each of its steps.

        Args:
            step: the number of the step, from 1.
            total_steps: of the whole run.
        """
        if self.training:
            if step > self.steps(self.freeze_prototypes):
                self._normalize()
            self.queue_on = len(self.queues) > 0 and step >= self.steps(self.queue_epochs)
