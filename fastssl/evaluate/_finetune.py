"""Fine-tuning on labels: a linear layer alone, or the whole encoder with it, with layer-wise learning rates."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .._extras import require
from ..data import Images, load, loader
from ..functional import Recipe, View
from ..methods import encode
from ..methods._encoder import Wrapper, encoder_width, frozen
from ..transforms import Transform, normalize
from ._features import check_classes, device_of
from ._subsets import SubsetResult, draw_subsets, spread, subset_protocol

Data = Images | str
HEAD = "the linear layer alone, on features of the encoder in eval mode"


@dataclass(frozen=True, kw_only=True)
class FinetuneResult(SubsetResult):
    """Result of `finetune`."""

    @property
    def scores(self) -> dict[str, float]:
        """The accuracy."""
        return self.named("linear layer" if self.protocol["trained"] == HEAD else "fine-tuned")


def finetune(
    encoder: nn.Module,
    train: Data,
    test: Data,
    *,
    labels_per_class: int | None = None,
    subsets: int = 5,
    seed: int = 0,
    epochs: int = 100,
    batch_size: int = 64,
    lr: float = 1e-3,
    layer_decay: float = 0.75,
    frozen: bool = False,
    weight_decay: float = 0.05,
    warmup_epochs: float | None = None,
    transform: Callable[[Tensor], list[Tensor]] | None = None,
    feature_dim: int | None = None,
    progress: bool = True,
) -> FinetuneResult:
    """Train a copy of the whole encoder and a linear layer on labels, and classify test images.

    AdamW, with a learning rate that is smaller by `layer_decay` with every layer further from the output, a linear
    warmup and half a cosine to 0; cross-entropy. The test images are looked at once, after the last step. The encoder
    itself is left exactly as it was. An untrained encoder under the same call tells what training it was worth.

    The three customary forms are ``frozen=True``, the linear layer alone; ``layer_decay=1``, everything alike; and
    layer-wise decay, which is the default.

    Args:
        encoder: module float32 [B, C, H, W] -> [B, f] or [B, f, h, w] (averaged). The copy trains where it is.
        train: labelled images, or a name or folder (its training split).
        test: the same (a name or folder: its test split), with the same classes.
        labels_per_class: train on so many random labels of each class, and average over `subsets` such draws, the same
            as those of `linear_probe` for the same seed; None trains once on all labels.
        subsets: number of random draws where `labels_per_class` is given.
        seed: of the draws, the linear layer, the order and the augmentation.
        epochs: passes through the labelled images, >= 1.
        batch_size: images a step, >= 2; steps of an epoch have as equal numbers as possible.
        lr: peak learning rate of the last layer, > 0.
        layer_decay: in (0, 1]; 1 trains all layers alike.
        frozen: train the linear layer alone, by the same loop; the encoder stays in eval mode, as it is.
        weight_decay: >= 0; biases, norms, positions and tokens are not decayed.
        warmup_epochs: >= 0; by default a tenth of the epochs.
        transform: uint8 [B, C, H, W] -> list of one view. By default crops of at least 0.6 of the area and, unless the
            images are grey and up to 16 pixels, mirror images.
        feature_dim: f, where the encoder has no attribute `num_features` to tell.
        progress: show a progress bar on a terminal.

    Returns:
        The accuracy and its spread.

    Raises:
        TypeError, ValueError: an argument is of another type or out of range, the images have no labels, or a
            class has fewer images than `labels_per_class`.
        MissingExtraError: timm or tqdm is not installed.

    Source: He et al. 2022, "Masked Autoencoders Are Scalable Vision Learners", appendix A, with lighter augmentation;
        layer-wise decay: Clark et al. 2020, "ELECTRA".
    """
    for module in ("timm.optim", "tqdm.auto"):
        require(module, "finetune")
    width = encoder_width(encoder, feature_dim)
    for name, value, least in (
        ("labels_per_class", labels_per_class, 1), ("subsets", subsets, 1), ("epochs", epochs, 1),
        ("batch_size", batch_size, 2),
    ):  # fmt: skip
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            raise ValueError(f"{name}: got {value!r}, want an int >= {least}")
    warmup = epochs / 10 if warmup_epochs is None else warmup_epochs
    for name, number, fits, wanted in (
        ("lr", lr, lr > 0, "> 0"), ("layer_decay", layer_decay, 0 < layer_decay <= 1, "in (0, 1]"),
        ("weight_decay", weight_decay, weight_decay >= 0, ">= 0"), ("warmup_epochs", warmup, warmup >= 0, ">= 0"),
    ):  # fmt: skip
        if not fits:
            raise ValueError(f"{name}: got {number}, want a number {wanted}")
    known, asked = load(train), load(test, split="test")
    check_classes(known, asked)
    if transform is None:
        transform = _light(known.channels, known.image_size)

    draws = draw_subsets(known.labels, labels_per_class, subsets, seed)
    per_epoch = -(-len(draws[0]) // batch_size)
    device = device_of(encoder)
    bar = require("tqdm.auto", "finetune").tqdm(
        total=len(draws) * epochs * per_epoch, unit="step", desc="fine-tuning", leave=False,
        disable=None if progress else True, dynamic_ncols=True,
    )  # fmt: skip
    accuracies = []
    with bar, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        for i, at in enumerate(draws):
            torch.manual_seed(seed + i)
            model = _Classifier(copy.deepcopy(encoder), width, len(known.classes), frozen).to(device).train()
            groups = _groups(model, lr, layer_decay, weight_decay)
            optimizer = torch.optim.AdamW(groups, lr=lr)
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _factor(warmup * per_epoch, epochs * per_epoch))
            batches = [
                part.tolist() for _ in range(epochs) for part in at[torch.randperm(len(at))].tensor_split(per_epoch)
            ]
            for images, labels in loader(known, batches):
                (view,) = transform(images.to(device))
                loss = nn.functional.cross_entropy(model(view), labels.to(device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                bar.update()
            accuracies.append(_accuracy(model, asked, device))
    whole = "everything alike" if layer_decay == 1 else f"everything, {layer_decay} times as fast with each layer down"
    protocol = {
        "trained": HEAD if frozen else whole,
        "optimizer": "AdamW, linear warmup and half a cosine to 0; biases, norms, positions and tokens are not decayed",
        **{"lr": lr, "weight_decay": weight_decay, "epochs": epochs, "warmup_epochs": warmup, "batch_size": batch_size},
        "steps": epochs * per_epoch,
        "augmentation": repr(transform),
        "normalisation": "images as by fastssl.transforms.normalize; features as they are",
        "selection": "none, the last step",
        "encoder": type(encoder).__name__,
        **subset_protocol(labels_per_class, subsets, seed),
        "train": {"data": known.name, "images": len(known), "image_size": known.image_size, "channels": known.channels},
        "test": {"data": asked.name, "images": len(asked)},
    }
    return FinetuneResult(**spread(accuracies), labels_per_class=labels_per_class, protocol=protocol)


class _Classifier(nn.Module):
    def __init__(self, encoder: nn.Module, width: int, classes: int, frozen: bool = False) -> None:
        super().__init__()
        self.encoder, self.frozen = encoder.requires_grad_(not frozen), frozen
        self.head = nn.Linear(width, classes)
        nn.init.trunc_normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def train(self, mode: bool = True) -> _Classifier:
        """Switch the mode; that of a frozen encoder is always eval."""
        super().train(mode)
        self.encoder.train(mode and not self.frozen)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.head(encode(self.encoder, x))
        return logits


def _light(channels: int, size: int) -> Transform:
    character = channels == 1 and size <= 16
    return Transform(Recipe((View(size, (0.6, 1.0), hflip_p=0.0 if character else 0.5),), "bilinear"))


def _groups(model: _Classifier, lr: float, layer_decay: float, weight_decay: float) -> list[dict[str, Any]]:
    """Groups of the parameters that are trained, with the learning rates of their layers."""
    head = [
        {"params": [model.head.weight], "weight_decay": weight_decay, "lr": lr},
        {"params": [model.head.bias], "weight_decay": 0.0, "lr": lr},
    ]
    if model.frozen:
        return head
    optim = require("timm.optim", "finetune")
    # Of an encoder that is made of others, which are beside each other, the layers are theirs.
    parts = list(model.encoder.encoders) if isinstance(model.encoder, Wrapper) else [model.encoder]
    groups = [
        group
        for part in parts
        for group in optim.param_groups_layer_decay(
            part,
            weight_decay,
            no_weight_decay_list=getattr(part, "no_weight_decay", set)(),
            layer_decay=layer_decay,
        )
    ]
    # The linear layer is one more layer, above those that timm counts.
    found = [{**group, "lr": lr * layer_decay * group["lr_scale"]} for group in groups]
    return found + head


def _factor(warmup: float, steps: int) -> Callable[[int], float]:
    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1.0, steps - warmup)))

    return factor


def _accuracy(model: nn.Module, images: Images, device: torch.device) -> float:
    order = torch.arange(len(images)).split(256)
    with frozen(model):
        predicted = [
            model(normalize(x.to(device))).argmax(1).cpu() for x, _ in loader(images, [i.tolist() for i in order])
        ]
    return (torch.cat(predicted) == images.labels).double().mean().item()
