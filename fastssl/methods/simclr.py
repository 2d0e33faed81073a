"""SimCLR: two augmented views of each image, and a loss that tells the pairs from everything else."""

from __future__ import annotations

from torch import Tensor, nn

from ..losses import NTXentLoss
from ._heads import mlp
from ._two_views import Transform, TwoViews, both


class SimCLR(TwoViews):
    """SimCLR: encoder, projection head and NT-Xent loss, a plain module for any training loop.

    `encoder` is what training is for: it maps images to features h, and the projections z of h exist for the loss
    alone. One training step is ``loss = method(method.augment(images))``.

    Args:
        encoder: a module [B, C, H, W] -> features [B, f] or [B, f, h, w] (averaged over h, w), such as
            ``timm.create_model("resnet18", num_classes=0)``; or the name of a timm model, for RGB images.
        temperature: tau > 0 of the loss, a number or a 0-d tensor.
        projection_dim: width of the projections z.
        hidden_dim: width of the head's hidden layer; by default the width of the features.
        transform: a batch of uint8 images -> list of two float views, such as a recipe of `fastssl.transforms`. By
            default `SimCLR` for views over 64 pixels, `SimCLRSmall` up to 64, `SimCLRDigits` for grey ones up to 16.
        image_size: height and width of the views of the default transform; by default those that a vision transformer
            takes, else those of the images, and 224 for images of different sizes.
        feature_dim: f, where the encoder has no attribute `num_features` to tell.

    Raises:
        TypeError, ValueError: an argument is of another type or out of range, or the encoder is a classifier.
        MissingExtraError: `encoder` is a name and timm is not installed.

    Source: Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations".

    >>> method = fastssl.methods.SimCLR(timm.create_model("resnet18", num_classes=0), temperature=0.5)
    >>> loss = method(method.augment(images))  # images uint8 [B, 3, H, W]
    """

    def __init__(
        self,
        encoder: nn.Module | str,
        temperature: float | Tensor = 0.5,
        projection_dim: int = 128,
        hidden_dim: int | None = None,
        transform: Transform | None = None,
        image_size: int | None = None,
        feature_dim: int | None = None,
    ) -> None:
        for name, value in (("projection_dim", projection_dim), ("hidden_dim", hidden_dim)):
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{name}: got {value!r}, want an int >= 1")
        super().__init__(encoder, transform, image_size, feature_dim)
        # Chen et al.: a hidden layer with batch norm; the last layer has neither bias nor activation after it.
        self.projector: nn.Module = mlp((self.width, hidden_dim or self.width, projection_dim))
        self.criterion: nn.Module = NTXentLoss(temperature)

    def forward(self, views: list[Tensor]) -> Tensor:
        """Return the loss, a 0-d float32 tensor, of two views of at least two images each.

        Raises:
            ValueError: there are not two views, or fewer than two images: no negatives to tell apart.
        """
        first, second = both(views)
        if first.shape[0] < 2:
            raise ValueError(f"views: got {first.shape[0]} image, want at least 2: one image has no negatives")
        # The two views pass the network one after the other, so each has batch statistics of its own.
        loss: Tensor = self.criterion(self.project(first), self.project(second))
        return loss
