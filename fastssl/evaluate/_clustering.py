from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from .. import _checks
from .._extras import require
from ._features import Data, data_protocol, labelled_pair
from ._result import Result


@dataclass(frozen=True, kw_only=True)
class ClusteringResult(Result):
    """Result of `clustering`.

    Attributes:
        nmi: normalised mutual information of clusters and classes, in [0, 1].
        ari: adjusted Rand index of both, 0 for chance and 1 for the same partition.
        accuracy: share of the test images in the cluster of their class, by the best matching of clusters to classes.
        clusters: int64 [n_test], the cluster of each test image.
        protocol: how it was found.
    """

    nmi: float
    ari: float
    accuracy: float
    clusters: Tensor

    @property
    def scores(self) -> dict[str, float]:
        """NMI, ARI and the accuracy."""
        return {"NMI": self.nmi, "ARI": self.ari, "cluster accuracy": self.accuracy}


def clustering(
    encoder: nn.Module | None,
    train: Data,
    test: Data,
    *,
    clusters: int | None = None,
    starts: int = 10,
    seed: int = 0,
    batch_size: int = 256,
) -> ClusteringResult:
    """Find clusters of the training images without their labels, and compare those of the test images with the classes.

    k-means of the features at unit length; a test image belongs to the nearest centre.

    Args:
        encoder: module float32 [B, C, H, W] -> [B, f]; None stands for the pixels. It is left as it was.
        train: labelled images or `Features`, or a name or folder (its training split).
        test: the same (a name or folder: its test split), with the same classes.
        clusters: how many; by default as many as there are classes.
        starts: k-means is started so many times, and the smallest sum of squares counts.
        seed: of the starts.
        batch_size: images a forward pass.

    Returns:
        How well clusters and classes agree on the test images.

    Raises:
        TypeError, ValueError: an argument is of another type or out of range, or the images have no labels.
        MissingExtraError: scikit-learn is not installed.
    """
    cluster, metrics = (require(f"sklearn.{name}", "clustering") for name in ("cluster", "metrics"))
    optimize = require("scipy.optimize", "clustering")
    _checks.positive_int("starts", starts)
    known, asked = labelled_pair(encoder, train, test, batch_size)
    count = len(known.classes) if clusters is None else clusters
    _checks.int_in("clusters", count, 1, len(known.x))
    rows, queries = (torch.nn.functional.normalize(part.x).numpy() for part in (known, asked))
    found = cluster.KMeans(count, n_init=starts, random_state=seed).fit(rows).predict(queries).astype(np.int64)
    truth = asked.labels.numpy()
    together = np.zeros((count, len(known.classes)), np.int64)
    np.add.at(together, (found, truth), 1)
    matched = together[optimize.linear_sum_assignment(together, maximize=True)].sum()
    protocol = {
        "normalisation": "features to unit length",
        "clusters": f"k-means of scikit-learn on the training images, best of {starts} starts; test images by centre",
        "k": count,
        "seed": seed,
        **data_protocol(train=known, test=asked),
    }
    return ClusteringResult(
        nmi=float(metrics.normalized_mutual_info_score(truth, found)),
        ari=float(metrics.adjusted_rand_score(truth, found)),
        accuracy=float(matched / len(truth)),
        clusters=torch.from_numpy(found),
        protocol=protocol,
    )
