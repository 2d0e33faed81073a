"""What a data set is, and those of uint8 images and of float signals with int64 labels, held in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ._images import RaggedImages
from ._normalization import normalize, statistics


class DataSet(Dataset[tuple[Tensor, int]]):
    """Base of every data set here: what `fastssl.fit` and `fastssl.evaluate` ask of it, whatever it holds.

    Attributes:
        name: what it is called in reports.
        labels: int64 ``[n]``, class index of each item, -1 where unlabelled.
        classes: class names, empty where unlabelled.
        in_memory: whether reading an item is a mere copy, so that worker processes gain nothing.
        plain: what `to_plain` gives, in words.
        source: what `load` was called with, "" for data made otherwise.
    """

    name: str
    source: str = ""
    labels: Tensor
    classes: tuple[str, ...]
    in_memory: bool = True
    plain: str = "values as they are"

    @property
    def labelled(self) -> bool:
        """Whether the items carry class labels."""
        return len(self.classes) > 0

    def __len__(self) -> int:
        return int(self.labels.shape[0])

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        raise NotImplementedError

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Items ``indices`` as one tensor ``[B, ...]``, and their labels as int64 ``[B]``."""
        return torch.stack([self[i][0] for i in indices]), self.labels[list(indices)]

    def native_batch(self, indices: Sequence[int]) -> tuple[Any, Tensor]:
        """Items ``indices`` as training wants them, and their labels as int64 ``[B]``."""
        return self.batch(indices)

    def take(self, indices: Sequence[int]) -> DataSet:
        """The items ``indices`` as a data set of its own."""
        raise NotImplementedError

    def to_input(self, batch: Tensor) -> Tensor:
        """Return what an encoder gets of the items of `batch`."""
        return batch

    def to_plain(self, batch: Tensor) -> Tensor:
        """Return what stands for the items of `batch` where there is no encoder: float32 ``[B, f]``."""
        return batch.flatten(1).float()

    @property
    def input(self) -> str:
        """What `to_input` does, in words."""
        return "as it is"

    @property
    def about(self) -> dict[str, Any]:
        """What a run or a result tells of the items, besides their number and classes."""
        raise NotImplementedError

    @property
    def exported(self) -> dict[str, Any]:
        """What an exported encoder tells of its input: keyword arguments of `fastssl.methods.export_encoder`."""
        return self.about

    def leave(self, out: Path) -> None:
        """Write into the folder of a run what its encoder's input cannot be made without."""

    def _kinds(self) -> str:
        return f"{len(self.classes)} classes" if self.labelled else "no labels"


class Images(DataSet):
    """Base of data sets of images.

    Attributes:
        channels: channels of every image (1 or 3).
        image_size: height and width in pixels of every image that items and `batch` give.
    """

    channels: int
    image_size: int
    plain = "pixels in [0, 1]"

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Images ``indices`` as uint8 ``[B, C, H, W]`` and their labels as int64 ``[B]``."""
        return torch.stack([self[i][0] for i in indices]), self.labels[list(indices)]

    def native_batch(self, indices: Sequence[int]) -> tuple[Tensor | RaggedImages, Tensor]:
        """Images ``indices`` at their own sizes, as training wants them, and their labels as int64 ``[B]``."""
        return self.batch(indices)

    def take(self, indices: Sequence[int]) -> Images:
        """The images ``indices`` as a data set of its own."""
        return _Taken(self, indices)

    def to_input(self, batch: Tensor) -> Tensor:
        """Return `fastssl.transforms.normalize` of images."""
        return normalize(batch)

    def to_plain(self, batch: Tensor) -> Tensor:
        """Return the pixels of images, in [0, 1]."""
        return batch.flatten(1).float() / 255

    @property
    def input(self) -> str:
        """The formula of normalisation."""
        mean, std = statistics(self.channels)
        return f"(x / 255 - mean) / std, mean {mean}, std {std}"

    @property
    def about(self) -> dict[str, Any]:
        """Size and channels."""
        return {"image_size": self.image_size, "channels": self.channels}

    @property
    def exported(self) -> dict[str, Any]:
        """Size and channels, as `fastssl.methods.export_encoder` takes them."""
        return {"image_size": self.image_size, "in_chans": self.channels}

    def __repr__(self) -> str:
        size = f"{self.channels}x{self.image_size}x{self.image_size}"
        return f"{type(self).__name__}({self.name!r}, {len(self)} images {size}, {self._kinds()})"


class _Taken(Images):
    def __init__(self, base: Images, indices: Sequence[int]) -> None:
        self.base, self.indices = base, list(indices)
        self.name, self.classes, self.labels = base.name, base.classes, base.labels[self.indices]
        self.channels, self.image_size, self.in_memory = base.channels, base.image_size, base.in_memory

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.base[self.indices[index]]

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        return self.base.batch([self.indices[i] for i in indices])

    def native_batch(self, indices: Sequence[int]) -> tuple[Tensor | RaggedImages, Tensor]:
        return self.base.native_batch([self.indices[i] for i in indices])


class TensorImages(Images):
    """Images held in memory.

    Args:
        images: uint8 ``[n, C, H, H]``, C 1 or 3, square.
        labels: int64 ``[n]``, or None where there are none.
        classes: class names; by default ``"0"``, ``"1"`` ... up to the largest label.
        name: what to call the data in reports.

    Raises:
        TypeError, ValueError: images or labels of another type or shape.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor | None = None,
        classes: Sequence[str] | None = None,
        name: str = "images",
    ) -> None:
        if not isinstance(images, Tensor) or images.dtype != torch.uint8:
            got = images.dtype if isinstance(images, Tensor) else type(images).__name__
            raise TypeError(f"images: got {got}, want a uint8 tensor [n, C, H, H]")
        if images.ndim != 4 or images.shape[1] not in (1, 3) or images.shape[2] != images.shape[3]:
            raise ValueError(f"images: got shape {list(images.shape)}, want [n, C, H, H] with C 1 or 3")
        if len(images) == 0:
            raise ValueError("images: got 0 images, want at least 1")
        self.images, self.name = images, name
        self.labels, self.classes = labelled(labels, classes, len(images))
        self.channels = int(images.shape[1])
        self.image_size = int(images.shape[2])

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.labels[index])

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Images ``indices`` as uint8 ``[B, C, H, W]`` and their labels as int64 ``[B]``."""
        at = torch.as_tensor(indices)
        return self.images[at], self.labels[at]


class Clips(Images):
    """Short clips held in memory: evaluation looks at their first frames, training at all of them.

    Args:
        clips: uint8 ``[n, T, C, H, H]``, T frames each, C 1 or 3, square.
        masks: uint8 ``[n, T, H, H]``, which object each pixel belongs to, 0 for none.
        name: what to call the data in reports.

    Raises:
        TypeError, ValueError: clips or masks of another type or shape.
    """

    def __init__(self, clips: Tensor, masks: Tensor, name: str = "clips") -> None:
        for what, x, axes in (("clips", clips, "[n, T, C, H, H]"), ("masks", masks, "[n, T, H, H]")):
            if not isinstance(x, Tensor) or x.dtype != torch.uint8:
                got = x.dtype if isinstance(x, Tensor) else type(x).__name__
                raise TypeError(f"{what}: got {got}, want a uint8 tensor {axes}")
        if clips.ndim != 5 or 0 in clips.shape or clips.shape[2] not in (1, 3) or clips.shape[3] != clips.shape[4]:
            raise ValueError(f"clips: got shape {list(clips.shape)}, want [n, T, C, H, H] with C 1 or 3, none empty")
        if masks.shape != (*clips.shape[:2], *clips.shape[3:]):
            raise ValueError(f"masks: got shape {list(masks.shape)}, want [n, T, H, H] as the clips have them")
        self.clips, self.masks = clips, masks
        self.labels, self.classes = torch.full((len(clips),), -1), ()
        self.name = name
        self.channels, self.image_size = int(clips.shape[2]), int(clips.shape[3])

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.clips[index, 0], -1

    def native_batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Clips ``indices`` as uint8 ``[B, T, C, H, W]``, and their labels as int64 ``[B]``."""
        at = torch.as_tensor(indices)
        return self.clips[at], self.labels[at]

    def __repr__(self) -> str:
        frames = "x".join(map(str, self.clips.shape[2:]))
        return f"Clips({self.name!r}, {len(self)} clips of {self.clips.shape[1]} frames {frames})"


class TensorSignals(DataSet):
    """Signals held in memory, such as sound.

    Args:
        signals: float32 ``[n, C, T]``, C channels of T values each.
        labels: int64 ``[n]``, or None where there are none.
        classes: class names; by default ``"0"``, ``"1"`` ... up to the largest label.
        name: what to call the data in reports.

    Raises:
        TypeError, ValueError: signals or labels of another type or shape.
    """

    def __init__(
        self,
        signals: Tensor,
        labels: Tensor | None = None,
        classes: Sequence[str] | None = None,
        name: str = "signals",
    ) -> None:
        if not isinstance(signals, Tensor) or signals.dtype != torch.float32:
            got = signals.dtype if isinstance(signals, Tensor) else type(signals).__name__
            raise TypeError(f"signals: got {got}, want a float32 tensor [n, C, T]")
        if signals.ndim != 3 or 0 in signals.shape:
            raise ValueError(f"signals: got shape {list(signals.shape)}, want [n, C, T], none empty")
        self.signals, self.name = signals, name
        self.labels, self.classes = labelled(labels, classes, len(signals))

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.signals[index], int(self.labels[index])

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Signals ``indices`` as float32 ``[B, C, T]`` and their labels as int64 ``[B]``."""
        at = torch.as_tensor(indices)
        return self.signals[at], self.labels[at]

    def take(self, indices: Sequence[int]) -> TensorSignals:
        """The signals ``indices`` as a data set of its own."""
        return TensorSignals(*self.batch(indices), self.classes, self.name)

    @property
    def about(self) -> dict[str, Any]:
        """Channels and length."""
        return {"channels": self.signals.shape[1], "length": self.signals.shape[2]}

    def __repr__(self) -> str:
        size = "x".join(map(str, self.signals.shape[1:]))
        return f"TensorSignals({self.name!r}, {len(self)} signals {size}, {self._kinds()})"


def labelled(labels: Tensor | None, classes: Sequence[str] | None, n: int) -> tuple[Tensor, tuple[str, ...]]:
    """Return the labels and classes of a data set, checked, and made up where there are none."""
    if labels is None:
        return torch.full((n,), -1), ()
    if labels.dtype != torch.int64 or labels.shape != (n,):
        raise ValueError(f"labels: got {labels.dtype} {list(labels.shape)}, want int64 [{n}]")
    return labels, tuple([str(i) for i in range(int(labels.max()) + 1)] if classes is None else classes)
