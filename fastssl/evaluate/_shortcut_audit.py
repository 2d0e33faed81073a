from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..data import Images, load
from . import _logistic
from ._features import Features, check_classes, data_protocol, device_of, features
from ._result import Result
from .cues import CUES, Cue


@dataclass(frozen=True, kw_only=True)
class ShortcutAuditResult(Result):
    """Result of `shortcut_audit`.

    Attributes:
        accuracies: by the name of a cue, the shares of test images in [0, 1] that are classified rightly ``"with"`` the
            cue of their class, ``"without"`` a cue and ``"against"`` the cue of another class; ``"followed"``, the
            share of the latter that are classified as their cue has it; and ``"clean"``, the accuracy of a classifier
            that was trained without the cue, on images without it.
        protocol: how it was found.
    """

    accuracies: dict[str, dict[str, float]]

    @property
    def scores(self) -> dict[str, float]:
        """The accuracies with, without and against each cue."""
        ways = ("with", "without", "against")
        return {f"{name}, {way}": row[way] for name, row in self.accuracies.items() for way in ways}


class CuedImages(Images):
    """Images that have a cue.

    Args:
        base: the images.
        cue: see `fastssl.evaluate.cues`.
        labels: int64 [n], the labels that the cue tells; by default those of the images, which stay theirs.
        strength: of the cue.
    """

    def __init__(self, base: Images, cue: Cue, labels: Tensor | None = None, strength: float = 1.0) -> None:
        self.base, self.cue, self.strength = base, cue, strength
        self.told = base.labels if labels is None else labels
        self.name, self.labels, self.classes = base.name, base.labels, base.classes
        self.channels, self.image_size, self.in_memory = base.channels, base.image_size, base.in_memory

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        images, labels = self.batch([index])
        return images[0], int(labels[0])

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Images `indices` with their cues as uint8 [B, C, H, W], and their own labels as int64 [B]."""
        images, labels = self.base.batch(indices)
        return self.cue(images, self.told[torch.as_tensor(indices)], self.strength), labels


def shortcut_audit(
    encoder: nn.Module | None,
    train: Images | str,
    test: Images | str,
    *,
    cues: Mapping[str, Cue] | None = None,
    strength: float = 1.0,
    pretrain: Callable[[Images], nn.Module] | None = None,
    clean: tuple[Features, Features] | None = None,
    l2: float = 1.0,
    seed: int = 0,
    batch_size: int = 256,
) -> ShortcutAuditResult:
    """Plant a cue that tells the class in training only, and see what a classifier of the features makes of it.

    A linear probe is trained on frozen features of training images that have the cue of their class, and tested on
    images with the cue of their class, without it, and with the cue of another class. Features that tell the cue as
    well as the class let it fall below what it reaches without cues; features blind to it do not care.

    Args:
        encoder: module float32 [B, C, H, W] -> [B, f]; None stands for the pixels. It is left as it was.
        train: labelled images, or a name or folder (its training split).
        test: the same (a name or folder: its test split), with the same classes.
        cues: functions as in `fastssl.evaluate.cues`, by name; by default all there that apply to the images.
        strength: of the cues.
        pretrain: called with the training images that have a cue, returns the encoder to audit with this cue, in place
            of `encoder`, which is None then. By default the encoder has not met the cue.
        clean: the encoder's features of `train` and `test` without cues, where they are known already.
        l2: strength of the probe's squared penalty, see `linear_probe`.
        seed: of the wrong cues.
        batch_size: images a forward pass.

    Returns:
        The accuracies of each cue.

    Raises:
        TypeError, ValueError: an argument is of another type or out of range, or the images have no labels, or one
            class alone.

    See Geirhos et al. 2020, "Shortcut Learning in Deep Neural Networks".
    """
    for name, value in (("encoder", encoder), ("clean", clean)):
        if pretrain is not None and value is not None:
            raise ValueError(f"{name}: got one as well as pretrain, want None: pretrain returns the encoder")
    if not l2 > 0:
        raise ValueError(f"l2: got {l2}, want a number > 0")
    known, asked = load(train), load(test, split="test") if isinstance(test, str) else test
    check_classes(known, asked)
    if cues is None:
        cues = CUES if known.channels == 3 else {"watermark": CUES["watermark"]}
    if not cues:
        raise ValueError("cues: got none, want at least one, by its name")
    classes = len(known.classes)
    generator = torch.Generator().manual_seed(seed)
    wrong = (asked.labels + torch.randint(1, max(2, classes), asked.labels.shape, generator=generator)) % classes

    accuracies, model, honest = {}, encoder, None
    for name, cue in cues.items():
        cued = CuedImages(known, cue, strength=strength)
        if pretrain is not None:
            model, clean, honest = pretrain(cued), None, None
        device = device_of(model)
        if clean is None:
            clean = features(model, known, batch_size=batch_size), features(model, asked, batch_size=batch_size)
        honest = honest or _fit(clean[0], l2, device)
        misled = _fit(features(model, cued, batch_size=batch_size), l2, device)
        of_class, of_another = (
            features(model, CuedImages(asked, cue, labels, strength), batch_size=batch_size).x
            for labels in (asked.labels, wrong)
        )
        named = misled.predict(of_another)
        accuracies[name] = {
            "with": _share(misled.predict(of_class), asked.labels),
            "without": _share(misled.predict(clean[1].x), asked.labels),
            "against": _share(named, asked.labels),
            "followed": _share(named, wrong),
            "clean": _share(honest.predict(clean[1].x), asked.labels),
        }
    protocol = {
        "cues": list(cues),
        "strength": strength,
        "encoder": "frozen; " + ("not trained on cues" if pretrain is None else f"trained on each cue by {pretrain!r}"),
        "normalisation": "each feature to mean 0 and deviation 1 of the training images",
        "classifier": "multinomial logistic regression on training images with the cue of their class",
        "l2": l2,
        "optimizer": f"L-BFGS of torch, at most {_logistic.STEPS} steps, tolerance {_logistic.TOLERANCE}; the last",
        "against": "the cue of another class, drawn evenly",
        "seed": seed,
        **(data_protocol(train=clean[0], test=clean[1]) if clean else {}),
    }
    return ShortcutAuditResult(accuracies=accuracies, protocol=protocol)


def _fit(part: Features, l2: float, device: torch.device) -> _logistic.Classifier:
    everything = torch.arange(len(part.labels))
    (classifier,) = _logistic.fit(part.x, part.labels, [everything], [l2], solver="torch", device=device)
    return classifier


def _share(predicted: Tensor, labels: Tensor) -> float:
    return (predicted == labels).double().mean().item()
