"""Augmentation recipes: called with a batch of uint8 images, each returns its list of views."""

from __future__ import annotations

from .._normalization import normalize, statistics, to_pixels
from ._recipes import BYOL, DINO, MAE, RECIPES, MoCoV2, SimCLR, SimCLRDigits, SimCLRSmall, SwAV, default_simclr
from ._transform import Transform

__all__ = [
    "BYOL",
    "DINO",
    "MAE",
    "RECIPES",
    "MoCoV2",
    "SimCLR",
    "SimCLRDigits",
    "SimCLRSmall",
    "SwAV",
    "Transform",
    "default_simclr",
    "normalize",
    "statistics",
    "to_pixels",
]
