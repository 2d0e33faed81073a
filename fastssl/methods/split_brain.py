"""Split-brain autoencoder: one half of the network tells colours from lightness, the other lightness from colours."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .. import _checks, transforms
from ..functional import ab_bins, lab_bins, sparse_cross_entropy
from ._color import ColorMethod, MapDecoder, SplitBrainEncoder, annealed_mean, dense_encoder, lab_to_rgb, rgb_to_lab
from ._encoder import fixed_size, frozen, rebuild, recipe_of
from ._one_view import Size, Transform

LEVELS = 100  # of lightness


class SplitBrain(ColorMethod):
    """Split-brain autoencoder: two encoders, each of which tells of every place what only the other one sees.

    With t the weights of the ten nearest of 313 points of the colour (a, b) of a place as for `Colorization`, l its
    lightness floor(L) in 0 .. 99, and z, y the logits of the two halves there:

        loss = mean over images and places of -sum_k t_k log softmax(z(L))_k - log softmax(y(a, b))_l

    Features are those of both halves, one behind the other, so that all of an image is seen, and neither half can copy
    what it has to tell. `encoder` takes normalised RGB images. One training step is
    ``loss = method(method.augment(images))``.

    Args:
        encoder: the half that sees lightness: a module [B, 1, H, W] -> features; or [B, 3, H, W], which gets the
            lightness in each channel; or the name of a timm model, for both halves.
        color_encoder: the half that sees colours: a module [B, 2, H, W] -> features. By default another one is made as
            `encoder` was by `build_encoder` or timm. The authors' are the halves of one network: of half its width.
        stride: every stride-th row and column is told.
        decoder_dim: width of the decoders.
        transform: a batch of uint8 images -> list of one float view; by default as for `MAE`.
        image_size: height and width of the views; by default those that the encoder takes, if it takes no others.
        feature_dim: f of either half, where they have no attribute `num_features` to tell.

    Raises:
        TypeError, ValueError: an argument is of another type or out of range, or it is not known how `encoder` was
            made and no other is given.
        MissingExtraError: `encoder` is a name and timm is not installed.

    Source: Zhang, Isola and Efros 2017, "Split-Brain Autoencoders: Unsupervised Learning by Cross-Channel Prediction",
    with other networks.

    >>> method = fastssl.methods.SplitBrain("resnet18")
    >>> image, from_lightness, from_colour = method.pictures(images[:8]).values()
    """

    def __init__(
        self,
        encoder: nn.Module | str,
        color_encoder: nn.Module | None = None,
        stride: int = 4,
        decoder_dim: int = 256,
        transform: Transform | None = None,
        image_size: Size | None = None,
        feature_dim: int | None = None,
    ) -> None:
        for name, value in (("stride", stride), ("decoder_dim", decoder_dim)):
            _checks.positive_int(name, value)
        if isinstance(encoder, str):
            color_encoder = dense_encoder(encoder, 2, image_size) if color_encoder is None else color_encoder
            encoder = dense_encoder(encoder, 1, image_size)
        halves = SplitBrainEncoder(encoder, color_encoder or _alike(encoder), feature_dim)
        super().__init__(transform, image_size or fixed_size(encoder))
        self.encoder: SplitBrainEncoder = halves
        self.stride = stride
        of_lightness, of_colors = halves.widths
        self.color_decoder = MapDecoder(of_lightness, decoder_dim, len(ab_bins()))
        self.lightness_decoder = MapDecoder(of_colors, decoder_dim, LEVELS)

    def predict(self, lab: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits of the colours [N, 313, h, w] and of the lightness [N, 100, h, w] of Lab [N, 3, H, W]."""
        size = [-(-side // self.stride) for side in lab.shape[2:]]
        from_lightness, from_colors = self.encoder.maps(lab)
        return self.color_decoder(from_lightness, size), self.lightness_decoder(from_colors, size)

    def forward(self, views: Sequence[Tensor]) -> Tensor:
        """Return the loss, a 0-d float32 tensor, of one view in a list.

        Raises:
            ValueError: there is not one view, or it is grey.
        """
        view = self.only_view(views)
        mean, std = transforms.statistics(3)
        lab, index, weight = lab_bins(view, stride=self.stride, mean=mean, std=std)
        of_colors, of_lightness = self.predict(lab)
        level = lab[:, :1, :: self.stride, :: self.stride].clamp(0, LEVELS - 1).int()
        return sparse_cross_entropy(of_colors, index, weight) + sparse_cross_entropy(
            of_lightness, level, torch.ones_like(level, dtype=torch.float32)
        )

    def pictures(self, images: Tensor, *, seed: int = 0) -> dict[str, Tensor]:
        """Show what the method makes of images; nothing of it changes.

        Args:
            images: uint8 [N, 3, H, W].
            seed: of nothing, as nothing is drawn.

        Returns:
            Rows of pictures float32 [N, 3, H, W] in [0, 1]: "image"; "from lightness", which is given the colours that
            its half tells; and "from colour", whose colours are given the lightness that theirs tells. Each is the
            annealed mean, as for `Colorization`.
        """
        picture = images.float() / 255
        lab = rgb_to_lab(picture)
        with frozen(self):
            of_colors, of_lightness = self.predict(lab)
        levels = torch.arange(LEVELS, device=lab.device)[:, None] + 0.5
        colors = annealed_mean(of_colors, ab_bins(lab.device), lab.shape[2:])
        lightness = annealed_mean(of_lightness, levels, lab.shape[2:])
        return {
            "image": picture,
            "from lightness": lab_to_rgb(torch.cat([lab[:, :1], colors], 1)),
            "from colour": lab_to_rgb(torch.cat([lightness, lab[:, 1:]], 1)),
        }


def _alike(encoder: nn.Module) -> nn.Module:
    """Make an encoder of colours as another one was made."""
    recipe = recipe_of(encoder)
    if recipe is None or "in_chans" not in recipe:
        raise ValueError("color_encoder: got None for an encoder that timm cannot make, want a module [B, 2, H, W]")
    return rebuild({**recipe, "in_chans": 2})
