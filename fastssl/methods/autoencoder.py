"""Autoencoder: squeeze an image into a code that is smaller than it, and reconstruct it from the code alone."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from .. import _checks, transforms
from ._decoders import make_decoder
from ._encoder import build_encoder, encoder_width, fixed_size, frozen, input_channels
from ._one_view import OneView, Pictures, Size, Transform, only_view


def denoising_loss(reconstruction: Tensor, clean: Tensor) -> Tensor:
    """Mean squared error to the clean input, in float32 or better; to the corrupted one, copying would be best."""
    wide = torch.promote_types(torch.float32, torch.promote_types(reconstruction.dtype, clean.dtype))
    return (reconstruction.to(wide) - clean).square().mean()


class Autoencoder(OneView):
    """Autoencoder: any encoder, and a decoder that makes the image of its code.

        loss = mean over images, channels and pixels of (decoder(code(x)) - x)^2, x normalised as encoders take it

    The code is what the encoder gives, features [B, f] or maps [B, f, h, w], or a linear layer's `code_dim` numbers of
    it. With an encoder of `mlp_encoder` the decoder is fully connected, too, and has its widths in the opposite order;
    with any other it is convolutional, and doubles small maps up to the image.

    The shortcut is the identity: a code as wide as the image, or a connection around it, lets the image through as it
    is, and the features need say nothing. Both are refused, the second where the decoder is the user's: it may take the
    code alone, and what it makes of a code must not depend on what the encoder saw otherwise.

    Args:
        encoder: a module [B, C, H, W] -> features [B, f] or maps [B, f, h, w], or the name of a timm model, for RGB
            images. Its C is that of its attribute `in_chans`, or else of its first convolution.
        code_dim: width of the code, or channels of a map; by default the features are the code.
        decoder: a module code -> images [B, C, H, W]; with `allow_identity` it may take the images as well.
        decoder_dim: channels of the smallest map of the default decoder, halved with each doubling down to 16.
        allow_identity: take a code as wide as the image, and a decoder with a connection around it.
        transform: a batch of uint8 images -> list of one float view; by default as for `MAE`.
        image_size: height and width of the images; by default those that the encoder takes, if it takes no others.
        feature_dim: f, where the encoder has no attribute `num_features` to tell.

    Raises:
        TypeError, ValueError: an argument is of another type or out of range, or allows for the identity.
        MissingExtraError: `encoder` is a name and timm is not installed.

    Source: Hinton and Salakhutdinov 2006, "Reducing the Dimensionality of Data with Neural Networks"; Masci et al.
    2011, "Stacked Convolutional Auto-Encoders for Hierarchical Feature Extraction"; here trained at once, not layer by
    layer.

    >>> method = fastssl.methods.Autoencoder(fastssl.methods.mlp_encoder(1, 8))
    >>> loss = method(method.augment(images))  # images uint8 [B, 1, 8, 8]
    """

    copying_is_best: ClassVar[bool] = True

    def __init__(
        self,
        encoder: nn.Module | str,
        code_dim: int | None = None,
        decoder: nn.Module | None = None,
        decoder_dim: int = 128,
        allow_identity: bool = False,
        transform: Transform | None = None,
        image_size: Size | None = None,
        feature_dim: int | None = None,
    ) -> None:
        encoder = build_encoder(encoder) if isinstance(encoder, str) else encoder
        encoder_width(encoder, feature_dim)
        _checks.positive_int("decoder_dim", decoder_dim)
        if code_dim is not None:
            _checks.positive_int("code_dim", code_dim)
        size = image_size or fixed_size(encoder)
        if size is None:
            raise ValueError("image_size: got None, want that of the images, which the decoder has to make")
        super().__init__(transform, size)
        self.encoder = encoder
        self.image_shape = (input_channels(encoder), *((size, size) if isinstance(size, int) else size))
        with frozen(encoder):
            self.features_shape = tuple(self._features(self._two_images()[:1]).shape[1:])
        self.code_dim, self.decoder_dim = code_dim, decoder_dim
        self.to_code = nn.Identity() if code_dim is None else linear(self.features_shape, code_dim)
        self.code_shape = self.features_shape if code_dim is None else (code_dim, *self.features_shape[1:])
        self.allow_identity = allow_identity
        if self.copying_is_best:
            self._check_width()
        self.decoder_sees_images = False
        if decoder is None:
            self.decoder = make_decoder(encoder, self.code_shape, decoder_dim, self.image_shape)
        else:
            self.decoder = decoder
            self._check_decoder()

    @property
    def compression(self) -> float:
        """How many times as many numbers an image has as its code: 2352 for 64 of 224 x 224 RGB pixels."""
        return math.prod(self.image_shape) / math.prod(self.code_shape)

    def code(self, view: Tensor) -> Tensor:
        """Return the codes [N, d] or [N, d, h, w] of a view [N, C, H, W]."""
        code: Tensor = self.to_code(self._checked_features(view))
        return code

    def decode(self, code: Tensor, view: Tensor) -> Tensor:
        """Return what the decoder makes of codes, [N, C, H, W]; where `allow_identity` let it, of views as well."""
        made: Tensor = self.decoder(code, view) if self.decoder_sees_images else self.decoder(code)
        return made

    def reconstruct(self, view: Tensor) -> Tensor:
        """Return what comes of a view [N, C, H, W] by its code."""
        return self.decode(self.code(view), view)

    def forward(self, views: Sequence[Tensor]) -> Tensor:
        """Return the loss, a 0-d float32 tensor, of one view in a list.

        Raises:
            ValueError: there is not one view, or it is of another size than the images.
        """
        view = only_view(views)
        return denoising_loss(self.reconstruct(view), view)

    def latents(self, images: Tensor) -> Tensor:
        """Return the codes float32 [N, d] of uint8 images [N, C, H, W]; numbers of maps row by row."""
        with frozen(self):
            return self.code(transforms.normalize(images)).flatten(1).float()

    def latent_sweep(
        self, images: Tensor, dims: Sequence[int] | None = None, steps: int = 7, span: float = 2.0
    ) -> Tensor:
        """Move one number of a code, hold the others, and show what the decoder makes of it.

        Args:
            images: uint8 [N, C, H, W], N >= 2: the code is that of the first, the spread of each number that of all.
            dims: the numbers to move; by default the three that differ most between the images.
            steps: pictures of each.
            span: from so many standard deviations below the code's own number to so many above it.

        Returns:
            float32 [len(dims), steps, C, H, W] in [0, 1].

        Raises:
            TypeError, ValueError: an argument is of another type or out of range.
        """
        _checks.positive_int("steps", steps)
        if len(images) < 2:
            raise ValueError(f"images: got {len(images)}, want at least 2, between which the codes differ")
        codes = self.latents(images)
        std = codes.std(0)
        width = codes.shape[1]
        if dims is None:
            dims = std.topk(min(3, width)).indices.tolist()
        for i, dim in enumerate(dims):
            _checks.int_in(f"dims[{i}]", dim, 0, width - 1)
        moves = torch.linspace(-span, span, steps, device=codes.device)
        moved = codes[0].repeat(len(dims), steps, 1)
        for row, dim in zip(moved, dims, strict=True):
            row[:, dim] += moves * std[dim]
        first = transforms.normalize(images[:1]).expand(len(dims) * steps, -1, -1, -1)
        with frozen(self):
            made = self.decode(moved.view(-1, *self.code_shape), first)
        return transforms.to_pixels(made).view(len(dims), steps, *self.image_shape)

    def pictures(self, images: Tensor, *, seed: int = 0) -> Pictures:
        """Show what the method makes of images; nothing of it changes.

        Args:
            images: uint8 [N, C, H, W], of the size that the encoder takes.
            seed: of what is random.

        Returns:
            Rows of pictures float32 [N, C, H, W] in [0, 1] by name: "original", "seen" where that is another,
            "reconstruction"; and of two images or more, a row for each of three numbers of the code of the first, which
            moves while the others are held.
        """
        rows = super().pictures(images, seed=seed)
        if len(images) > 1:
            dims = self.latents(images).std(0).topk(min(3, math.prod(self.code_shape))).indices.tolist()
            sweeps = self.latent_sweep(images, dims, len(images))
            rows.update((f"code {dim}", sweep) for dim, sweep in zip(dims, sweeps, strict=True))
        return rows

    def _pictures(self, view: Tensor, seed: int) -> Pictures:
        return {"original": view, "reconstruction": self.reconstruct(view)}

    def _checked_features(self, view: Tensor) -> Tensor:
        if tuple(view.shape[1:]) != self.image_shape:
            raise ValueError(f"views: got images {tuple(view.shape[1:])}, want {self.image_shape}")
        return self._features(view)

    def _features(self, view: Tensor) -> Tensor:
        features: Tensor = self.encoder(view)
        return features if features.ndim == 4 else features.flatten(1)

    def _check_width(self) -> None:
        code, image = math.prod(self.code_shape), math.prod(self.image_shape)
        if code >= image and not self.allow_identity:
            raise ValueError(
                f"encoder: got a code of {code} numbers for images of {image}, which it can copy without learning "
                "anything (the identity trap); want fewer, as code_dim makes them, or allow_identity=True"
            )

    def _check_decoder(self) -> None:
        """Refuse the user's decoder if anything but the code reaches it, or if it makes something else than images."""
        if not isinstance(self.decoder, nn.Module):
            raise TypeError(f"decoder: got {type(self.decoder).__name__}, want a torch.nn.Module")
        parameters = inspect.signature(self.decoder.forward).parameters.values()
        positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        self.decoder_sees_images = len([p for p in positional if p.default is p.empty]) > 1
        name = type(self.decoder).__name__
        trap = "around the bottleneck it could copy the image, and the code would learn nothing (the identity trap)"
        if self.decoder_sees_images and not self.allow_identity:
            raise ValueError(
                f"decoder: got {name}, which takes more than the code: {trap}; want one of the code alone, or "
                "allow_identity=True"
            )
        image, other = self._two_images().split(1)
        with frozen(self):
            code = self.code(image)
            made = [self._decode_again(code, image)]
            self.code(other)  # whose traces in the encoder, if it leaves any, are all that is new
            made.append(self._decode_again(code, image))
        if tuple(made[0].shape) != (1, *self.image_shape):
            raise ValueError(f"decoder: got images {tuple(made[0].shape[1:])} from {name}, want {self.image_shape}")
        if not torch.equal(*made) and not self.allow_identity:
            raise ValueError(
                f"decoder: got {name}, which makes another picture of the same code when the encoder has seen another "
                f"image: {trap}; want no connection but the code, or allow_identity=True"
            )

    def _decode_again(self, code: Tensor, view: Tensor) -> Tensor:
        """Decode with the same draws each time, if there are any."""
        with torch.random.fork_rng(devices=[code.device] if code.device.type == "cuda" else []):
            torch.manual_seed(0)
            return self.decode(code, view)

    def _two_images(self) -> Tensor:
        device = next((p.device for p in self.encoder.parameters()), torch.device("cpu"))
        drawn = torch.rand((2, *self.image_shape), generator=torch.Generator().manual_seed(0))
        return drawn.to(device)


def linear(shape: Sequence[int], width: int) -> nn.Module:
    """Make a linear layer from features of a shape (f,) or (f, h, w) to so many."""
    return nn.Linear(shape[0], width) if len(shape) == 1 else nn.Conv2d(shape[0], width, 1)
