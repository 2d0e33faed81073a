"""Rotation: tell by which quarter turn an image was turned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._encoder import encode
from ._one_view import Pictures, Transform, only_view
from ._pretext import Pretext

TURNS = 4


class Rotation(Pretext):
    """Rotation (RotNet): any encoder, and a linear layer that tells by which of four quarter turns an image was turned.

    Of each view all four rotations x_k, by k quarter turns to the left, are in the batch, and with logits z of x_k

        loss = mean over images and k of -log softmax(z)_k

    which is ln 4 = 1.3863 by chance. One step is ``loss = method(method.augment(images))``.

    What would answer the question without a look at what is in the image: resampling leaves traces that a turn by 90
    degrees alone has, such as an edge that the warp fills, so turns are flips and transposes of the very same pixels
    (`exact`); a photograph that is wider than high, squeezed into a square, tells which axis was the horizontal one, so
    the default transform crops squares, of which an upright and a turned one are blurred alike. The place of the grid
    of 8 x 8 blocks of a JPEG varies with the crop. A `transform` of your own must leave images upright.

    Args:
        encoder: a module [B, C, H, W] -> features [B, f] or [B, f, h, w] (averaged over h, w), or the name of a timm
            model, for RGB images.
        exact: turn by flips and transposes; else by bilinear interpolation about the pixel (H // 2, W // 2) with zeros
            beyond the edges, as warps commonly do, which gives the answer away.
        transform: a batch of uint8 images -> list of one float view; by default a square crop of half the image or
            more, mirrored half of the time, but for grey characters up to 16 pixels.
        image_size: height and width of the view of the default transform; by default those that the encoder takes, if
            it takes no others, or those of the images, and 224 for images of different sizes.
        feature_dim: f, where the encoder has no attribute `num_features` to tell.

    Raises:
        TypeError, ValueError: an argument is of another type or out of range, or the encoder is a classifier.
        MissingExtraError: `encoder` is a name and timm is not installed.

    Source: Gidaris, Singh and Komodakis 2018, "Unsupervised Representation Learning by Predicting Image Rotations".

    >>> method = fastssl.methods.Rotation("resnet18")
    >>> loss = method(method.augment(images))  # images uint8 [B, 3, H, W]
    """

    # Of the authors on CIFAR-10, where they take 0.1 for a batch of 128.
    defaults: ClassVar[dict[str, Any]] = {"optimizer": "sgd", "lr": 0.2, "weight_decay": 5e-4, "warmup_epochs": 0}

    def __init__(
        self,
        encoder: nn.Module | str,
        exact: bool = True,
        transform: Transform | None = None,
        image_size: int | None = None,
        feature_dim: int | None = None,
    ) -> None:
        super().__init__(encoder, transform, image_size, feature_dim)
        self.exact = exact
        self.head = nn.Linear(self.width, TURNS)

    def turn(self, view: Tensor, quarters: int) -> Tensor:
        """Return a view [N, C, S, S] turned to the left by so many quarters."""
        return torch.rot90(view, quarters, (2, 3)) if self.exact else _warped(view, quarters)

    def forward(self, views: Sequence[Tensor]) -> Tensor:
        """Return the loss, a 0-d float32 tensor, of one square view in a list.

        Raises:
            ValueError: there is not one view, or it is not square.
        """
        view = _square(only_view(views))
        turned = torch.cat([self.turn(view, quarters) for quarters in range(TURNS)])
        labels = torch.arange(TURNS, device=view.device).repeat_interleave(len(view))
        return F.cross_entropy(self._logits(turned), labels)

    def _logits(self, turned: Tensor) -> Tensor:
        logits: Tensor = self.head(encode(self.encoder, turned))
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def _pictures(self, view: Tensor, seed: int) -> Pictures:
        generator = torch.Generator().manual_seed(seed)
        quarters = torch.randint(TURNS, (len(_square(view)),), generator=generator).tolist()
        turned = torch.cat([self.turn(x[None], k) for x, k in zip(view, quarters, strict=True)])
        told = self._logits(turned).argmax(1).tolist()
        back = torch.cat([torch.rot90(x[None], -k, (2, 3)) for x, k in zip(turned, told, strict=True)])
        return {"image": view, "turned": turned, "turned back": back}


def _square(view: Tensor) -> Tensor:
    if view.shape[2] != view.shape[3]:
        raise ValueError(f"views: got images of {view.shape[2]} x {view.shape[3]}, want square ones: their sides tell")
    return view


def _warped(view: Tensor, quarters: int) -> Tensor:
    """Turn a view by a general warp about the pixel in the middle, whose traces are to be seen."""
    sin, cos = math.sin(quarters * math.pi / 2), math.cos(quarters * math.pi / 2)
    middle = view.shape[2] // 2
    places = torch.arange(view.shape[2], device=view.device, dtype=view.dtype) - middle
    y, x = places[:, None], places[None, :]
    source = torch.stack([cos * x - sin * y, sin * x + cos * y], 2) + middle
    grid = (2 * source / (view.shape[2] - 1) - 1).expand(len(view), -1, -1, -1)
    return F.grid_sample(view, grid, align_corners=True)
