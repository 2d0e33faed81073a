"""Labelled subsets that a classifier is trained on, and what it reaches over several of them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ._result import Result


@dataclass(frozen=True, kw_only=True)
class SubsetResult(Result):
    """Accuracy of a classifier over some labelled subsets.

    Attributes:
        accuracy: share of the test images classified rightly, in [0, 1], averaged over `accuracies`.
        std: standard deviation of `accuracies`; 0 for a single one.
        accuracies: one for each labelled subset.
        labels_per_class: labels used in each class, None for all.
        protocol: how it was found.
    """

    accuracy: float
    std: float
    accuracies: tuple[float, ...]
    labels_per_class: int | None

    def named(self, way: str) -> dict[str, float]:
        """Return the accuracy by the name of the way and the number of labels."""
        labels = "all labels" if self.labels_per_class is None else f"{self.labels_per_class} labels a class"
        return {f"{way}, {labels}": self.accuracy}


def spread(accuracies: Sequence[float]) -> dict[str, Any]:
    """Return mean and standard deviation of accuracies, and these themselves, as a `SubsetResult` has them."""
    mean, std = statistics.fmean(accuracies), statistics.pstdev(accuracies)
    return {"accuracy": mean, "std": std, "accuracies": tuple(accuracies)}


def draw_subsets(labels: Tensor, per_class: int | None, count: int, seed: int) -> list[Tensor]:
    """Return the places of `count` random subsets with so many labels of each class; once those of all for None."""
    if per_class is None:
        return [torch.arange(len(labels))]
    return [_subset(labels, per_class, seed + i) for i in range(count)]


def subset_protocol(per_class: int | None, count: int, seed: int) -> dict[str, Any]:
    """Return what a protocol tells of `draw_subsets`."""
    if per_class is None:
        return {"labels_per_class": None}
    chosen = "torch.randperm of each class's images"
    return {"labels_per_class": per_class, "subsets": count, "seeds": [seed + i for i in range(count)], "draw": chosen}


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
