"""The settings that decide a run, checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

OPTIMIZERS = ("adamw", "sgd", "lars")
PRECISIONS = ("32-true", "16-mixed", "bf16-mixed")


@dataclass(frozen=True)
class Settings:
    """What decides the weights of a run, besides the method and the images; a resumed run must agree on it."""

    epochs: int
    batch_size: int
    lr: float
    optimizer: str
    weight_decay: float
    warmup_epochs: float
    seed: int
    precision: str
    images: int
    betas: tuple[float, float] = (0.9, 0.999)  # of adamw
    chunk_size: int | None = None  # of gradient caching

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in the data; the images left over sit an epoch out."""
        return self.images // self.batch_size

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.epochs * self.steps_per_epoch

    def lr_factor(self, step: int, constant: bool = False) -> float:
        """Share of the learning rate at a step: a linear warmup, then half a cosine to 0, or `constant`."""
        warmup = round(self.warmup_epochs * self.steps_per_epoch)
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if constant:
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, self.steps - warmup)))


def make_settings(
    *,
    epochs: int,
    batch_size: int,
    lr: float | None,
    optimizer: str | None,
    weight_decay: float | None,
    warmup_epochs: float | None,
    seed: int,
    precision: str,
    images: int,
    defaults: Mapping[str, Any],
    chunk_size: int | None = None,
) -> Settings:
    """Check the settings and fill in the defaults: the method's own, else those of the optimizer.

    A method's `defaults` hold for its own optimizer (adamw unless it names another): `lr`, for a batch of 256 and
    scaled with it, `weight_decay` and `betas`; and `warmup_epochs`, which is a tenth of the run, at most so many. What
    `constant_lr` names are parts of the method whose rate does not fall after the warmup.

    Raises:
        TypeError, ValueError: one is of another type or out of range.
    """
    check("epochs", epochs, int, 1)
    check("batch_size", batch_size, int, 2, "one image alone has no negatives")
    check("chunk_size", 1 if chunk_size is None else chunk_size, int, 1)
    check("seed", seed, int, 0)
    own = defaults.get("optimizer", "adamw")
    optimizer = own if optimizer is None else optimizer
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"optimizer: got {optimizer!r}, want {', '.join(map(repr, OPTIMIZERS))}")
    if precision not in PRECISIONS:
        raise ValueError(f"precision: got {precision!r}, want {', '.join(map(repr, PRECISIONS))}")
    if batch_size > images:
        raise ValueError(f"batch_size: got {batch_size}, want at most the number of images, {images}")
    published = defaults if optimizer == own else {}
    scale = batch_size / 256
    if lr is None:
        by_optimizer = {"adamw": 1e-3, "sgd": 0.06 * scale, "lars": 0.3 * scale}
        lr = published["lr"] * scale if "lr" in published else by_optimizer[optimizer]
    if weight_decay is None:
        weight_decay = published.get("weight_decay", {"adamw": 1e-2, "sgd": 5e-4, "lars": 1e-6}[optimizer])
    if warmup_epochs is None:
        warmup_epochs = min(defaults.get("warmup_epochs", 10), epochs / 10)
    check("lr", lr, (int, float), 0)
    if lr == 0:
        raise ValueError("lr: got 0, want a number > 0")
    check("weight_decay", weight_decay, (int, float), 0)
    check("warmup_epochs", warmup_epochs, (int, float), 0)
    betas = published.get("betas", Settings.betas)
    return Settings(
        epochs,
        batch_size,
        float(lr),
        optimizer,
        float(weight_decay),
        float(warmup_epochs),
        seed,
        precision,
        images,
        betas,
        chunk_size,
    )


def check(name: str, value: object, kind: type | tuple[type, ...], least: float, why: str = "") -> None:
    """Check a number's type and lower bound.

    Raises:
        TypeError, ValueError: naming the argument, what it got and what it wants.
    """
    wanted = ("an int" if kind is int else "a number") + f" >= {least}" + (f": {why}" if why else "")
    if isinstance(value, bool) or not isinstance(value, kind):
        raise TypeError(f"{name}: got {type(value).__name__} {value!r}, want {wanted}")
    if not (isinstance(value, (int, float)) and least <= value < math.inf):
        raise ValueError(f"{name}: got {value}, want {wanted}")
