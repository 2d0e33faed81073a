from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from torch import nn

from .. import _checks
from ..data import DataSet, Images, load
from ._alignment_uniformity import alignment_uniformity
from ._clustering import clustering
from ._features import Features, check_classes, device_of, features
from ._finetune import finetune
from ._knn import knn
from ._label_efficiency import label_efficiency
from ._linear_probe import linear_probe
from ._rankme import rankme
from ._result import Result
from ._retrieval import retrieval
from ._shortcut_audit import shortcut_audit

QUICK = (
    "knn", "few_labels", "linear_probe", "retrieval", "clustering", "rankme", "alignment_uniformity", "shortcut_audit",
)  # fmt: skip
COSTLY = ("finetune", "label_efficiency")
_AUDITED = 1000, 500  # training and test images of the shortcut audit, which meets them with every cue
WIDEST = 4096  # a linear probe on more numbers takes hours


def judge(
    encoder: nn.Module | None,
    train: DataSet | str,
    test: DataSet | str,
    *,
    which: Collection[str] = QUICK,
    labels_per_class: int = 10,
    subsets: int = 5,
    k: int = 20,
    seed: int = 0,
    batch_size: int = 256,
    finetuning: dict[str, Any] | None = None,
) -> dict[str, Result]:
    """Judge an encoder in every way that applies, from one pass over the images where it can be.

    The judgements are ``"knn"``, ``"few_labels"`` (the linear probe of some labels), ``"linear_probe"`` (of all),
    ``"retrieval"``, ``"clustering"``, ``"rankme"``, ``"alignment_uniformity"``, ``"shortcut_audit"``, and the costly
    ``"finetune"`` and ``"label_efficiency"``. Each has its own function here, whose defaults hold; the shortcut audit
    takes at most 1000 training and 500 test images, evenly thinned. Left out are those that train an encoder where
    there is none, those that train a classifier on more than 4096 features, and of data other than images those that
    make views of them, plant cues or train an encoder.

    Args:
        encoder: module float32 [B, C, H, W] -> [B, f]; None stands for the pixels. It is left as it was.
        train: labelled images, or a name or folder (its training split).
        test: the same (a name or folder: its test split), with the same classes.
        which: the judgements to make; by default all but the costly ones.
        labels_per_class: labels of the linear probe of some, and of fine-tuning.
        subsets: draws of them that accuracies are averaged over.
        k: neighbours that vote.
        seed: of all that is random.
        batch_size: images a forward pass.
        finetuning: more arguments of `finetune`, for the curves of label efficiency as well.

    Returns:
        The results by the names of the judgements, in the order above.

    Raises:
        TypeError, ValueError: an argument is of another type or out of range, or the images have no labels.
        MissingExtraError: a package of the train extra is not installed.
    """
    unknown = sorted(set(which) - {*QUICK, *COSTLY})
    if unknown:
        raise ValueError(f"which: got {unknown[0]!r}, want {', '.join(map(repr, (*QUICK, *COSTLY)))}")
    _checks.positive_int("batch_size", batch_size)
    known = train if isinstance(train, DataSet) else load(train)
    asked = test if isinstance(test, DataSet) else load(test, split="test")
    check_classes(known, asked)
    device = device_of(encoder)
    pair = features(encoder, known, batch_size=batch_size), features(encoder, asked, batch_size=batch_size)
    few: dict[str, Any] = {"labels_per_class": labels_per_class, "subsets": subsets, "seed": seed}
    ranks = [n for n in (1, 5, 10) if n <= len(known)]
    ways: dict[str, Callable[[], Result]] = {
        "knn": lambda: knn(None, *pair, k=min(k, len(known)), device=device),
        "few_labels": lambda: linear_probe(None, *pair, device=device, **few),
        "linear_probe": lambda: linear_probe(None, *pair, device=device),
        "retrieval": lambda: retrieval(None, *pair, k=ranks, device=device),
        "clustering": lambda: clustering(None, *pair, seed=seed),
        "rankme": lambda: rankme(None, pair[0]),
    }
    if isinstance(known, Images) and isinstance(asked, Images):
        ways["alignment_uniformity"] = lambda: alignment_uniformity(encoder, asked, seed=seed, batch_size=batch_size)
        ways["shortcut_audit"] = lambda: _audit(encoder, (known, asked), pair, seed, batch_size)
        if encoder is not None:
            tuned = {**few, **(finetuning or {})}
            curves = {key: value for key, value in tuned.items() if key not in few}
            draws = {"draws": tuned["subsets"], "seed": seed}
            ways["finetune"] = lambda: finetune(encoder, known, asked, **tuned)
            ways["label_efficiency"] = lambda: label_efficiency(
                encoder, known, asked, labels=_counts(known), **draws, **curves
            )  # fmt: skip
    if pair[0].x.shape[1] > WIDEST:
        ways = {name: way for name, way in ways.items() if name not in ("few_labels", "linear_probe", "shortcut_audit")}
    return {name: way() for name, way in ways.items() if name in which}


def _audit(
    encoder: nn.Module | None, data: tuple[Images, Images], pair: tuple[Features, Features], seed: int, batch_size: int
) -> Result:
    """Audit a part of the images, whose features are known but for the cues."""
    places = [range(0, len(part), -(-len(part) // most)) for part, most in zip(data, _AUDITED, strict=True)]
    train, test = (part.take(at) for part, at in zip(data, places, strict=True))
    clean = pair[0].take(places[0]), pair[1].take(places[1])
    return shortcut_audit(encoder, train, test, clean=clean, seed=seed, batch_size=batch_size)


def _counts(known: Images) -> list[int]:
    """Labels a class of the curves, as far as there are images."""
    smallest = int(known.labels.bincount().min())
    return [n for n in (1, 2, 5, 10, 20, 50, 100) if n <= smallest]
