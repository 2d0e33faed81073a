from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .. import _checks
from ._features import Data, data_protocol, device_of, labelled_pair
from ._result import Result

_PAIRS = 2**24  # of images that are ranked at a time


@dataclass(frozen=True, kw_only=True)
class RetrievalResult(Result):
    """Result of `retrieval`.

    Attributes:
        precision: by k, the share of the k nearest training images that have the class of the query, in [0, 1].
        mean_average_precision: over the whole ranking, in [0, 1].
        neighbours: int64 [n_test, k], the nearest training images of each test image, the nearest first, for the
            largest k.
        right: bool [n_test, k], whether they have its class.
        protocol: how it was found.
    """

    precision: dict[int, float]
    mean_average_precision: float
    neighbours: Tensor
    right: Tensor

    @property
    def scores(self) -> dict[str, float]:
        """The precisions, and the mean average precision."""
        return {**{f"precision at {k}": v for k, v in self.precision.items()}, "mAP": self.mean_average_precision}


def retrieval(
    encoder: nn.Module | None,
    train: Data,
    test: Data,
    *,
    k: Sequence[int] = (1, 5, 10),
    batch_size: int = 256,
    device: torch.device | str | None = None,
) -> RetrievalResult:
    """Rank the training images by their cosine with each test image, and see how many of its class come first.

    Average precision is the mean, over the training images of the query's class, of the precision at their ranks; a
    query with none of them does not count. Images of one cosine are ranked in the order of the data.

    Args:
        encoder: module float32 [B, C, H, W] -> [B, f]; None stands for the pixels. It is left as it was.
        train: labelled images or `Features`, or a name or folder (its training split): what is searched.
        test: the same (a name or folder: its test split), with the same classes: the queries.
        k: at how many neighbours to measure the precision, each at most the number of training images.
        batch_size: images a forward pass.
        device: where images are ranked; by default the encoder's.

    Returns:
        The precisions, and the neighbours, which `plots.retrieval` draws.

    Raises:
        TypeError, ValueError: an argument is of another type or out of range, or the images have no labels.
    """
    if not k:
        raise ValueError("k: got none, want at least one int >= 1")
    for each in k:
        _checks.positive_int("k", each)
    known, asked = labelled_pair(encoder, train, test, batch_size)
    most = max(k)
    if most > len(known.labels):
        raise ValueError(f"k: got {most}, want at most the number of training images, {len(known.labels)}")
    where = device_of(encoder, device)
    bank, labels = torch.nn.functional.normalize(known.x.to(where)), known.labels.to(where)
    ranks = torch.arange(1, len(bank) + 1, device=where)
    neighbours, right, precisions = [], [], []
    part = max(1, _PAIRS // len(bank))
    for rows, wanted in zip(asked.x.split(part), asked.labels.split(part), strict=True):
        similarity = torch.nn.functional.normalize(rows.to(where)) @ bank.T
        order = similarity.argsort(stable=True, dim=1, descending=True)
        of_class = labels[order] == wanted.to(where)[:, None]
        found = of_class.cumsum(1)
        average = (found / ranks * of_class).sum(1, dtype=torch.float64) / found[:, -1]
        neighbours.append(order[:, :most].cpu())
        right.append(of_class[:, :most].cpu())
        precisions.append(average[found[:, -1] > 0].cpu())
    hits, average = torch.cat(right), torch.cat(precisions)
    protocol = {
        "normalisation": "features to unit length",
        "ranking": "training images by falling cosine with each test image",
        "k": list(k),
        **data_protocol(train=known, test=asked),
    }
    return RetrievalResult(
        precision={each: hits[:, :each].double().mean().item() for each in k},
        mean_average_precision=average.mean().item() if len(average) else 0.0,
        neighbours=torch.cat(neighbours),
        right=hits,
        protocol=protocol,
    )
