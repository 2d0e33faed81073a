"""The crops behind the data set ``photos``: real colours for methods that learn from them."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ._extras import require

NAMES = ("china", "flower")
_ROWS = {"train": (0, 256), "test": (256, 427)}  # both have something of temple, trees and flower
_CROPS = {"train": (2000, 0), "test": (400, 2)}  # number and seed
_SIDES = (64, 160)


def crops(split: str, size: int) -> tuple[Tensor, Tensor]:
    """Return crops uint8 ``[n, 3, size, size]``, half of each photograph, in turn, and which it is."""
    if split == "all":
        return tuple(torch.cat(parts) for parts in zip(*(crops(s, size) for s in _CROPS), strict=True))  # type: ignore[return-value]
    photographs = require("sklearn.datasets", "the data set 'photos'").load_sample_images().images
    n, seed = _CROPS[split]
    rng = np.random.default_rng(seed)
    images = torch.empty(n, 3, size, size, dtype=torch.uint8)
    top, bottom = _ROWS[split]
    for i in range(n):
        photograph = photographs[i % len(NAMES)]
        side = int(rng.integers(_SIDES[0], _SIDES[1], endpoint=True))
        y, x = int(rng.integers(top, bottom - side + 1)), int(rng.integers(photograph.shape[1] - side + 1))
        crop = torch.from_numpy(photograph[y : y + side, x : x + side].copy()).permute(2, 0, 1)[None]
        # Of uint8: the same rounding everywhere.
        images[i] = F.interpolate(crop, (size, size), mode="bilinear", antialias=True)[0]
    return images, torch.arange(n) % len(NAMES)
