"""Inpainting: fill a hole in an image, by an encoder of its surroundings, a decoder and an adversary."""

from __future__ import annotations

from collections.abc import Sequence
from types import EllipsisType
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from .. import _checks
from ..functional import blockwise_masking
from ._decoders import ConvDecoder
from ._encoder import build_encoder, encode, encoder_width, fixed_size, input_channels
from ._one_view import OneView, Pictures, Size, Transform, only_view

REGIONS = ("center", "blocks")
CELLS = 8  # a side, of which blocks are made


class ContextEncoder(OneView):
    """Context encoder: an encoder of an image with a hole, a decoder that fills it, and a discriminator of the filling.

    The features [B, f] are the bottleneck. The decoder makes a region: the hole and a band around it, which the encoder
    sees. With target x, filling y, weight w = 1 in the hole and `overlap_weight` in the band, and discriminator D,

        loss = (1 - a) mean(w (x - y)^2) + a mean(-log sigmoid(D(y))),    a = adversarial

    The discriminator learns in the same step. Its own loss, mean(-log sigmoid(D(x)) - log(1 - sigmoid(D(y)))), reaches
    its parameters alone and the other two terms all parameters but these, so that one optimizer of
    ``method.parameters()`` and one backward pass serve both, in any loop, and a run resumes with the optimizer's state.
    The value that `forward` returns does not count the discriminator's loss, so that it falls as the fillings improve.
    One step is ``loss = method(method.augment(images))``.

    What would fill a hole without a look at what is in the image: the neighbours of its pixels, of which a small hole
    is an interpolation. So it is one large region (`hole`), of which nothing reaches the encoder; and the band, in
    which an error costs ten times as much (`overlap`, `overlap_weight`), makes the filling continue its surroundings.

    Args:
        encoder: a module [B, C, H, W] -> features [B, f] or [B, f, h, w] (averaged over h, w), or the name of a timm
            model, for RGB images.
        region: "center": a square in the middle; "blocks": rectangles anywhere, which may overlap.
        hole: side of the region as a fraction of the image's, in (0, 1); blocks have the area of such a square.
        overlap: width of the band as a fraction of the image's smaller side, in [0, 1), at least a pixel unless 0.
            In the middle it is part of the region; around blocks it comes to them.
        overlap_weight: > 0, of the squared error in the band.
        adversarial: a, in [0, 1); 0 makes no discriminator.
        decoder_dim: channels of the decoder's small map, halved with each doubling down to 16.
        discriminator_dim: channels of the discriminator's first map, doubled with each halving up to 512.
        transform: a batch of uint8 images -> list of one float view; by default as for `MAE`.
        image_size: height and width of the images; by default those that the encoder takes, if it takes no others.
        feature_dim: f, where the encoder has no attribute `num_features` to tell.

    Raises:
        TypeError, ValueError: an argument is of another type or out of range.
        MissingExtraError: `encoder` is a name and timm is not installed.

    Source: Pathak et al. 2016, "Context Encoders: Feature Learning by Inpainting", and its code.

    >>> method = fastssl.methods.ContextEncoder("resnet18", image_size=128)
    >>> image, hole, filled = method.pictures(images[:8]).values()
    """

    # Of the authors, whose weight decay is none.
    defaults: ClassVar[dict[str, Any]] = {"betas": (0.5, 0.999), "weight_decay": 0.0}

    def __init__(
        self,
        encoder: nn.Module | str,
        region: str = "center",
        hole: float = 0.5,
        overlap: float = 1 / 32,
        overlap_weight: float = 10.0,
        adversarial: float = 0.001,
        decoder_dim: int = 512,
        discriminator_dim: int = 64,
        transform: Transform | None = None,
        image_size: Size | None = None,
        feature_dim: int | None = None,
    ) -> None:
        encoder = build_encoder(encoder) if isinstance(encoder, str) else encoder
        width = encoder_width(encoder, feature_dim)
        if region not in REGIONS:
            raise ValueError(f"region: got {region!r}, want {', '.join(map(repr, REGIONS))}")
        _checks.fraction("hole", hole, below_one=True)
        _checks.fraction("overlap", overlap, below_one=True)
        _checks.fraction("adversarial", adversarial, below_one=True)
        _checks.scalar("overlap_weight", overlap_weight, torch.device("cpu"), positive=True)
        _checks.positive_int("decoder_dim", decoder_dim)
        _checks.positive_int("discriminator_dim", discriminator_dim)
        size = image_size or fixed_size(encoder)
        if size is None:
            raise ValueError("image_size: got None, want that of the images, in which the decoder has to fill a hole")
        super().__init__(transform, size)
        self.encoder, self.region, self.hole = encoder, region, float(hole)
        self.overlap_weight, self.adversarial = float(overlap_weight), float(adversarial)
        sides = (size, size) if isinstance(size, int) else size
        self.shape = (input_channels(encoder), *sides)
        self.band = max(1, round(overlap * min(sides))) if overlap else 0
        # Of the image, what the decoder makes: the region, or all of it where the region may be anywhere.
        made = (round(hole * sides[0]), round(hole * sides[1])) if region == "center" else sides
        if region == "center" and min(made) <= 2 * self.band:
            raise ValueError(
                f"hole: got {hole}, a region of {made[0]} x {made[1]} pixels, want more than twice the {self.band} of "
                "the band around the hole in it"
            )
        self.made, self.box = made, _middle(sides, made)
        self.decoder = ConvDecoder((width,), decoder_dim, (self.shape[0], *made))
        self.discriminator = Discriminator((self.shape[0], *made), discriminator_dim) if adversarial else None

    def hide(self, n: int, device: torch.device, *, seed: int | None = None) -> tuple[Tensor, Tensor]:
        """Return where the hole and the band of n images are: bool [n, 1, H, W] each."""
        _, height, width = self.shape
        if self.region == "center":
            hidden = torch.zeros((n, 1, height, width), dtype=torch.bool, device=device)
            rows, columns = (side - 2 * self.band for side in self.made)
            hidden[_middle((height, width), (rows, columns))] = True
        else:
            cell = max(1, min(height, width) // CELLS)
            rows, columns = -(-height // cell), -(-width // cell)
            wanted = max(1, round(self.hole**2 * rows * columns))
            least = max(1, wanted // 4)
            mask = blockwise_masking(n, (rows, columns), wanted, min_patches=least, seed=seed, device=device)
            hidden = mask.view(n, 1, rows, columns).repeat_interleave(cell, 2).repeat_interleave(cell, 3)
            hidden = hidden[..., :height, :width]
        around = F.max_pool2d(hidden.float(), 2 * self.band + 1, 1, self.band) > 0
        return hidden, around & ~hidden

    def fill(self, view: Tensor, hidden: Tensor) -> Tensor:
        """Return what the decoder makes [N, C, h, w] of views of which it does not see what is hidden."""
        made: Tensor = self.decoder(encode(self.encoder, view.masked_fill(hidden, 0)))
        return made.to(torch.promote_types(made.dtype, torch.float32))

    def forward(self, views: Sequence[Tensor], *, seed: int | None = None) -> Tensor:
        """Return the loss, a 0-d float32 tensor, of one view in a list.

        Args:
            views: one view [N, C, H, W] of the size of the images.
            seed: of the blocks; by default drawn.

        Raises:
            ValueError: there is not one view, or it is of another size.
        """
        view = self._fitting(only_view(views))
        hidden, band = self.hide(len(view), view.device, seed=seed)
        made = self.fill(view, hidden)
        target, hidden, band = (x[self.box] for x in (view, hidden, band))
        weight = hidden + self.overlap_weight * band
        errors = (weight * (made - target).square()).sum() / (self.shape[0] * (hidden | band).sum())
        loss = (1 - self.adversarial) * errors
        if self.discriminator is None:
            return loss
        filled = torch.where(hidden | band, made, target)
        fixed = {name: p.detach() for name, p in self.discriminator.named_parameters()}
        loss = loss + self.adversarial * F.softplus(-functional_call(self.discriminator, fixed, filled)).mean()
        judged = F.softplus(-self.discriminator(target)) + F.softplus(self.discriminator(filled.detach()))
        return loss + (judged - judged.detach()).mean()  # a gradient for the discriminator, of value 0

    def _fitting(self, view: Tensor) -> Tensor:
        if view.shape[1:] != self.shape:
            raise ValueError(f"views: got images {tuple(view.shape[1:])}, want {self.shape}")
        return view

    def _pictures(self, view: Tensor, seed: int) -> Pictures:
        hidden, _ = self.hide(len(self._fitting(view)), view.device, seed=seed)
        filled = view.clone()
        filled[self.box] = self.fill(view, hidden).to(view.dtype)
        return {
            "image": view,
            "with a hole": view.masked_fill(hidden, 0),
            "filled in": torch.where(hidden, filled, view),
        }


def _middle(whole: tuple[int, int], part: tuple[int, int]) -> tuple[EllipsisType, slice, slice]:
    """Return the index of so many rows and columns in the middle of an image."""
    rows, columns = (slice((w - p) // 2, (w - p) // 2 + p) for w, p in zip(whole, part, strict=True))
    return ..., rows, columns


class Discriminator(nn.Module):
    """Images [N, C, H, W] -> logits [N] of being real: convolutions that halve the map down to 4 to 7 pixels a side."""

    def __init__(self, image: tuple[int, ...], dim: int) -> None:
        super().__init__()
        channels, height, width = image
        layers: list[nn.Module] = [nn.Conv2d(channels, dim, 3, padding=1), nn.LeakyReLU(0.2)]
        while min(height, width) >= 8:
            wider = min(512, 2 * dim)
            # A norm of each image by itself: no statistics of real and made ones that differ.
            layers += [nn.Conv2d(dim, wider, 4, 2, 1, bias=False), nn.GroupNorm(1, wider), nn.LeakyReLU(0.2)]
            dim, height, width = wider, height // 2, width // 2
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(dim * height * width, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, in float32 or better."""
        logits: Tensor = self.layers(images)[:, 0]
        return logits.to(torch.promote_types(logits.dtype, torch.float32))
