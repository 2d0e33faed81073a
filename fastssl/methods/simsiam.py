"""SimSiam: each view predicts the other's projection, which is held still; no negatives and no copy."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from .. import _checks, transforms
from ..losses import NegativeCosineSimilarity
from ._heads import mlp
from ._two_views import Transform, TwoViews, both, small_or


class SimSiam(TwoViews):
    """SimSiam: encoder, projector and predictor, whose targets are the projections of the other view, detached.

    With projections z_v of view v and their predictions p_v, of unit length:

        loss = -1/2 mean cos(p_1, z_2) - 1/2 mean cos(p_2, z_1)

    What keeps all projections from becoming one is the stop-gradient, with the predictor and batch norm. One training
    step is ``loss = method(method.augment(images))``.

    Args:
        encoder: a module [B, C, H, W] -> features [B, f] or [B, f, h, w] (averaged over h, w), such as
            ``timm.create_model("resnet50", num_classes=0)``; or the name of a timm model, for RGB images.
        projection_dim: width of projections and predictions.
        hidden_dim: width of the projector's hidden layers.
        predictor_dim: width of the predictor's hidden layer.
        transform: a batch of uint8 images -> list of two float views. By default `transforms.MoCoV2`, the published
            one, for views over 64 pixels, and the recipe of `methods.SimCLR` up to 64.
        image_size: height and width of the views of the default transform; by default those that a vision transformer
            takes, else those of the images, and 224 for images of different sizes.
        feature_dim: f, where the encoder has no attribute `num_features` to tell.

    Raises:
        TypeError, ValueError: an argument is of another type or out of range, or the encoder is a classifier.
        MissingExtraError: `encoder` is a name and timm is not installed.

    `fastssl.fit` keeps the predictor's learning rate at its peak, as published; in a loop of your own, give
    ``method.predictor`` a parameter group whose rate does not decay. In several processes the loss is that of their own
    images, for DistributedDataParallel to average, and batch norm needs ``SyncBatchNorm.convert_sync_batchnorm`` to see
    them all, as the authors' does.

    Source: Chen and He 2021, "Exploring Simple Siamese Representation Learning".

    >>> method = fastssl.methods.SimSiam(timm.create_model("resnet50", num_classes=0))
    >>> loss = method(method.augment(images))  # images uint8 [B, 3, H, W]
    """

    # Of the authors, for a batch of 256.
    defaults: ClassVar[dict[str, Any]] = {
        "optimizer": "sgd", "lr": 0.05, "weight_decay": 1e-4, "warmup_epochs": 0, "constant_lr": ("predictor",),
    }  # fmt: skip

    def __init__(
        self,
        encoder: nn.Module | str,
        projection_dim: int = 2048,
        hidden_dim: int = 2048,
        predictor_dim: int = 512,
        transform: Transform | None = None,
        image_size: int | None = None,
        feature_dim: int | None = None,
    ) -> None:
        for name, value in (
            ("projection_dim", projection_dim),
            ("hidden_dim", hidden_dim),
            ("predictor_dim", predictor_dim),
        ):
            _checks.positive_int(name, value)
        super().__init__(encoder, transform, image_size, feature_dim)
        self.projector: nn.Module = mlp((self.width, hidden_dim, hidden_dim, projection_dim), last_norm=True)
        self.predictor: nn.Module = mlp((projection_dim, predictor_dim, projection_dim), last_bias=True)
        self.loss = NegativeCosineSimilarity()

    def recipe(self, channels: int, size: int) -> transforms.Transform:
        """Return the default transform for images of so many channels, with views of so many pixels."""
        return small_or(transforms.MoCoV2, channels, size)

    def forward(self, views: list[Tensor]) -> Tensor:
        """Return the loss, a 0-d float32 tensor in [-1, 1], of two views.

        Raises:
            ValueError: there are not two views.
        """
        # One view after the other, so each has batch statistics of its own.
        z0, z1 = (self.project(view) for view in both(views))
        p0, p1 = self.predictor(z0), self.predictor(z1)
        loss: Tensor = 0.5 * (self.loss(p0, z1.detach()) + self.loss(p1, z0.detach()))
        return loss
