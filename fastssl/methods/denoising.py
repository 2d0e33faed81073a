"""Denoising autoencoder: corrupt an image, and reconstruct the clean one from the code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from .. import _checks, transforms
from ..functional import random_masking
from ._one_view import Pictures, Size, Transform, only_view
from .autoencoder import Autoencoder, denoising_loss

# Corruption -> its strength where none is given.
CORRUPTIONS = {"gaussian": 0.25, "dropout": 0.5, "mask": 0.5}


class DenoisingAutoencoder(Autoencoder):
    """Denoising autoencoder: an `Autoencoder` that sees a corrupted image, and has to make the clean one.

        loss = mean over images, channels and pixels of (decoder(code(corrupted x)) - x)^2

    Copying what it sees would leave the corruption in, so the code may be as wide as the image; not so a connection
    around the code, by which decoder and encoder could mend the image together with nothing learnt in between.

    Args:
        encoder: a module [B, C, H, W] -> features [B, f] or maps [B, f, h, w], or the name of a timm model, for RGB
            images.
        corruption: "gaussian": noise on every value; "dropout": single pixels become grey, all channels together;
            "mask": squares of an eighth of the image do.
        strength: "gaussian": standard deviation, >= 0, where black is 0 and white 1, by default 0.25; "dropout": the
            probability, "mask": the part of the squares, in [0, 1), by default 0.5.
        decoder_dim, transform, image_size, feature_dim, code_dim, decoder, allow_identity: as for `Autoencoder`.

    Raises:
        TypeError, ValueError: an argument is of another type or out of range, or allows for the identity.
        MissingExtraError: `encoder` is a name and timm is not installed.

    Source: Vincent et al. 2008, "Extracting and Composing Robust Features with Denoising Autoencoders"; on wide codes
    Vincent et al. 2010, "Stacked Denoising Autoencoders", section 3.

    >>> method = fastssl.methods.DenoisingAutoencoder("resnet18", "gaussian", image_size=64)
    >>> original, corrupted, reconstruction, *sweep = method.pictures(images[:8]).values()
    """

    copying_is_best: ClassVar[bool] = False

    def __init__(
        self,
        encoder: nn.Module | str,
        corruption: str = "gaussian",
        strength: float | None = None,
        decoder_dim: int = 128,
        transform: Transform | None = None,
        image_size: Size | None = None,
        feature_dim: int | None = None,
        code_dim: int | None = None,
        decoder: nn.Module | None = None,
        allow_identity: bool = False,
    ) -> None:
        if corruption not in CORRUPTIONS:
            raise ValueError(f"corruption: got {corruption!r}, want {', '.join(map(repr, CORRUPTIONS))}")
        strength = CORRUPTIONS[corruption] if strength is None else strength
        if corruption != "gaussian":
            _checks.fraction("strength", strength, below_one=True)
        elif isinstance(strength, bool) or not isinstance(strength, (int, float)) or not 0 <= strength < float("inf"):
            raise ValueError(f"strength: got {strength!r}, want a number >= 0")
        super().__init__(encoder, code_dim, decoder, decoder_dim, allow_identity, transform, image_size, feature_dim)
        self.corruption, self.strength = corruption, float(strength)
        if self.strength == 0:
            self._check_width()

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
        return denoising_loss(self.reconstruct(self.corrupt(clean, seed=seed)), clean)

    def _pictures(self, view: Tensor, seed: int) -> Pictures:
        corrupted = self.corrupt(view, seed=seed)
        return {"original": view, "seen": corrupted, "reconstruction": self.reconstruct(corrupted)}


def _squares(n: int, height: int, width: int, ratio: float, seed: int | None, device: torch.device) -> Tensor:
    """Bool [n, 1, height, width], true where a square of an eighth of the smaller side is hidden."""
    side = max(1, min(height, width) // 8)
    rows, columns = -(-height // side), -(-width // side)
    mask = random_masking(n, rows * columns, ratio, seed=seed, device=device).mask.view(n, 1, rows, columns).bool()
    mask = mask.repeat_interleave(side, 2).repeat_interleave(side, 3)
    return mask[..., :height, :width]
