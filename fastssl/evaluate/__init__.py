"""What an encoder is worth: nearest neighbours, a linear probe, fine-tuning, and plots."""

from __future__ import annotations

from . import plots
from ._features import Features, features
from ._finetune import FinetuneResult, finetune
from ._knn import KNNResult, knn
from ._linear_probe import LinearProbeResult, linear_probe

__all__ = [
    "Features",
    "FinetuneResult",
    "KNNResult",
    "LinearProbeResult",
    "features",
    "finetune",
    "knn",
    "linear_probe",
    "plots",
]
