from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..data import DataSet, load, loader
from ..methods import encode
from ..methods._encoder import frozen


@dataclass(frozen=True)
class Features:
    """Features of a data set.

    Attributes:
        x: float32 [n, f] on the CPU.
        labels: int64 [n], -1 where there is none.
        classes: class names, empty where unlabelled.
        about: where they come from, for the protocol of a result.
    """

    x: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    about: dict[str, Any] = field(default_factory=dict)

    def take(self, places: Sequence[int]) -> Features:
        """The rows `places` as features of their own."""
        at = torch.as_tensor(places)
        return Features(self.x[at], self.labels[at], self.classes, self.about)


Data = DataSet | Features | str


def features(
    encoder: nn.Module | None,
    data: Data,
    *,
    batch_size: int = 256,
    workers: int = 0,
    transform: Callable[[Tensor], Tensor] | None = None,
) -> Features:
    """Compute the features of every image, in the order of the data; the encoder is left exactly as it was.

    Args:
        encoder: module float32 [B, C, H, W] -> [B, f] or [B, f, h, w] (averaged); None stands for the pixels.
        data: images, texts or signals, or the name or folder of a training split; features are returned as they are.
        batch_size: images a forward pass.
        workers: processes that read images; 0 reads them in this one.
        transform: a batch -> the encoder's input; by default as the data have it, `fastssl.transforms.normalize` of
            uint8 images.

    Returns:
        The features, float32 on the CPU.

    Raises:
        TypeError: `encoder` or `data` is of another type.
        ValueError: `batch_size` is not positive.
    """
    if isinstance(data, Features):
        return data
    if encoder is not None and not isinstance(encoder, nn.Module):
        raise TypeError(f"encoder: got {type(encoder).__name__}, want a torch.nn.Module, or None for the pixels")
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size: got {batch_size!r}, want an int >= 1")
    images = data if isinstance(data, DataSet) else load(data)
    order = torch.arange(len(images)).split(batch_size)
    batches = loader(images, [indices.tolist() for indices in order], workers)
    if encoder is None:
        rows = [images.to_plain(batch) for batch, _ in batches]
    else:
        device, to_input = device_of(encoder), transform or images.to_input
        with frozen(encoder):
            rows = [encode(encoder, to_input(batch.to(device))).float().cpu() for batch, _ in batches]
    about = {
        "data": images.name,
        **images.about,
        "encoder": images.plain if encoder is None else f"{type(encoder).__name__}, in eval mode",
        **({} if encoder is None else {"input": repr(transform) if transform else images.input}),
    }
    return Features(torch.cat(rows), images.labels, images.classes, about)


def device_of(encoder: nn.Module | None, device: torch.device | str | None = None) -> torch.device:
    """Return the device that is asked for, or else the encoder's."""
    if device is not None:
        return torch.device(device)
    parameters = () if encoder is None else encoder.parameters()
    return next((p.device for p in parameters), torch.device("cpu"))


def data_protocol(**parts: Features) -> dict[str, Any]:
    """Return what a protocol tells of features, by their roles such as train and test."""
    return {
        name: {"images": len(part.x), "features": part.x.shape[1], "classes": len(part.classes), **part.about}
        for name, part in parts.items()
    }


def labelled_pair(encoder: nn.Module | None, train: Data, test: Data, batch_size: int) -> tuple[Features, Features]:
    """Return the features of a labelled training and test set of the same classes."""
    if isinstance(test, str):
        test = load(test, split="test")
    pair = features(encoder, train, batch_size=batch_size), features(encoder, test, batch_size=batch_size)
    check_classes(*pair)
    return pair


def check_classes(train: DataSet | Features, test: DataSet | Features) -> None:
    """Raise a ValueError unless both have labels, and the same classes."""
    for name, part in (("train", train), ("test", test)):
        if not part.classes:
            raise ValueError(f"{name}: got unlabelled images, want labels: one sub-folder a class")
    if train.classes != test.classes:
        raise ValueError(f"test: got the classes {list(test.classes)}, want those of train, {list(train.classes)}")
