"""Variational autoencoder: a code that is drawn from a normal distribution, close to the standard one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .. import _checks, transforms
from ._encoder import frozen
from ._one_view import Pictures, Size, Transform, only_view
from .autoencoder import Autoencoder, linear


class VariationalAutoencoder(Autoencoder):
    """Variational autoencoder: an `Autoencoder` whose code is a normal distribution for each image.

    Linear layers make the mean mu and log variance of the code of the features; z = mu + exp(logvar / 2) epsilon is
    what the decoder gets, in training, and mu otherwise. With D numbers in an image x, as encoders take it:

        loss = mean over images of [ 1/2 sum (decoder(z) - x)^2 + beta KL ] / D,
        KL = 1/2 sum (mu^2 + exp(logvar) - 1 - logvar)

    Both terms are sums over an image, in nats: for beta 1 their sum is the negative evidence lower bound of a decoder
    with normal pixels of variance 1, less the constant D/2 log(2 pi). The loss is in nats per number of the image, so
    that its size, and that of its gradients, does not go with the images'.

    The noise makes copying dear, and yet a code as wide as the image is refused, as for `Autoencoder`.

    Args:
        encoder: as for `Autoencoder`.
        latent_dim: width of the code (channels of a map).
        beta: weight of KL, >= 0: with more, fewer numbers of the code say anything.
        decoder, decoder_dim, allow_identity, transform, image_size, feature_dim: as for `Autoencoder`.

    Raises:
        TypeError, ValueError: an argument is of another type or out of range, or allows for the identity.
        MissingExtraError: `encoder` is a name and timm is not installed.

    Source: Kingma and Welling 2014, "Auto-Encoding Variational Bayes"; beta: Higgins et al. 2017, "beta-VAE".

    >>> method = fastssl.methods.VariationalAutoencoder("resnet18", latent_dim=64, image_size=64)
    >>> loss = method(method.augment(images))  # images uint8 [B, 3, H, W]
    """

    def __init__(
        self,
        encoder: nn.Module | str,
        latent_dim: int = 20,
        beta: float = 1.0,
        decoder: nn.Module | None = None,
        decoder_dim: int = 128,
        allow_identity: bool = False,
        transform: Transform | None = None,
        image_size: Size | None = None,
        feature_dim: int | None = None,
    ) -> None:
        _checks.positive_int("latent_dim", latent_dim)
        if isinstance(beta, bool) or not isinstance(beta, (int, float)) or not 0 <= beta < math.inf:
            raise ValueError(f"beta: got {beta!r}, want a number >= 0")
        super().__init__(encoder, latent_dim, decoder, decoder_dim, allow_identity, transform, image_size, feature_dim)
        self.latent_dim, self.beta = latent_dim, float(beta)
        self.to_logvar = linear(self.features_shape, latent_dim)

    def terms(self, view: Tensor, *, seed: int | None = None) -> tuple[Tensor, Tensor]:
        """Return the error of the reconstruction and KL of each image of a view, [N] both, in nats.

        Args:
            view: [N, C, H, W].
            seed: of the draws of the code; by default drawn.

        Returns:
            float32, or float64 of a method of such.
        """
        features = self._checked_features(view)
        mu, logvar = _wide(self.to_code(features)), _wide(self.to_logvar(features))
        generator = None if seed is None else torch.Generator(view.device).manual_seed(seed)
        noise = torch.randn(mu.shape, generator=generator, device=mu.device)
        made = self.decode(mu + (logvar / 2).exp() * noise, view)
        error = (_wide(made) - view).square().flatten(1).sum(1) / 2
        return error, (mu.square() + logvar.exp() - 1 - logvar).flatten(1).sum(1) / 2

    def forward(self, views: Sequence[Tensor], *, seed: int | None = None) -> Tensor:
        """Return the loss, a 0-d float32 tensor, of one view in a list.

        Args:
            views: one view [N, C, H, W] of the size of the images.
            seed: of the draws of the codes; by default drawn.

        Raises:
            ValueError: there is not one view, or it is of another size.
        """
        error, kl = self.terms(only_view(views), seed=seed)
        return (error + self.beta * kl).mean() / math.prod(self.image_shape)

    def sample(self, n: int, *, seed: int = 0) -> Tensor:
        """Return pictures float32 [n, C, H, W] in [0, 1] of codes drawn from the standard normal distribution.

        Raises:
            ValueError: the decoder takes images besides, as `allow_identity` let it.
        """
        if self.decoder_sees_images:
            raise ValueError("decoder: got one that takes images besides the code; want one of the code alone")
        device = next(self.decoder.parameters()).device
        codes = torch.randn((n, *self.code_shape), generator=torch.Generator().manual_seed(seed)).to(device)
        with frozen(self):
            return transforms.to_pixels(self.decoder(codes))

    def pictures(self, images: Tensor, *, seed: int = 0) -> Pictures:
        """As for `Autoencoder`, and a row "sample": what the decoder makes of codes from the standard normal."""
        rows = super().pictures(images, seed=seed)
        return rows if self.decoder_sees_images else {**rows, "sample": self.sample(len(images), seed=seed)}


def _wide(x: Tensor) -> Tensor:
    """As float32 or better."""
    return x.to(torch.promote_types(torch.float32, x.dtype))
