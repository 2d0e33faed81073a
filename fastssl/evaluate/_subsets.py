"""Labelled subsets that a classifier is trained on, and what it reaches over several of them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SubsetResult:
    """Accuracy of a classifier over some labelled subsets.

    Attributes:
        accuracy: share of the test images classified rightly, in [0, 1], averaged over `accuracies`.
        std: standard deviation of `accuracies`; 0 for a single one.
        accuracies: one for each labelled subset.
        labels_per_class: labels used in each class, None for all.
    """

    accuracy: float
    std: float
    accuracies: tuple[float, ...]
    labels_per_class: int | None


def spread(accuracies: Sequence[float]) -> tuple[float, float, tuple[float, ...]]:
    """Return mean and standard deviation of accuracies, and these themselves."""
    return statistics.fmean(accuracies), statistics.pstdev(accuracies), tuple(accuracies)


def draw_subsets(labels: Tensor, per_class: int | None, count: int, seed: int) -> list[Tensor]:
    """Return the places of `count` random subsets with so many labels of each class; once those of all for None."""
    if per_class is None:
        return [torch.arange(len(labels))]
    return [_subset(labels, per_class, seed + i) for i in range(count)]


def _subset(labels: Tensor, per_class: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    chosen = []
    for label in labels.unique().tolist():
        members = (labels == label).nonzero()[:, 0]
        if len(members) < per_class:
            raise ValueError(
                f"labels_per_class: got {per_class}, want at most the {len(members)} images of class {label}"
            )
        chosen.append(members[torch.randperm(len(members), generator=generator)[:per_class]])
    return torch.cat(chosen)
