"""What methods have in common that compare global views of an image with smaller, local ones."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .. import _checks, transforms
from ..functional import Recipe, View
from ._encoder import build_for_any_size, encode, fixed_size
from ._two_views import Transform, TwoViews

GLOBAL_VIEWS = 2


class MultiCrop(TwoViews):
    """Base of methods with two global views of each image, which make the targets, and `local_views` smaller ones.

    Args:
        encoder: a module images -> features, or the name of a timm model, made such that it takes images of any size.
        transform: a batch of uint8 images -> list of float views, two global ones first; by default `recipe`.
        image_size: height and width of the global views of the default transform.
        feature_dim: width of the features, where the encoder does not tell.
        local_views: local views of the default transform.
        local_size: their height and width, of whole patches for a vision transformer; by default 3/7 of the global
            views' (96 of 224), and half of them up to 64 pixels.
        steps_per_epoch: of the schedules that count epochs.
    """

    def __init__(
        self,
        encoder: nn.Module | str,
        transform: Transform | None,
        image_size: int | None,
        feature_dim: int | None,
        local_views: int,
        local_size: int | None,
        steps_per_epoch: int | None,
    ) -> None:
        _checks.count("local_views", local_views)
        for name, value in (("local_size", local_size), ("steps_per_epoch", steps_per_epoch)):
            if value is not None:
                _checks.positive_int(name, value)
        if isinstance(encoder, str):
            encoder = build_for_any_size(encoder)
        super().__init__(encoder, transform, image_size, feature_dim)
        self.local_views, self.local_size, self.steps_per_epoch = local_views, local_size, steps_per_epoch

    def recipe(self, channels: int, size: int) -> transforms.Transform:
        """Return the default transform for images of so many channels, with global views of so many pixels."""
        local_size = self.local_size or default_local_size(self.encoder, size)
        if size > 64:
            return self.published(size, local_size)
        # As SimCLR's for small images. The less of a small image is in a crop, the less it says about the image.
        mild: dict[str, Any] = {"jitter": (0.4, 0.4, 0.4, 0.1), "jitter_p": 0.8, "gray_p": 0.2}
        if channels == 1 and size <= 16:
            mild = {"jitter": mild["jitter"], "jitter_p": 0.8, "hflip_p": 0.0}
            large, small = View(size, (0.5, 1.0), **mild), View(local_size, (0.3, 0.5), **mild)
        else:
            large, small = View(size, (0.3, 1.0), **mild), View(local_size, (0.1, 0.3), **mild)
        recipe = Recipe((*(large,) * GLOBAL_VIEWS, *(small,) * self.local_views))
        return transforms.Transform(recipe, memory_format=torch.channels_last)

    def published(self, size: int, local_size: int) -> transforms.Transform:
        """Return the published transform for large images."""
        raise NotImplementedError

    def features(self, views: Sequence[Tensor]) -> Tensor:
        """Return the features [V B, f] of all views, view by view; neighbours of one size are encoded in one pass."""
        sizes = itertools.groupby(views, key=lambda view: view.shape[-2:])
        return torch.cat([encode(self.encoder, torch.cat(list(of_one_size))) for _, of_one_size in sizes])

    def steps(self, epochs: int) -> int:
        """Return the number of steps in so many epochs.

        Raises:
            ValueError: it is not known how many steps an epoch has.
        """
        if epochs == 0:
            return 0
        if self.steps_per_epoch is None:
            raise ValueError(
                "steps_per_epoch: got None, want the steps of an epoch, such as len(loader), in which schedules count; "
                "fastssl.fit sets it"
            )
        return epochs * self.steps_per_epoch

    def check(self, views: Sequence[Tensor]) -> int:
        """Check the views, and return how many images they are of.

        Raises:
            ValueError: there are fewer than two, they are of different images, or the encoder does not take their size.
        """
        if len(views) < GLOBAL_VIEWS or views[0].shape[-2:] != views[1].shape[-2:]:
            got = f"sizes {[tuple(v.shape[-2:]) for v in views]}" if len(views) > 1 else str(len(views))
            raise ValueError(f"views: got {got}, want two global views of one size, and local ones after them")
        for view in views[1:]:
            if len(view) != len(views[0]):
                raise ValueError(
                    f"views: got {len(views[0])} and {len(view)} images, want the same number in each view"
                )
        only = fixed_size(self.encoder)
        for view in views:
            if only is not None and tuple(view.shape[-2:]) != only:
                raise ValueError(
                    f"views: got {tuple(view.shape[-2:])} pixels for an encoder that takes {only} alone; make it with "
                    "dynamic_img_size=True, or take no views of other sizes"
                )
        return len(views[0])


def default_local_size(encoder: nn.Module, size: int) -> int:
    """Return the height and width of local views: 3/7 of the global ones', or half, in whole patches."""
    patch = getattr(getattr(encoder, "patch_embed", None), "patch_size", 1)
    side = int(patch[0] if isinstance(patch, tuple) else patch)
    return max(1, round(size * (0.5 if size <= 64 else 3 / 7) / side)) * side


@torch.no_grad()
def clip_each(parameters: Iterable[nn.Parameter], limit: float) -> None:
    """Scale the gradient of each parameter down to the norm `limit`, where it is longer; nothing waits for the device.

    As ``torch.nn.utils.clip_grad_norm_`` of each parameter by itself.
    """
    grads = [p.grad for p in parameters if p.grad is not None]
    if grads:
        scales = (limit / (torch.stack(torch._foreach_norm(grads)) + 1e-6)).clamp(max=1)
        torch._foreach_mul_(grads, list(scales.unbind()))
