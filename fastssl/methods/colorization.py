"""Colourisation: tell the colours of an image from its lightness."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .. import _checks, transforms
from ..functional import ab_bins, lab_bins, sparse_cross_entropy
from ._color import (
    ClassPrior,
    ColorMethod,
    LightnessInput,
    MapDecoder,
    annealed_mean,
    dense_encoder,
    lab_to_rgb,
    rgb_to_lab,
)
from ._encoder import fixed_size, frozen
from ._one_view import Size, Transform


class Colorization(ColorMethod):
    """Colourisation: an encoder that sees lightness alone, and a small decoder that tells the colours of every place.

    Colours (a, b) of CIE Lab are 313 classes, points of a grid. With t the weights of the ten nearest points of the
    colour of a place, a Gaussian of sigma 5, q its nearest point, and z the logits there:

        loss = mean over images and places of -v_q sum_k t_k log softmax(z)_k
        v = 1 / ((1 - rebalance) p + rebalance / 313), scaled such that the mean of v_q is 1

    Most places of most images are nearly grey, and a network that says so everywhere would do well: v makes rare
    colours count more. p are the parts that classes have in the weights t, and the mean is one over places, both of all
    batches so far, that of the step included; they are in the state dict, and evaluation mode leaves them as they are.
    An untrained network's loss is about ln 313 = 5.7462, as without v.

    `encoder` takes normalised RGB images, as any other, and shows their lightness L - 50 to the encoder that it is made
    of. One training step is ``loss = method(method.augment(images))``.

    Args:
        encoder: a module [B, 1, H, W] -> features; or [B, 3, H, W], which gets the lightness in each channel; or the
            name of a timm model, a ResNet of which is made with a map of an eighth of the image's height and width.
            What is learnt from are its features before they are pooled, ``forward_features`` of timm.
        rebalance: part of uniform in the mixture of which v is the inverse, in (0, 1]; 1 counts all colours alike.
        stride: the colours of every stride-th row and column are told.
        decoder_dim: width of the decoder.
        transform: a batch of uint8 images -> list of one float view; by default as for `MAE`.
        image_size: height and width of the views; by default those that the encoder takes, if it takes no others.
        feature_dim: f, where the encoder has no attribute `num_features` to tell.

    Raises:
        TypeError, ValueError: an argument is of another type or out of range.
        MissingExtraError: `encoder` is a name and timm is not installed.

    In several processes p and the mean are the first one's, if buffers are broadcast as DistributedDataParallel does.

    Source: Zhang, Isola and Efros 2016, "Colorful Image Colorization", with another network.

    >>> method = fastssl.methods.Colorization("resnet18")
    >>> image, lightness, recoloured = method.pictures(images[:8]).values()
    """

    # Of the authors, whose batch of 40 had a rate of 3e-5.
    defaults: ClassVar[dict[str, Any]] = {"lr": 1.9e-4, "weight_decay": 1e-3, "betas": (0.9, 0.99)}

    def __init__(
        self,
        encoder: nn.Module | str,
        rebalance: float = 0.5,
        stride: int = 4,
        decoder_dim: int = 256,
        transform: Transform | None = None,
        image_size: Size | None = None,
        feature_dim: int | None = None,
    ) -> None:
        rebalance = _checks.fraction("rebalance", rebalance)
        if rebalance == 0:
            raise ValueError(
                "rebalance: got 0, want a number in (0, 1]: colours that are never met would count infinitely"
            )
        for name, value in (("stride", stride), ("decoder_dim", decoder_dim)):
            _checks.positive_int(name, value)
        encoder = dense_encoder(encoder, 1, image_size) if isinstance(encoder, str) else encoder
        super().__init__(transform, image_size or fixed_size(encoder))
        self.rebalance, self.stride = rebalance, stride
        self.encoder: LightnessInput = LightnessInput(encoder, feature_dim)
        classes = len(ab_bins())
        self.prior = ClassPrior(classes)
        self.decoder = MapDecoder(self.encoder.num_features, decoder_dim, classes)

    def forward(self, views: Sequence[Tensor]) -> Tensor:
        """Return the loss, a 0-d float32 tensor, of one view in a list.

        Raises:
            ValueError: there is not one view, or it is grey.
        """
        view = self.only_view(views)
        mean, std = transforms.statistics(3)
        lab, index, weight = lab_bins(view, stride=self.stride, mean=mean, std=std)
        logits = self.decoder(self.encoder.map(lab), index.shape[2:])
        if self.training:
            self.prior.update(index, weight)
        balance = self.prior.balance(self.rebalance)
        return sparse_cross_entropy(logits, index, weight * balance[index[:, :1]])

    def pictures(self, images: Tensor, *, seed: int = 0) -> dict[str, Tensor]:
        """Show what the method makes of images; nothing of it changes.

        Args:
            images: uint8 [N, 3, H, W].
            seed: of nothing, as nothing is drawn.

        Returns:
            Rows of pictures float32 [N, 3, H, W] in [0, 1]: "image", "lightness", and "recoloured": the lightness with
            the colours that the method gives it, of each place the annealed mean, the mean of all classes under
            softmax(z / 0.38).
        """
        picture = images.float() / 255
        lab = rgb_to_lab(picture)
        lightness = lab[:, :1]
        with frozen(self):
            logits = self.decoder(self.encoder.map(lab), [-(-side // self.stride) for side in lab.shape[2:]])
        colors = annealed_mean(logits, ab_bins(lab.device), lab.shape[2:])
        return {
            "image": picture,
            "lightness": lab_to_rgb(torch.cat([lightness, torch.zeros_like(colors)], 1)),
            "recoloured": lab_to_rgb(torch.cat([lightness, colors], 1)),
        }
