"""Denoising autoencoder: corrupt an image, and reconstruct the clean one from the encoder's features."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .. import _checks, transforms
from ..functional import random_masking
from ._encoder import build_encoder, encode, encoder_width, fixed_size
from ._one_view import OneView, Pictures, Size, Transform, only_view

# Corruption -> its strength where none is given.
CORRUPTIONS = {"gaussian": 0.25, "dropout": 0.5, "mask": 0.5}


def denoising_loss(reconstruction: Tensor, clean: Tensor) -> Tensor:
    """Mean squared error to the clean input, in float32 or better; to the corrupted one, copying would be best."""
    wide = torch.promote_types(torch.float32, torch.promote_types(reconstruction.dtype, clean.dtype))
    return (reconstruction.to(wide) - clean).square().mean()


class DenoisingAutoencoder(OneView):
    """Denoising autoencoder: any encoder, and a decoder that makes the clean image from its features alone.

    The features [B, f] are the bottleneck; nothing else of the image reaches the decoder, a linear layer to a small map
    and convolutions that double it up to the image. One step is ``loss = method(method.augment(images))``.

    Args:
        encoder: a module [B, C, H, W] -> features [B, f] or [B, f, h, w] (averaged over h, w), or the name of a timm
            model, for RGB images.
        corruption: "gaussian": noise on every value; "dropout": single pixels become grey, all channels together;
            "mask": squares of an eighth of the image do.
        strength: "gaussian": standard deviation, >= 0, where black is 0 and white 1, by default 0.25; "dropout": the
            probability, "mask": the part of the squares, in [0, 1), by default 0.5.
        decoder_dim: channels of the small map, halved with each doubling down to 16.
        transform: a batch of uint8 images -> list of one float view; by default as for `MAE`.
        image_size: height and width of the images; by default those that the encoder takes, if it takes no others.
        feature_dim: f, where the encoder has no attribute `num_features` to tell.

    Raises:
        TypeError, ValueError: an argument is of another type or out of range.
        MissingExtraError: `encoder` is a name and timm is not installed.

    Source: Vincent et al. 2008, "Extracting and Composing Robust Features with Denoising Autoencoders".

    >>> method = fastssl.methods.DenoisingAutoencoder("resnet18", "gaussian", image_size=64)
    >>> original, corrupted, reconstruction = method.pictures(images[:8]).values()
    """

    def __init__(
        self,
        encoder: nn.Module | str,
        corruption: str = "gaussian",
        strength: float | None = None,
        decoder_dim: int = 128,
        transform: Transform | None = None,
        image_size: Size | None = None,
        feature_dim: int | None = None,
    ) -> None:
        encoder = build_encoder(encoder) if isinstance(encoder, str) else encoder
        width = encoder_width(encoder, feature_dim)
        if corruption not in CORRUPTIONS:
            raise ValueError(f"corruption: got {corruption!r}, want {', '.join(map(repr, CORRUPTIONS))}")
        strength = CORRUPTIONS[corruption] if strength is None else strength
        if corruption != "gaussian":
            _checks.fraction("strength", strength, below_one=True)
        elif isinstance(strength, bool) or not isinstance(strength, (int, float)) or not 0 <= strength < float("inf"):
            raise ValueError(f"strength: got {strength!r}, want a number >= 0")
        _checks.positive_int("decoder_dim", decoder_dim)
        size = image_size or fixed_size(encoder)
        if size is None:
            raise ValueError("image_size: got None, want that of the images, which the decoder has to make")
        super().__init__(transform, size)
        self.encoder, self.corruption, self.strength = encoder, corruption, float(strength)
        channels = next((m.in_channels for m in encoder.modules() if isinstance(m, nn.Conv2d)), 3)
        self.decoder = _Decoder(width, decoder_dim, channels, (size, size) if isinstance(size, int) else size)

    def corrupt(self, view: Tensor, *, seed: int | None = None) -> Tensor:
        """Return a corrupted copy of a view [N, C, H, W]; grey is 0, the mean of the images' statistics."""
        n, c, height, width = view.shape
        if self.corruption == "mask":
            return view * ~_squares(n, height, width, self.strength, seed, view.device)
        generator = None if seed is None else torch.Generator(view.device).manual_seed(seed)
        if self.corruption == "dropout":
            drawn = torch.rand((n, 1, height, width), generator=generator, device=view.device)
            return view * (drawn >= self.strength)
        noise = torch.randn(view.shape, generator=generator, device=view.device, dtype=view.dtype)
        std = torch.tensor(transforms.statistics(c)[1], device=view.device, dtype=view.dtype)[:, None, None]
        return view + noise * (self.strength / std)

    def forward(self, views: Sequence[Tensor], *, seed: int | None = None) -> Tensor:
        """Return the loss, a 0-d float32 tensor, of one view in a list.

        Args:
            views: one view [N, C, H, W] of the size of the images.
            seed: of the corruption; by default drawn.

        Raises:
            ValueError: there is not one view, or it is of another size.
        """
        clean = only_view(views)
        return denoising_loss(self._restore(self.corrupt(clean, seed=seed)), clean)

    def _restore(self, view: Tensor) -> Tensor:
        wanted = (self.decoder.channels, *self.decoder.sizes[-1])
        if view.shape[1:] != wanted:
            raise ValueError(f"views: got images {tuple(view.shape[1:])}, want {wanted}")
        made: Tensor = self.decoder(encode(self.encoder, view))
        return made

    def _pictures(self, view: Tensor, seed: int) -> Pictures:
        corrupted = self.corrupt(view, seed=seed)
        return {"original": view, "seen": corrupted, "reconstruction": self._restore(corrupted)}


class _Decoder(nn.Module):
    """Features [N, f] -> images [N, C, H, W]: a map of 4 to 7 pixels a side, doubled up to the image."""

    def __init__(self, width: int, dim: int, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        doublings = 0
        while min(size) >> (doublings + 1) >= 4:
            doublings += 1
        # Sides that are no power of two times a small one grow by a little less than two somewhere.
        self.sizes = [tuple(-(-side // 2**k) for side in size) for k in range(doublings, -1, -1)]
        self.channels = channels
        dims = [max(16, dim >> k) for k in range(doublings + 1)]
        self.dims = dims
        self.embed = nn.Linear(width, dims[0] * self.sizes[0][0] * self.sizes[0][1])
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU(inplace=True))
            for a, b in itertools.pairwise(dims)
        )
        self.last = nn.Conv2d(dims[-1], channels, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        x = self.embed(features).relu().view(len(features), self.dims[0], *self.sizes[0])
        for size, stage in zip(self.sizes[1:], self.stages, strict=True):
            x = stage(nn.functional.interpolate(x, size=size))
        made: Tensor = self.last(x)
        return made


def _squares(n: int, height: int, width: int, ratio: float, seed: int | None, device: torch.device) -> Tensor:
    """Bool [n, 1, height, width], true where a square of an eighth of the smaller side is hidden."""
    side = max(1, min(height, width) // 8)
    rows, columns = -(-height // side), -(-width // side)
    mask = random_masking(n, rows * columns, ratio, seed=seed, device=device).mask.view(n, 1, rows, columns).bool()
    mask = mask.repeat_interleave(side, 2).repeat_interleave(side, 3)
    return mask[..., :height, :width]
