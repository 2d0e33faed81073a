from __future__ import annotations

import warnings

import torch
from torch import nn

from .._extras import require
from ._features import Data, labelled_pair
from ._subsets import SubsetResult, draw_subsets, spread


class LinearProbeResult(SubsetResult):
    """Result of `linear_probe`."""


def linear_probe(
    encoder: nn.Module | None,
    train: Data,
    test: Data,
    *,
    labels_per_class: int | None = None,
    subsets: int = 5,
    seed: int = 0,
    l2: float = 1.0,
    batch_size: int = 256,
) -> LinearProbeResult:
    """Classify test images by logistic regression on frozen, standardised features.

    The encoder runs in eval mode without gradients and is left exactly as it was: no weight, buffer (batch norm
    included) or mode changes.

    Args:
        encoder: module float32 [B, C, H, W] -> [B, f]; None stands for the pixels.
        train: labelled images or `Features`, or a name or folder (its training split).
        test: the same (a name or folder: its test split), with the same classes.
        labels_per_class: train on so many random labels of each class, and average over `subsets` such draws;
            None trains once on all labels.
        subsets: number of random draws where `labels_per_class` is given.
        seed: of the draws.
        l2: strength of the squared penalty on the weights, > 0 (the inverse of scikit-learn's C).
        batch_size: images a forward pass.

    Returns:
        The accuracy and its spread.

    Raises:
        TypeError, ValueError: an argument is of another type or out of range, the images have no labels, or a
            class has fewer images than `labels_per_class`.
        MissingExtraError: scikit-learn is not installed.
    """
    linear_model = require("sklearn.linear_model", "linear_probe")
    for name, value in (("labels_per_class", labels_per_class), ("subsets", subsets)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ValueError(f"{name}: got {value!r}, want an int >= 1")
    if not l2 > 0:
        raise ValueError(f"l2: got {l2}, want a number > 0")
    known, asked = labelled_pair(encoder, train, test, batch_size)

    accuracies = []
    for at in draw_subsets(known.labels, labels_per_class, subsets, seed):
        x, y = known.x[at].double(), known.labels[at]
        std, mean = torch.std_mean(x, 0, correction=0)
        std = torch.where(std < 1e-8, 1.0, std)  # a constant feature stays constant instead of becoming noise
        classifier = linear_model.LogisticRegression(C=1 / l2, max_iter=200, tol=1e-3)
        with warnings.catch_warnings():
            # 200 steps settle the accuracy long before the optimiser is satisfied on separable data.
            warnings.filterwarnings("ignore", message="lbfgs failed to converge")
            classifier.fit(((x - mean) / std).float().numpy(), y.numpy())
        predicted = classifier.predict(((asked.x.double() - mean) / std).float().numpy())
        accuracies.append((torch.from_numpy(predicted) == asked.labels).double().mean().item())
    return LinearProbeResult(*spread(accuracies), labels_per_class)
