"""BYOL: each view predicts what a slow copy of the network makes of the other; nothing is a negative."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from .. import _checks, transforms
from ..losses import BYOLLoss
from ._heads import mlp
from ._momentum import MomentumEncoder, cosine_momentum
from ._two_views import Transform, TwoViews, both, small_or


class BYOL(TwoViews):
    """BYOL: encoder, projector, predictor and the momentum copy of the first two, which makes the targets.

    With predictions p_v of view v and targets z_v, the copy's projections, all of unit length:

        loss = mean |p_1 - z_2|^2 + mean |p_2 - z_1|^2 = 4 - 2 mean cos(p_1, z_2) - 2 mean cos(p_2, z_1)

    One training step is ``loss = method(method.augment(images))``, then the optimizer's step, then
    ``method.after_step(step, total_steps)``, which moves the copy.

    Args:
        encoder: a module [B, C, H, W] -> features [B, f] or [B, f, h, w] (averaged over h, w), such as
            ``timm.create_model("resnet50", num_classes=0)``; or the name of a timm model, for RGB images.
        momentum: part of the copy that stays at the first step, in [0, 1); it rises to 1 along half a cosine.
        projection_dim: width of projections and predictions.
        hidden_dim: width of the hidden layers of projector and predictor.
        transform: a batch of uint8 images -> list of two float views. By default `transforms.BYOL` for views over 64
            pixels, and the recipe of `methods.SimCLR` up to 64.
        image_size: height and width of the views of the default transform; by default those that a vision transformer
            takes, else those of the images, and 224 for images of different sizes.
        feature_dim: f, where the encoder has no attribute `num_features` to tell.

    Raises:
        TypeError, ValueError: an argument is of another type or out of range, or the encoder is a classifier.
        MissingExtraError: `encoder` is a name and timm is not installed.

    The copy is kept in float32 or float64, and is part of the state dict; its running statistics follow, too. In
    several processes the loss is that of their own images, for DistributedDataParallel to average, and batch norm needs
    ``SyncBatchNorm.convert_sync_batchnorm`` to see them all, as the authors' does. In eval mode nothing is moved.

    Source: Grill et al. 2020, "Bootstrap Your Own Latent".

    >>> method = fastssl.methods.BYOL(timm.create_model("resnet50", num_classes=0))
    >>> loss = method(method.augment(images))  # images uint8 [B, 3, H, W]
    """

    # Of the authors, for a batch of 256 and 1000 epochs.
    defaults: ClassVar[dict[str, Any]] = {"optimizer": "lars", "lr": 0.2, "weight_decay": 1.5e-6, "warmup_epochs": 10}

    def __init__(
        self,
        encoder: nn.Module | str,
        momentum: float = 0.996,
        projection_dim: int = 256,
        hidden_dim: int = 4096,
        transform: Transform | None = None,
        image_size: int | None = None,
        feature_dim: int | None = None,
    ) -> None:
        momentum = _checks.fraction("momentum", momentum, below_one=True)
        _checks.positive_int("projection_dim", projection_dim)
        _checks.positive_int("hidden_dim", hidden_dim)
        super().__init__(encoder, transform, image_size, feature_dim)
        self.momentum = momentum
        self.projector: nn.Module = mlp((self.width, hidden_dim, projection_dim))
        self.predictor: nn.Module = mlp((projection_dim, hidden_dim, projection_dim))
        self.target = MomentumEncoder(self.encoder, self.projector)
        self.loss = BYOLLoss()

    def recipe(self, channels: int, size: int) -> transforms.Transform:
        """Return the default transform for images of so many channels, with views of so many pixels."""
        return small_or(transforms.BYOL, channels, size)

    def forward(self, views: list[Tensor]) -> Tensor:
        """Return the loss, a 0-d float32 tensor in [0, 8], of two views.

        Raises:
            ValueError: there are not two views.
        """
        first, second = both(views)
        # One view after the other, so each has batch statistics of its own.
        p0, p1 = self.predictor(self.project(first)), self.predictor(self.project(second))
        loss: Tensor = self.loss(p0, self.target(second), p1, self.target(first))
        return loss

    def after_step(self, step: int = 0, total_steps: int = 0) -> None:
        """Move the copy towards the encoder and projector that the optimizer has changed, after each of its steps.

        Args:
            step: steps of the optimizer so far.
            total_steps: of the whole run; without it the momentum stays what it was at the start.
        """
        if self.training:
            # The first step's momentum is the published one: the authors count from 0.
            momentum = cosine_momentum(self.momentum, step - 1, total_steps)
            self.target.follow(self.encoder, self.projector, momentum)
