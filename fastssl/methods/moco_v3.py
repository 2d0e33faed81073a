"""MoCo v3: each view must find the other among those of the batch, seen by a slow copy of the network; no queue."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .. import _checks, transforms
from ..functional import info_nce
from ._heads import mlp
from ._momentum import MomentumEncoder, cosine_momentum
from ._two_views import Transform, TwoViews, both, small_or


class MoCoV3(TwoViews):
    """MoCo v3: encoder, projector, predictor and the momentum copy of the first two, which makes the keys.

    With queries q_v, predictions of view v, and keys k_v, the copy's projections, all of unit length:

        loss = 2 tau (InfoNCE(q_1, k_2) + InfoNCE(q_2, k_1)),
        InfoNCE(q, k) = -mean_i log( exp(<q_i, k_i> / tau) / sum_j exp(<q_i, k_j> / tau) )

    where j goes through the keys of all processes. One training step is ``loss = method(method.augment(images))``, then
    the optimizer's step, then ``method.after_step(step, total_steps)``, which moves the copy.

    Args:
        encoder: a module [B, C, H, W] -> features [B, f] or [B, f, h, w] (averaged over h, w), such as
            ``timm.create_model("resnet50", num_classes=0)``; or the name of a timm model, for RGB images. A vision
            transformer by name gets the published initial weights and fixed positions of sines and cosines; one that
            is passed in is taken as it is.
        temperature: tau > 0, a number or a 0-d tensor; by default 0.2 for a vision transformer, else 1.
        momentum: part of the copy that stays at the first step, in [0, 1); it rises to 1 along half a cosine.
        projection_dim: width of queries and keys.
        hidden_dim: width of the hidden layers of projector and predictor.
        freeze_patches: leave a vision transformer's patch projection at its random weights, without which the authors
            found its training to be unstable.
        transform: a batch of uint8 images -> list of two float views. By default `transforms.BYOL` for views over 64
            pixels, and the recipe of `methods.SimCLR` up to 64.
        image_size: height and width of the views of the default transform; by default those that a vision transformer
            takes, else those of the images, and 224 for images of different sizes.
        feature_dim: f, where the encoder has no attribute `num_features` to tell.

    Raises:
        TypeError, ValueError: an argument is of another type or out of range, or the encoder is a classifier.
        MissingExtraError: `encoder` is a name and timm is not installed.

    As published, the projector of a vision transformer has three layers and that of another encoder two, only a vision
    transformer's predictor ends in batch norm, and `fastssl.fit` trains the former by AdamW, the latter by LARS. The
    copy is kept in float32 or float64, and is part of the state dict; its running statistics follow, too. In several
    processes the loss is that of all, with its exact gradient under DistributedDataParallel, and batch norm needs
    ``SyncBatchNorm.convert_sync_batchnorm`` to see their images, as the authors' does. In eval mode nothing is moved.

    Source: Chen, Xie and He 2021, "An Empirical Study of Training Self-Supervised Vision Transformers".

    >>> method = fastssl.methods.MoCoV3("vit_small_patch16_224")
    >>> loss = method(method.augment(images))  # images uint8 [B, 3, H, W]
    """

    defaults: dict[str, Any]

    def __init__(
        self,
        encoder: nn.Module | str,
        temperature: float | Tensor | None = None,
        momentum: float = 0.99,
        projection_dim: int = 256,
        hidden_dim: int = 4096,
        freeze_patches: bool = True,
        transform: Transform | None = None,
        image_size: int | None = None,
        feature_dim: int | None = None,
    ) -> None:
        if temperature is not None:
            device = temperature.device if isinstance(temperature, Tensor) else torch.device("cpu")
            _checks.positive_scalar("temperature", temperature, device)
        momentum = _checks.fraction("momentum", momentum, below_one=True)
        _checks.positive_int("projection_dim", projection_dim)
        _checks.positive_int("hidden_dim", hidden_dim)
        super().__init__(encoder, transform, image_size, feature_dim, vit_init="mocov3")
        patches = getattr(getattr(self.encoder, "patch_embed", None), "proj", None)
        of_vit = isinstance(patches, nn.Module)
        if isinstance(patches, nn.Module) and freeze_patches:
            patches.requires_grad_(False)
        # Of the authors, for a batch of 256 and 300 epochs.
        self.defaults = {"optimizer": "lars", "lr": 0.3, "weight_decay": 1e-6, "warmup_epochs": 10}
        if of_vit:
            self.defaults = {"optimizer": "adamw", "lr": 1.5e-4, "weight_decay": 0.1, "warmup_epochs": 40}
        self.momentum = momentum
        hidden = (hidden_dim, hidden_dim) if of_vit else (hidden_dim,)
        self.projector: nn.Module = mlp((self.width, *hidden, projection_dim), last_norm=True)
        self.predictor: nn.Module = mlp((projection_dim, hidden_dim, projection_dim), last_norm=of_vit)
        self.key_encoder = MomentumEncoder(self.encoder, self.projector)
        self.temperature = (0.2 if of_vit else 1.0) if temperature is None else temperature

    def recipe(self, channels: int, size: int) -> transforms.Transform:
        """Return the default transform for images of so many channels, with views of so many pixels."""
        return small_or(transforms.BYOL, channels, size)

    def forward(self, views: list[Tensor]) -> Tensor:
        """Return the loss, a 0-d float32 tensor, of two views.

        Raises:
            ValueError: there are not two views.
        """
        first, second = both(views)
        # One view after the other, so each has batch statistics of its own.
        queries = [self.predictor(self.project(view)) for view in (first, second)]
        keys = [self.key_encoder(view) for view in (second, first)]
        nll, other = (
            info_nce(query, key.to(query.dtype), temperature=self.temperature, gather_distributed=True)
            for query, key in zip(queries, keys, strict=True)
        )
        return (2 * self.temperature * (nll + other)).to(nll.dtype)

    def after_step(self, step: int = 0, total_steps: int = 0) -> None:
        """Move the copy towards the encoder and projector that the optimizer has changed, after each of its steps.

        Args:
            step: steps of the optimizer so far.
            total_steps: of the whole run; without it the momentum stays what it was at the start.
        """
        if self.training:
            momentum = cosine_momentum(self.momentum, step, total_steps)
            self.key_encoder.follow(self.encoder, self.projector, momentum)
