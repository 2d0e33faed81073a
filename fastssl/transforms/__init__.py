"""Augmentation recipes: called with a batch of uint8 images, each returns its list of views."""

from __future__ import annotations

from ._normalize import normalize, statistics
from ._simclr import SimCLR, SimCLRDigits, SimCLRSmall, Transform, default_simclr

__all__ = [
    "SimCLR",
    "SimCLRDigits",
    "SimCLRSmall",
    "Transform",
    "default_simclr",
    "normalize",
    "statistics",
]
