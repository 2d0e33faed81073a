"""The parameters of augmented views: one record of 48 bytes a view, every field an editable tensor."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

WORDS = 12  # int32 words of a record: csrc/common/augment_params.h
# field -> (dtype it is read as, first element of that dtype, number of them)
FIELDS: dict[str, tuple[torch.dtype, int, int]] = {
    "crop": (torch.int32, 0, 4),
    "hflip": (torch.bool, 16, 1),
    "vflip": (torch.bool, 17, 1),
    "turns": (torch.uint8, 18, 1),
    "gray": (torch.bool, 19, 1),
    "order": (torch.uint8, 20, 4),
    "brightness": (torch.float32, 6, 1),
    "contrast": (torch.float32, 7, 1),
    "saturation": (torch.float32, 8, 1),
    "hue": (torch.float32, 9, 1),
    "sigma": (torch.float32, 10, 1),
    "threshold": (torch.float32, 11, 1),
}


class AugmentParams:
    """What happens to each sample in each view. Every field is a tensor that can be read, and written to edit.

    Fields, for n samples and V views; a step whose field has its neutral value is skipped:
        crop: int32 [n, V, 4], top, left, height, width in pixels of the image.
        hflip, vflip: bool [n, V], mirror left to right, then top to bottom.
        turns: uint8 [n, V], then so many rotations by 90 degrees counter-clockwise, 0 to 3.
        order: uint8 [n, V, 4], a permutation: the turn-by-turn order of 0 brightness, 1 contrast, 2 saturation, 3 hue.
        brightness, contrast, saturation: float32 [n, V], factors >= 0, neutral 1.
        hue: float32 [n, V], shift in turns of the colour circle, in [-0.5, 0.5], neutral 0.
        gray: bool [n, V], take out colour.
        sigma: float32 [n, V], standard deviation of the blur in pixels of the view, neutral 0.
        threshold: float32 [n, V], values from there on are inverted (solarize), 1 being white; neutral inf.

    Made by `fastssl.functional.sample_params`, by `AugmentParams.neutral`, or from `packed`. Indexing selects samples,
    and views by a second index: ``params[:8, 0]``. `packed`, int32 [n, V, 12], is all there is to save.

    >>> params = fastssl.functional.sample_params(recipe, len(images), seed=0, image_size=(256, 256))
    >>> params.hflip[:] = False
    >>> views = fastssl.functional.augment(images, params, recipe.sizes)
    """

    crop: Tensor
    hflip: Tensor
    vflip: Tensor
    turns: Tensor
    gray: Tensor
    order: Tensor
    brightness: Tensor
    contrast: Tensor
    saturation: Tensor
    hue: Tensor
    sigma: Tensor
    threshold: Tensor

    __slots__ = ("packed",)

    def __init__(self, packed: Tensor) -> None:
        if not isinstance(packed, Tensor) or packed.dtype != torch.int32:
            got = packed.dtype if isinstance(packed, Tensor) else type(packed).__name__
            raise TypeError(f"packed: got {got}, want an int32 tensor [n, V, {WORDS}]")
        if packed.ndim != 3 or packed.shape[2] != WORDS:
            raise ValueError(f"packed: got shape {tuple(packed.shape)}, want [n, V, {WORDS}]")
        object.__setattr__(self, "packed", packed if packed.is_contiguous() else packed.contiguous())

    @classmethod
    def neutral(cls, n: int, views: int = 1, *, image_size: Any) -> AugmentParams:
        """Return parameters that crop nothing and change nothing, to fill in by hand.

        Args:
            n: samples.
            views: views of each.
            image_size: (H, W) of the images, or an int tensor [n, 2] of them.
        """
        params = cls(torch.zeros(n, views, WORDS, dtype=torch.int32))
        params.crop[..., 2:] = torch.as_tensor(image_size, dtype=torch.int32).cpu().reshape(-1, 1, 2)
        params.order[:] = torch.arange(4, dtype=torch.uint8)
        for name in ("brightness", "contrast", "saturation"):
            getattr(params, name).fill_(1.0)
        params.threshold.fill_(math.inf)
        return params

    def __getattr__(self, name: str) -> Tensor:
        if name not in FIELDS:
            raise AttributeError(f"AugmentParams has no field {name!r}; its fields are {', '.join(FIELDS)}")
        dtype, first, count = FIELDS[name]
        words = self.packed.view(dtype)
        return words[..., first] if count == 1 else words[..., first : first + count]

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in FIELDS:
            raise AttributeError(f"AugmentParams has no field {name!r}; its fields are {', '.join(FIELDS)}")
        getattr(self, name).copy_(torch.as_tensor(value, device=self.packed.device))

    def __len__(self) -> int:
        return int(self.packed.shape[0])

    def __getitem__(self, index: Any) -> AugmentParams:
        samples, views = index if isinstance(index, tuple) else (index, slice(None))
        return AugmentParams(self.packed[_as_slice(samples)][:, _as_slice(views)])

    @property
    def views(self) -> int:
        """V."""
        return int(self.packed.shape[1])

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.packed.device

    def to(self, device: torch.device | str, non_blocking: bool = False) -> AugmentParams:
        """Return the parameters on another device."""
        return AugmentParams(self.packed.to(device, non_blocking=non_blocking))

    def clone(self) -> AugmentParams:
        """Return a copy, to edit."""
        return AugmentParams(self.packed.clone())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AugmentParams) and torch.equal(self.packed, other.packed)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"AugmentParams({len(self)} samples, {self.views} views, device={str(self.device)!r})"


def _as_slice(index: Any) -> Any:
    return [index] if isinstance(index, int) else index
