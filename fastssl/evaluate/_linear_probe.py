from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from . import _logistic
from ._features import Data, data_protocol, device_of, labelled_pair
from ._subsets import SubsetResult, draw_subsets, spread, subset_protocol


@dataclass(frozen=True, kw_only=True)
class LinearProbeResult(SubsetResult):
    """Result of `linear_probe`.

    Attributes:
        l2: the penalty of each labelled subset's classifier.
    """

    l2: tuple[float, ...]

    @property
    def scores(self) -> dict[str, float]:
        """The accuracy."""
        return self.named("linear")


def linear_probe(
    encoder: nn.Module | None,
    train: Data,
    test: Data,
    *,
    labels_per_class: int | None = None,
    subsets: int = 5,
    seed: int = 0,
    l2: float | Sequence[float] = 1.0,
    batch_size: int = 256,
    device: torch.device | str | None = None,
    solver: str = "auto",
) -> LinearProbeResult:
    """Classify test images by logistic regression on frozen, standardised features.

    The encoder runs in eval mode without gradients and is left exactly as it was: no weight, buffer (batch norm
    included) or mode changes. The test images are looked at once, by the final classifiers.

    Args:
        encoder: module float32 [B, C, H, W] -> [B, f]; None stands for the pixels.
        train: labelled images or `Features`, or a name or folder (its training split).
        test: the same (a name or folder: its test split), with the same classes.
        labels_per_class: train on so many random labels of each class, and average over `subsets` such draws;
            None trains once on all labels.
        subsets: number of random draws where `labels_per_class` is given.
        seed: of the draws.
        l2: strength of the squared penalty on the weights, > 0 (the inverse of scikit-learn's C). Of several, each
            draw takes the one of the best accuracy on a fifth of its labels that is held out of the others, and
            trains on all of them.
        batch_size: images a forward pass.
        device: where classifiers are trained; by default the encoder's.
        solver: "scikit-learn", "torch", which trains the classifiers of all draws and penalties at once on the device,
            or "auto": scikit-learn on a CPU, torch elsewhere. Both minimise the same objective by L-BFGS.

    Returns:
        The accuracy and its spread.

    Raises:
        TypeError, ValueError: an argument is of another type or out of range, the images have no labels, or a
            class has fewer images than `labels_per_class`.
        MissingExtraError: scikit-learn is not installed.
    """
    for name, value in (("labels_per_class", labels_per_class), ("subsets", subsets)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ValueError(f"{name}: got {value!r}, want an int >= 1")
    penalties = tuple(l2) if isinstance(l2, Sequence) else (l2,)
    if not penalties or not all(each > 0 for each in penalties):
        raise ValueError(f"l2: got {l2}, want a number > 0, or several")
    if len(penalties) > 1 and labels_per_class == 1:
        raise ValueError("labels_per_class: got 1, want at least 2 where several l2 are tried: one is held out")
    where = device_of(encoder, device)
    solver = _logistic.choose_solver(solver, where)
    known, asked = labelled_pair(encoder, train, test, batch_size)

    draws = draw_subsets(known.labels, labels_per_class, subsets, seed)
    chosen = [penalties[0]] * len(draws)
    if len(penalties) > 1:
        chosen = _choose(known.x, known.labels, draws, penalties, seed, solver, where)
    fitted = _logistic.fit(known.x, known.labels, draws, chosen, solver=solver, device=where)
    accuracies = [_accuracy(classifier, asked.x, asked.labels) for classifier in fitted]
    protocol = {
        "normalisation": "each feature to mean 0 and deviation 1 of the training subset",
        "classifier": "multinomial logistic regression, l2 / 2 |weights|^2 added to the summed cross-entropy",
        "l2": list(penalties),
        "selection": "none, one l2" if len(penalties) == 1 else "best l2 on a fifth of the labels, held out",
        "optimizer": f"L-BFGS of {solver}, at most {_logistic.STEPS} steps, tolerance {_logistic.TOLERANCE}; the last",
        **subset_protocol(labels_per_class, subsets, seed),
        **data_protocol(train=known, test=asked),
    }
    return LinearProbeResult(
        **spread(accuracies), labels_per_class=labels_per_class, l2=tuple(chosen), protocol=protocol
    )  # fmt: skip


def _accuracy(classifier: _logistic.Classifier, x: Tensor, labels: Tensor) -> float:
    return (classifier.predict(x) == labels).double().mean().item()


def _choose(
    x: Tensor, y: Tensor, draws: Sequence[Tensor], l2: Sequence[float], seed: int, solver: str, device: torch.device
) -> list[float]:
    """Return the l2 of each draw by the accuracy on a held-out fifth of each class; of equals the largest."""
    falling = sorted(l2, reverse=True)
    chosen = []
    for i, at in enumerate(draws):
        generator = torch.Generator().manual_seed(seed + i)
        mixed = at[torch.randperm(len(at), generator=generator)]
        held = torch.zeros(len(mixed), dtype=torch.bool)
        for label in y[mixed].unique().tolist():
            members = (y[mixed] == label).nonzero()[:, 0]
            held[members[: -(-len(members) // 5)]] = len(members) > 1
        rows, asked = mixed[~held], mixed[held]
        fitted = _logistic.fit(x, y, [rows] * len(falling), falling, solver=solver, device=device)
        accuracies = [_accuracy(classifier, x[asked], y[asked]) for classifier in fitted]
        chosen.append(falling[accuracies.index(max(accuracies))])
    return chosen
