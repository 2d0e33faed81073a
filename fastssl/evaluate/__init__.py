"""What an encoder is worth: accuracies with frozen and trained weights, geometry, shortcuts, and plots."""

from __future__ import annotations

from . import cues, plots
from ._alignment_uniformity import AlignmentUniformityResult, alignment_uniformity
from ._clustering import ClusteringResult, clustering
from ._features import Features, features
from ._finetune import FinetuneResult, finetune
from ._judge import COSTLY, QUICK, judge
from ._knn import KNNResult, knn
from ._label_efficiency import LabelEfficiencyResult, label_efficiency
from ._label_propagation import LabelPropagationResult, label_propagation
from ._linear_probe import LinearProbeResult, linear_probe
from ._masked_tokens import MaskedTokensResult, masked_tokens
from ._rankme import RankMeResult, rankme
from ._result import Result
from ._retrieval import RetrievalResult, retrieval
from ._shortcut_audit import CuedImages, ShortcutAuditResult, shortcut_audit

__all__ = [
    "COSTLY",
    "QUICK",
    "AlignmentUniformityResult",
    "ClusteringResult",
    "CuedImages",
    "Features",
    "FinetuneResult",
    "KNNResult",
    "LabelEfficiencyResult",
    "LabelPropagationResult",
    "LinearProbeResult",
    "MaskedTokensResult",
    "RankMeResult",
    "Result",
    "RetrievalResult",
    "ShortcutAuditResult",
    "alignment_uniformity",
    "clustering",
    "cues",
    "features",
    "finetune",
    "judge",
    "knn",
    "label_efficiency",
    "label_propagation",
    "linear_probe",
    "masked_tokens",
    "plots",
    "rankme",
    "retrieval",
    "shortcut_audit",
]
