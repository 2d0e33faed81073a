from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .. import _checks
from ..data import Images, load
from ..methods import rebuild
from ..methods._encoder import recipe_of
from ._features import check_classes, device_of, labelled_pair
from ._finetune import finetune
from ._linear_probe import linear_probe
from ._result import Result
from ._subsets import SubsetResult

PROBE, TUNED, SCRATCH = "linear probe", "fine-tuned", "from scratch"


@dataclass(frozen=True, kw_only=True)
class LabelEfficiencyResult(Result):
    """Result of `label_efficiency`.

    Attributes:
        labels: labels a class, rising.
        curves: by ``"linear probe"``, ``"fine-tuned"`` and ``"from scratch"``, a result for each number of labels.
        protocol: how they were found; each result has its own besides.
    """

    labels: tuple[int, ...]
    curves: dict[str, tuple[SubsetResult, ...]]

    @property
    def scores(self) -> dict[str, float]:
        """The accuracies with most labels."""
        return {f"{name}, {self.labels[-1]} labels a class": curve[-1].accuracy for name, curve in self.curves.items()}


def label_efficiency(
    encoder: nn.Module,
    train: Images | str,
    test: Images | str,
    *,
    labels: Sequence[int] = (1, 2, 5, 10, 20, 50, 100),
    draws: int = 5,
    seed: int = 0,
    baseline: nn.Module | None = None,
    finetuned: bool = True,
    l2: float = 1.0,
    batch_size: int = 256,
    **finetuning: Any,
) -> LabelEfficiencyResult:
    """Measure the accuracy over the number of labels, beside that of the same network trained from scratch on them.

    Three curves over the same random labels: a linear probe of the frozen features, fine-tuning of the encoder, and
    training of an untrained encoder by the same loop, with one learning rate for all layers.

    Args:
        encoder: module float32 [B, C, H, W] -> [B, f]. It is left as it was.
        train: labelled images, or a name or folder (its training split).
        test: the same (a name or folder: its test split), with the same classes.
        labels: labels a class, at most the images of the smallest class.
        draws: random draws of labels for each number.
        seed: of the draws, and of all that is random in training.
        baseline: the untrained encoder; by default one is made as `encoder` was, if timm made it.
        finetuned: also fine-tune `encoder`; else the curve is left out.
        l2: strength of the probe's squared penalty, see `linear_probe`.
        batch_size: images a forward pass of the frozen encoder.
        **finetuning: arguments of `finetune` for both trained curves, such as `epochs`; `layer_decay` is for the
            encoder alone.

    Returns:
        The curves, which `plots.label_efficiency` draws.

    Raises:
        TypeError, ValueError: an argument is of another type or out of range, the images have no labels, or there is
            no baseline.
        MissingExtraError: scikit-learn, timm or tqdm is not installed.
    """
    if not labels:
        raise ValueError("labels: got none, want at least one int >= 1")
    for each in labels:
        _checks.positive_int("labels", each)
    _checks.positive_int("draws", draws)
    taken = {"labels_per_class", "subsets", "seed"} & finetuning.keys()
    if taken:
        raise TypeError(f"{min(taken)}: got it for finetune, want labels, draws and seed alone to decide")
    known, asked = load(train), load(test, split="test") if isinstance(test, str) else test
    check_classes(known, asked)
    smallest = int(known.labels.bincount().min())
    if max(labels) > smallest:
        raise ValueError(f"labels: got {max(labels)}, want at most the {smallest} images of the smallest class")
    untrained = _untrained(encoder, seed) if baseline is None else baseline

    ordered = tuple(sorted(set(labels)))
    pair = labelled_pair(encoder, known, asked, batch_size)
    device = device_of(encoder)
    draw: dict[str, Any] = {"subsets": draws, "seed": seed}
    curves: dict[str, list[SubsetResult]] = {PROBE: []}
    for n in ordered:
        curves[PROBE].append(linear_probe(None, *pair, labels_per_class=n, l2=l2, device=device, **draw))
    trained: Mapping[str, tuple[nn.Module, dict[str, Any]]] = {
        **({TUNED: (encoder, finetuning)} if finetuned else {}),
        SCRATCH: (untrained.to(device), {**finetuning, "layer_decay": 1.0}),
    }
    for name, (module, options) in trained.items():
        curves[name] = [finetune(module, known, asked, labels_per_class=n, **draw, **options) for n in ordered]
    protocol = {
        "labels": list(ordered),
        "draws": draws,
        "seed": seed,
        "curves": "all of the same labelled subsets; each accuracy is of the last step",
        "baseline": "given" if baseline is not None else "the recipe of the encoder, with new random weights",
    }
    return LabelEfficiencyResult(
        labels=ordered, curves={name: tuple(curve) for name, curve in curves.items()}, protocol=protocol
    )  # fmt: skip


def _untrained(encoder: nn.Module, seed: int) -> nn.Module:
    recipe = recipe_of(encoder)
    if recipe is None:
        raise ValueError(
            f"baseline: got None for {type(encoder).__name__}, which timm cannot make again; pass an untrained encoder"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return rebuild(recipe)
