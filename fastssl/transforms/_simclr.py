from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from . import _batched
from ._normalize import check_images, standardize

Transform: TypeAlias = Callable[[Tensor], list[Tensor]]  # uint8 [B, C, H, W] -> views float [B, C, h, w]

_JITTER = (_batched.brightness, _batched.contrast, _batched.saturation, _batched.hue)


class SimCLR:
    """The augmentation of SimCLR: crop, flip, colour jitter, grey, blur, normalise.

    Called with uint8 images [B, C, H, W] on any device, returns `views` float32 tensors [B, C, size, size] there,
    in channels_last memory, which convolutions are faster in.
    Every sample has parameters of its own, the order of the colour steps included. Reference: torchvision's v2
    transforms on float tensors. The draws come from `generator`, a CPU generator, or from the default one, so
    `torch.manual_seed` governs them on every device. Grey images (C 1) are never tinted.

    Args:
        size: height and width of the views in pixels.
        views: how many views of each image.
        scale: least and greatest area of the crop as a fraction of the image.
        jitter: greatest change of brightness, contrast, saturation (0 to 1) and hue (0 to 0.5 turns).
        jitter_p, gray_p, blur_p, flip_p: probability of each step.
        rotation: greatest rotation in degrees, either way.

    Raises:
        ValueError: a size, probability or range is out of bounds. On a call TypeError or ValueError where the
            images are not uint8 [B, C, H, W] with C 1 or 3.

    Source: Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations", appendix A.

    >>> view0, view1 = fastssl.transforms.SimCLR(size=224)(images)
    """

    def __init__(
        self,
        size: int = 224,
        *,
        views: int = 2,
        scale: tuple[float, float] = (0.08, 1.0),
        jitter: tuple[float, float, float, float] = (0.8, 0.8, 0.8, 0.2),
        jitter_p: float = 0.8,
        gray_p: float = 0.2,
        blur_p: float = 0.5,
        flip_p: float = 0.5,
        rotation: float = 0.0,
    ) -> None:
        for name, count in (("size", size), ("views", views)):
            if not isinstance(count, int) or count < 1:
                raise ValueError(f"{name}: got {count!r}, want an int >= 1")
        if not 0 < scale[0] <= scale[1] <= 1:
            raise ValueError(f"scale: got {scale}, want 0 < least <= greatest <= 1")
        if len(jitter) != 4 or not all(0 <= j <= 1 for j in jitter[:3]) or not 0 <= jitter[3] <= 0.5:
            raise ValueError(f"jitter: got {jitter}, want three numbers in [0, 1] and one in [0, 0.5]")
        chances = {"jitter_p": jitter_p, "gray_p": gray_p, "blur_p": blur_p, "flip_p": flip_p}
        for name, chance in chances.items():
            if not 0 <= chance <= 1:
                raise ValueError(f"{name}: got {chance}, want a probability in [0, 1]")
        self.size, self.views, self.scale, self.jitter = size, views, scale, jitter
        self.jitter_p, self.gray_p, self.blur_p, self.flip_p = jitter_p, gray_p, blur_p, flip_p
        self.rotation = rotation

    def __call__(self, images: Tensor, generator: torch.Generator | None = None) -> list[Tensor]:
        """Return the views of `images`, drawn from `generator` (default: PyTorch's own on the CPU)."""
        x = check_images(images).float() / 255
        return [self._view(x, generator) for _ in range(self.views)]

    def _view(self, x: Tensor, rng: torch.Generator | None) -> Tensor:
        n, _, height, width = x.shape

        def chosen(p: float) -> Tensor:
            return (torch.rand(n, generator=rng) < p).nonzero()[:, 0]

        crop = _batched.random_crops(n, height, width, self.scale, rng)
        x = _batched.crop_resize_flip(x, *crop, torch.rand(n, generator=rng) < self.flip_p, self.size)
        if self.rotation:
            x = _batched.rotate(x, (torch.rand(n, generator=rng) * 2 - 1) * self.rotation)

        jittered = chosen(self.jitter_p)
        order = torch.rand(len(jittered), 4, generator=rng).argsort(1)
        strength = torch.tensor(self.jitter)
        factor = (torch.rand(len(jittered), 4, generator=rng) * 2 - 1) * strength + torch.tensor([1.0, 1, 1, 0])
        for turn in range(4):
            for which, step in enumerate(_JITTER):
                now = order[:, turn] == which
                if self.jitter[which] and now.any():
                    at = jittered[now].to(x.device)
                    x[at] = step(x[at], factor[now, which, None, None, None].to(x.device))

        grey = chosen(self.gray_p).to(x.device)
        x[grey] = _batched.luma(x[grey]).expand(-1, x.shape[1], -1, -1)
        blurred = chosen(self.blur_p)
        sigma = 0.1 + 1.9 * torch.rand(len(blurred), generator=rng)
        if len(blurred):
            at = blurred.to(x.device)
            # SimCLR's kernel is a tenth of the image; an image must be wider than the reflection.
            radius = max(1, min(round(self.size / 20), self.size - 1))
            x[at] = _batched.blur(x[at], sigma, radius)
        return standardize(x).contiguous(memory_format=torch.channels_last)

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value}" for name, value in vars(self).items())
        return f"{type(self).__name__}({fields})"


class SimCLRSmall(SimCLR):
    """SimCLR's augmentation for small images such as 32 x 32: half the colour jitter and no blur.

    Args and behaviour: see `SimCLR`. Source: Chen et al. 2020, appendix B.9 (CIFAR-10).
    """

    def __init__(
        self,
        size: int = 32,
        *,
        views: int = 2,
        scale: tuple[float, float] = (0.08, 1.0),
        jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1),
        jitter_p: float = 0.8,
        gray_p: float = 0.2,
        blur_p: float = 0.0,
        flip_p: float = 0.5,
        rotation: float = 0.0,
    ) -> None:
        super().__init__(
            size, views=views, scale=scale, jitter=jitter, jitter_p=jitter_p, gray_p=gray_p,
            blur_p=blur_p, flip_p=flip_p, rotation=rotation,
        )  # fmt: skip


class SimCLRDigits(SimCLRSmall):
    """SimCLR's augmentation for small grey characters: mild crops and rotations, and no mirror images.

    A mirrored character is another character, and a crop of a tenth of 8 x 8 pixels is one pixel.

    Args:
        size: height and width of the views in pixels.
        views: how many views of each image.
    """

    def __init__(self, size: int = 8, *, views: int = 2) -> None:
        super().__init__(size, views=views, scale=(0.5, 1.0), flip_p=0.0, gray_p=0.0, rotation=15.0)


def default_simclr(channels: int, size: int) -> SimCLR:
    """Return the recipe that suits images of so many channels and pixels a side."""
    if size > 64:
        return SimCLR(size)
    return SimCLRDigits(size) if channels == 1 and size <= 16 else SimCLRSmall(size)
