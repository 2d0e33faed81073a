"""MoCo: each view must find the other view of its image among the keys of a queue, made by a slow copy of itself."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .. import _checks, transforms
from .._queue import Queue
from ..functional import Recipe, View, moco
from ..functional._similarity import unit_rows
from ._heads import mlp
from ._momentum import MomentumEncoder, has_batch_norm, shuffled
from ._two_views import Transform, TwoViews, both, small_or

_TEMPERATURES = {"v1": 0.07, "v2": 0.2}


class MoCo(TwoViews):
    """MoCo v1 and v2: encoder, head, their momentum copy and a queue of its keys, a plain module for any training loop.

    The first view's projection is the query; the second view's, made by the copy, is its key. Negatives are the keys of
    past steps, so there are many whatever the batch is. One training step is ``loss = method(method.augment(images))``,
    which enqueues the keys, then the optimizer's step, then ``method.after_step()``, which moves the copy.

    Args:
        encoder: a module [B, C, H, W] -> features [B, f] or [B, f, h, w] (averaged over h, w), such as
            ``timm.create_model("resnet18", num_classes=0)``; or the name of a timm model, for RGB images.
        version: "v2", with a head of two layers and milder crops, jitter and blur; or "v1", with a linear head.
        temperature: tau > 0, a number or a 0-d tensor; by default 0.2 for v2 and 0.07 for v1.
        queue_size: keys in the queue. Fewer than the images, so that an image is not among its own negatives.
        momentum: part of the copy that stays, in [0, 1).
        projection_dim: width of queries and keys.
        hidden_dim: width of the hidden layer of v2's head; by default the width of the features.
        batch_norm: batch norm after each linear layer of the head, without scale and shift after the last, as MoCo v3
            has it. Features of an untrained encoder are nearly equal, and the authors' head, which has none, needs long
            to tell them apart.
        transform: a batch of uint8 images -> list of two float views. By default the published recipe for views over 64
            pixels, `transforms.MoCoV2` for v2, and that of `methods.SimCLR` up to 64.
        image_size: height and width of the views of the default transform; by default those that a vision transformer
            takes, else those of the images, and 224 for images of different sizes.
        feature_dim: f, where the encoder has no attribute `num_features` to tell.
        shuffle_bn: hide from batch norm which query and key belong together, which else it gives away: queries and keys
            of one batch share its statistics, the queue does not. Several processes exchange the images of the keys;
            one process, where the authors needed several, encodes the keys in a random order in groups of 32, as they
            had on each device. It does nothing for fewer than 64 images and for networks without batch norm.

    Raises:
        TypeError, ValueError: an argument is of another type or out of range, or the encoder is a classifier.
        MissingExtraError: `encoder` is a name and timm is not installed.

    The copy averages parameters and running statistics in float32. In the authors' code each network keeps running
    statistics of its own; training reads neither. In several processes the loss is that of their queries, for
    DistributedDataParallel to average, and the queue takes the keys of all. In eval mode nothing is enqueued or moved.

    Source: He et al. 2020, "Momentum Contrast for Unsupervised Visual Representation Learning"; v2: Chen et al. 2020,
    "Improved Baselines with Momentum Contrastive Learning".

    >>> method = fastssl.methods.MoCo(timm.create_model("resnet50", num_classes=0))
    >>> loss = method(method.augment(images))  # images uint8 [B, 3, H, W]
    """

    # Of the authors, for SGD and a batch of 256.
    defaults: ClassVar[dict[str, Any]] = {"optimizer": "sgd", "lr": 0.03, "weight_decay": 1e-4, "warmup_epochs": 0}

    def __init__(
        self,
        encoder: nn.Module | str,
        version: str = "v2",
        temperature: float | Tensor | None = None,
        queue_size: int = 65536,
        momentum: float = 0.999,
        projection_dim: int = 128,
        hidden_dim: int | None = None,
        transform: Transform | None = None,
        image_size: int | None = None,
        feature_dim: int | None = None,
        shuffle_bn: bool = True,
        batch_norm: bool = False,
    ) -> None:
        if version not in _TEMPERATURES:
            raise ValueError(f"version: got {version!r}, want 'v1' or 'v2'")
        temperature = _TEMPERATURES[version] if temperature is None else temperature
        device = temperature.device if isinstance(temperature, Tensor) else torch.device("cpu")
        _checks.positive_scalar("temperature", temperature, device)
        _checks.positive_int("queue_size", queue_size)
        _checks.positive_int("projection_dim", projection_dim)
        if hidden_dim is not None:
            _checks.positive_int("hidden_dim", hidden_dim)
        momentum = _checks.fraction("momentum", momentum, below_one=True)
        super().__init__(encoder, transform, image_size, feature_dim)
        self.momentum = momentum
        hidden = (hidden_dim or self.width,) if version == "v2" else ()
        self.projector = _head((self.width, *hidden, projection_dim), batch_norm)
        self.key_encoder = MomentumEncoder(self.encoder, self.projector)
        self.queue = Queue(queue_size, projection_dim, gather_distributed=True)
        self.temperature = temperature
        self.version, self.shuffle_bn = version, shuffle_bn

    def recipe(self, channels: int, size: int) -> transforms.Transform:
        """Return the default transform for images of so many channels, with views of so many pixels."""
        return small_or(transforms.MoCoV2 if self.version == "v2" else _mocov1, channels, size)

    def keys(self, view: Tensor) -> Tensor:
        """Return the keys [B, projection_dim] of one view [B, C, H, W]: unit rows in float32, without gradient."""
        shuffle = self.shuffle_bn and self.training and has_batch_norm(self.key_encoder)
        keys = shuffled(self.key_encoder, view) if shuffle else self.key_encoder(view)
        return unit_rows(keys.to(torch.promote_types(keys.dtype, torch.float32)))

    def forward(self, views: list[Tensor]) -> Tensor:
        """Return the loss, a 0-d float32 tensor, of a view of queries and one of keys; in training, enqueue the keys.

        Raises:
            ValueError: there are not two views.
        """
        first, second = both(views)
        query, keys = self.project(first), self.keys(second)
        loss = moco(query, keys.to(query.dtype), self.queue.rows, self.temperature)
        if self.training:
            self.queue.enqueue(keys)
        return loss

    def after_step(self, step: int = 0, total_steps: int = 0) -> None:
        """Move the copy towards the encoder and head that the optimizer has changed, after each of its steps."""
        if self.training:
            self.key_encoder.follow(self.encoder, self.projector, self.momentum)


def _head(widths: Sequence[int], batch_norm: bool) -> nn.Module:
    if batch_norm:
        return mlp(widths, last_norm=True)
    first, *second = (nn.Linear(inner, outer) for inner, outer in itertools.pairwise(widths))
    return nn.Sequential(first, nn.ReLU(inplace=True), *second) if second else first


def _mocov1(size: int, **output: Any) -> transforms.Transform:
    # The authors' v1 turns grey before the jitter, here one of the steps after it, which differs in how bright grey is.
    view = View(size, (0.2, 1.0), jitter=(0.4, 0.4, 0.4, 0.4), jitter_p=1.0, gray_p=0.2)
    return transforms.Transform(Recipe((view, view)), **output)
