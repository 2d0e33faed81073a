from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ._features import Data, data_protocol, device_of, labelled_pair
from ._result import Result


@dataclass(frozen=True, kw_only=True)
class KNNResult(Result):
    """Result of `knn`.

    Attributes:
        accuracy: share of the test images classified rightly, in [0, 1].
        predictions: int64 [n_test], the class given to each test image.
        k: how many neighbours voted.
        temperature: of their weights.
        protocol: how it was found.
    """

    accuracy: float
    predictions: Tensor
    k: int
    temperature: float

    @property
    def scores(self) -> dict[str, float]:
        """The accuracy."""
        return {"kNN": self.accuracy}


def knn(
    encoder: nn.Module | None,
    train: Data,
    test: Data,
    *,
    k: int = 20,
    temperature: float = 0.07,
    batch_size: int = 256,
    device: torch.device | str | None = None,
) -> KNNResult:
    """Classify test images by the labels of their nearest training images, in the cosine of frozen features.

    Each of the k nearest votes for its class with weight exp(cosine / temperature).

    Args:
        encoder: module float32 [B, C, H, W] -> [B, f]; None stands for the pixels. It is left as it was.
        train: labelled images or `Features`, or a name or folder (its training split).
        test: the same (a name or folder: its test split), with the same classes.
        k: number of neighbours, at most the number of training images.
        temperature: > 0; the smaller, the more the nearest decide.
        batch_size: images a forward pass.
        device: where neighbours are looked for; by default the encoder's.

    Returns:
        The accuracy and the predictions.

    Raises:
        TypeError, ValueError: an argument is of another type or out of range, or the images have no labels.

    Source: Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", section 3.4.
    """
    if not isinstance(k, int) or k < 1:
        raise ValueError(f"k: got {k!r}, want an int >= 1")
    if not temperature > 0:
        raise ValueError(f"temperature: got {temperature}, want a number > 0")
    known, asked = labelled_pair(encoder, train, test, batch_size)
    if k > len(known.labels):
        raise ValueError(f"k: got {k}, want at most the number of training images, {len(known.labels)}")
    where = device_of(encoder, device)
    bank, labels = torch.nn.functional.normalize(known.x.to(where)), known.labels.to(where)
    predictions = []
    for rows in asked.x.split(1024):  # bounds the similarity matrix at 1024 rows
        similarity, at = (torch.nn.functional.normalize(rows.to(where)) @ bank.T).topk(k)
        votes = torch.zeros(len(rows), len(known.classes), device=where)
        votes.scatter_add_(1, labels[at], ((similarity - 1) / temperature).exp())
        predictions.append(votes.argmax(1).cpu())
    predicted = torch.cat(predictions)
    protocol = {
        "normalisation": "features to unit length",
        "classifier": "the k of largest cosine vote with weight exp(cosine / temperature)",
        "k": k,
        "temperature": temperature,
        **data_protocol(train=known, test=asked),
    }
    accuracy = (predicted == asked.labels).double().mean().item()
    return KNNResult(accuracy=accuracy, predictions=predicted, k=k, temperature=temperature, protocol=protocol)
