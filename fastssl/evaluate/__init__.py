"""What frozen features are worth: nearest neighbours, a linear probe, and plots."""

from __future__ import annotations

from . import plots
from ._features import Features, features
from ._knn import KNNResult, knn
from ._linear_probe import LinearProbeResult, linear_probe

__all__ = ["Features", "KNNResult", "LinearProbeResult", "features", "knn", "linear_probe", "plots"]
