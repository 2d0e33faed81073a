"""Video colourisation: point at the places of earlier frames from which a grey frame could take its colours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import _checks, transforms
from .._images import RaggedImages
from ._clips import moving, pick_frames
from ._color import LightnessInput, check_colored, dense_encoder, kmeans, lab_to_rgb, rgb_to_lab
from ._encoder import fixed_size, frozen
from ._one_view import OneView, Size, Transform


class VideoColorization(OneView):
    """Video colourisation: an encoder that sees grey frames, and finds every place of the last in those before it.

    With f_i the features [64] of place i of the target frame, f_j those of place j of any reference frame of the clip,
    and c their colours, each the nearest of 16 clusters of (a, b):

        A_ij = exp(<f_i, f_j> / temperature) / sum_j' exp(<f_i, f_j'> / temperature)
        loss = mean over clips and places i of -log sum_{j: c_j = c_i} A_ij

    the cross-entropy of the probability that the pointer gives to the colour which is there. It is 0 where the pointer
    is right, and the entropy of the references' colours where it points anywhere. Places whose colour no reference has
    do not count, as nothing could be pointed at. A is never stored where PyTorch has a fused attention.

    Clips come as they are, from `fastssl.data.clips`, of which consecutive frames are taken; or they are made of images
    that drift, turn and zoom, with pieces of other images moving before them. What tells where things are in a grey
    frame is learnt on the way, and masks can be carried along by it: `fastssl.evaluate.label_propagation`.

    `encoder` takes normalised RGB images, as any other, and shows their lightness to the encoder that it is made of.
    One training step is ``loss = method(method.augment(images))``.

    Args:
        encoder: a module [B, 1, H, W] -> features; or [B, 3, H, W], which gets the lightness in each channel; or the
            name of a timm model, a ResNet of which is made with a map of an eighth of the image's height and width.
            What is learnt from are its features before they are pooled, ``forward_features`` of timm.
        references: frames before the target.
        clusters: of colours.
        embed_dim: width of f.
        temperature: > 0.
        transform: a batch of uint8 images -> list of one float view, of which a clip is made; by default as for `MAE`.
        image_size: height and width of the frames; by default those that the encoder takes, if it takes no others.
        feature_dim: width of the encoder's features, where it has no attribute `num_features` to tell.

    Raises:
        TypeError, ValueError: an argument is of another type or out of range.
        MissingExtraError: `encoder` is a name and timm is not installed.

    The clusters are those of k-means on the colours of the first batch in training mode, and stay; they are in the
    state dict.

    Source: Vondrick et al. 2018, "Tracking Emerges by Colorizing Videos", with another network, whose frames do not see
    each other.

    >>> method = fastssl.methods.VideoColorization("resnet18")
    >>> fastssl.fit(method, fastssl.data.clips(500))
    >>> fastssl.evaluate.label_propagation(method.encoder, fastssl.data.clips(100, seed=1)).similarity
    """

    channels: ClassVar[int] = 3  # of the images that it learns from, which `fastssl.fit` checks
    clusters: Tensor

    def __init__(
        self,
        encoder: nn.Module | str,
        references: int = 3,
        clusters: int = 16,
        embed_dim: int = 64,
        temperature: float = 1.0,
        transform: Transform | None = None,
        image_size: Size | None = None,
        feature_dim: int | None = None,
    ) -> None:
        for name, value in (("references", references), ("clusters", clusters), ("embed_dim", embed_dim)):
            _checks.positive_int(name, value)
        _checks.positive_scalar("temperature", temperature, torch.device("cpu"))
        encoder = dense_encoder(encoder, 1, image_size) if isinstance(encoder, str) else encoder
        super().__init__(transform, image_size or fixed_size(encoder))
        self.encoder: LightnessInput = LightnessInput(encoder, feature_dim)
        self.embed = nn.Conv2d(self.encoder.num_features, embed_dim, 1)
        self.references, self.temperature = references, float(temperature)
        self.register_buffer("clusters", torch.zeros(clusters, 2))
        self.clustered = False

    def get_extra_state(self) -> Tensor:
        """Return what the state dict keeps besides tensors: whether the clusters have been found."""
        return torch.tensor(self.clustered)

    def set_extra_state(self, state: Tensor) -> None:
        """Take it back."""
        self.clustered = bool(state)

    def augment(self, images: Tensor | RaggedImages) -> list[Tensor]:
        """Return the frames of clips, the target last: float32 [B, 3, H, W] each, of uint8 images or clips.

        Args:
            images: [B, 3, H, W] or `RaggedImages`, of which clips are made; or clips [B, T, 3, H, W], of which
                consecutive frames are taken.

        Raises:
            ValueError: the images are grey, or the clips too short.
        """
        check_colored(self, "images", images)
        if isinstance(images, Tensor) and images.ndim == 5:
            return pick_frames(images, self.references + 1, self.image_size)
        (view,) = super().augment(images)
        return moving(view, self.references + 1)

    def forward(self, views: Sequence[Tensor]) -> Tensor:
        """Return the loss, a 0-d float32 tensor, of the frames of clips, of which the last is the target.

        Raises:
            ValueError: there are fewer than two frames, or they are grey.
        """
        features, colors = self.look(views)
        if self.training and not self.clustered:
            self.clusters.copy_(kmeans(colors.movedim(2, -1).flatten(0, -2), len(self.clusters)))
            self.clustered = True
        return pointer_loss(features, self.nearest(colors), len(self.clusters), self.temperature)

    def look(self, views: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return features [T, B, d, h, w] and colours [T, B, 2, h, w] of frames [B, 3, H, W]."""
        if len(views) < 2:
            raise ValueError(f"views: got {len(views)} frames, want a reference and a target at least")
        check_colored(self, "views", views[0])
        lab = rgb_to_lab(transforms.to_pixels(torch.cat(list(views))))
        features = self.embed(self.encoder.map(lab))
        colors = F.adaptive_avg_pool2d(lab[:, 1:], features.shape[2:])
        return tuple(x.unflatten(0, (len(views), -1)) for x in (features, colors))  # type: ignore[return-value]

    def nearest(self, colors: Tensor) -> Tensor:
        """Return the nearest cluster [T, B, h, w] of colours [T, B, 2, h, w]."""
        return torch.cdist(colors.movedim(2, -1), self.clusters).argmin(-1)

    def pictures(self, images: Tensor, *, seed: int = 0) -> dict[str, Tensor]:
        """Show what the method makes of images; nothing of it changes.

        Args:
            images: uint8 [N, 3, H, W], of which clips are made, or clips [N, T, 3, H, W].
            seed: of the motion.

        Returns:
            Rows of pictures float32 [N, 3, H, W] in [0, 1]: "reference", the first frame; "target in grey"; "colours
            pointed at", those of the references, in the mean under the pointer; and "target".
        """
        check_colored(self, "images", images)
        with frozen(self), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if images.ndim == 5:
                views = pick_frames(images, self.references + 1, self.image_size)
            else:
                views = moving(transforms.normalize(images), self.references + 1)
            features, colors = self.look(views)
            values = colors[:-1].permute(1, 0, 3, 4, 2).flatten(1, 3)
            pointed = point(features, values, self.temperature).mT.unflatten(2, features.shape[3:])
        first, target = (transforms.to_pixels(views[at]) for at in (0, -1))
        lightness = rgb_to_lab(target)[:, :1]
        pointed = F.interpolate(pointed, size=target.shape[2:], mode="bilinear")
        return {
            "reference": first,
            "target in grey": lab_to_rgb(torch.cat([lightness, torch.zeros_like(pointed)], 1)),
            "colours pointed at": lab_to_rgb(torch.cat([lightness, pointed], 1)),
            "target": target,
        }


def point(features: Tensor, values: Tensor, temperature: float) -> Tensor:
    """Return the mean [B, h w, c] of values [B, (T - 1) h w, c] at which the last frame's places point.

    Args:
        features: [T, B, d, h, w] of T - 1 references and the target.
        values: of each place of the references, frame by frame.
        temperature: of the pointer.
    """
    features = features.flatten(3).transpose(2, 3)
    keys, queries = features[:-1].transpose(0, 1).flatten(1, 2), features[-1]
    # Fused attention wants values as wide as keys, and rows without gaps; further zeros in both change nothing.
    width = max(keys.shape[-1], values.shape[-1])
    q, k, v = (F.pad(x, (0, width - x.shape[-1])).contiguous()[:, None] for x in (queries, keys, values.to(keys)))
    return F.scaled_dot_product_attention(q, k, v, scale=1 / temperature)[:, 0, :, : values.shape[-1]]


def pointer_loss(features: Tensor, labels: Tensor, classes: int, temperature: float = 1.0) -> Tensor:
    """Return the mean of -log p_i, p_i the probability that the pointer gives to the label of place i of the target.

    Args:
        features: [T, B, d, h, w] of T - 1 references and the target.
        labels: int64 [T, B, h, w] in [0, classes); places of the target whose label no reference has do not count.
        classes: their number.
        temperature: of the pointer.

    Returns:
        A 0-d float32 tensor (float64 for float64 features), at least 0; 0 where no place counts.
    """
    exact = torch.promote_types(features.dtype, torch.float32)
    with torch.autocast(features.device.type, enabled=False):
        values = F.one_hot(labels[:-1].transpose(0, 1).flatten(1), classes).to(exact)
        pointed = point(features.to(exact), values, temperature)
    wanted = labels[-1].flatten(1)
    p = pointed.gather(2, wanted[..., None])[..., 0]
    counts = values.amax(1).gather(1, wanted)
    nll = -p.clamp_min(torch.finfo(exact).tiny).log()
    return (nll * counts).sum() / counts.sum().clamp_min(1)
