"""Images as uint8 tensors with int64 labels: the embedded data sets, and any folder of images.

Everything here is a map-style ``torch.utils.data.Dataset`` whose item is ``(image, label)`` with image uint8
``[C, H, W]`` and label an int (-1 where there is none). Evaluation looks at batches of one size, uint8
``[B, C, H, W]``; training gets images as they are, of a folder as `fastssl.RaggedImages`, since the crop of a method's
``augment`` resizes them anyway. Images stay uint8 until then.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from . import _clips, _folders, _photos
from ._datasets import Clips, DataSet, Images, TensorImages, TensorSignals
from ._extras import require
from ._images import RaggedImages
from ._shapes import SHAPE_NAMES, draw
from ._texts import Texts, texts

__all__ = [
    "Clips", "DataSet", "FolderImages", "Images", "TensorImages", "TensorSignals", "Texts", "clips", "digits", "load",
    "loader", "photos", "shapes", "texts",
]  # fmt: skip

NAMES = ("digits", "shapes", "photos", "clips", "pydoc")  # which `load` knows
SPLITS = ("train", "test", "all")

# A folder at most this large, counted in decoded bytes, is kept decoded in memory; a larger one is read from disk
# batch by batch, and only its file headers are checked up front.
IN_MEMORY_FILES = 10_000
IN_MEMORY_BYTES = 512 * 2**20

_Data = TypeVar("_Data", bound=DataSet)


class FolderImages(Images):
    """Image files, decoded to RGB: all of them at once into memory, or each when it is read.

    `native_batch` gives images as they were decoded, for training. Items and `batch` show them at a fixed size, for
    evaluation: the shorter side resized to ``image_size`` (antialiased bilinear) and the centre cropped. A file that
    turns out to be unreadable when it is read is reported once and replaced by the next readable one.

    Args:
        files: the image files.
        labels: int64 ``[n]``, -1 where unlabelled.
        classes: class names.
        image_size: height and width of the images of items and `batch`, in pixels.
        name: what to call the data in reports.
        decode_size: see `load`.
        decoded: the files' images, where they are in memory.
    """

    channels = 3

    def __init__(
        self,
        files: Sequence[Path],
        labels: Tensor,
        classes: Sequence[str],
        image_size: int,
        name: str,
        decode_size: int | None = None,
        decoded: RaggedImages | None = None,
    ) -> None:
        self.files = list(files)
        self.labels = labels
        self.classes = tuple(classes)
        self.image_size = image_size
        self.name = name
        self.in_memory = decoded is not None
        self._decode_size, self._decoded = decode_size, decoded
        self._reported: set[int] = set()

    def _read(self, index: int) -> tuple[Tensor, int]:
        """One image, uint8 [3, H, W] at its own size, and its label."""
        if self._decoded is not None:
            return self._decoded[index], int(self.labels[index])
        for step in range(len(self.files)):
            at = (index + step) % len(self.files)
            image = _folders.decode(self.files[at], self._decode_size)
            if image is not None:
                return image, int(self.labels[at])
            if at not in self._reported:
                self._reported.add(at)
                warnings.warn(f"data: cannot decode {self.files[at]}; another image stands in", stacklevel=3)
        raise ValueError(f"data: none of the {len(self.files)} files of {self.name} can be decoded")

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self._read(index)
        return _folders.fit(image, self.image_size), label

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Images ``indices`` as uint8 ``[B, 3, H, W]`` and their labels as int64 ``[B]``."""
        images, labels = zip(*(self[i] for i in indices), strict=True)
        return torch.stack(images), torch.tensor(labels)

    def native_batch(self, indices: Sequence[int]) -> tuple[RaggedImages, Tensor]:
        """Images ``indices`` at their own sizes, and their labels as int64 ``[B]``."""
        images, labels = zip(*(self._read(i) for i in indices), strict=True)
        return RaggedImages.from_images(images), torch.tensor(labels)


@overload
def load(source: Literal["pydoc"], *, split: str = ...) -> Texts: ...  # type: ignore[overload-overlap]


@overload
def load(source: _Data, *, split: str = ..., image_size: int | None = ..., decode_size: int | None = ...) -> _Data: ...


@overload
def load(
    source: str | os.PathLike[str], *, split: str = ..., image_size: int | None = ..., decode_size: int | None = ...
) -> Images: ...


def load(
    source: str | os.PathLike[str] | DataSet,
    *,
    split: str = "train",
    image_size: int | None = None,
    decode_size: int | None = None,
) -> DataSet:
    """Load a data set by name or by path.

    Args:
        source: ``"digits"``, ``"shapes"``, ``"photos"``, ``"clips"``, a folder of images, or a data set (returned as it
            is). A folder with sub-folders takes each sub-folder's name as the class; a flat folder is unlabelled. Or
            ``"pydoc"``, which is text; folders of text are read by `texts`.
        split: ``"train"``, ``"test"`` or ``"all"``. A folder holding ``train`` and ``test`` (or ``val``)
            sub-folders is split by them; any other labelled folder is split 80/20 within each class, always in
            the same way. An unlabelled folder has no test split, and its train split is everything.
        image_size: height and width in pixels; by default the data set's own, and 224 for a folder, where it is the
            size that evaluation sees. Training crops from the images of a folder as they are.
        decode_size: for folders of large photographs. libjpeg may decode a JPEG at 1/2, 1/4 or 1/8 of its size, as
            long as both sides keep so many pixels; by default every image is decoded at its own size.

    Returns:
        A data set of uint8 images. A small folder (10,000 files, 512 MiB) is decoded at once and kept in memory.

    Raises:
        FileNotFoundError: ``source`` is neither a known name nor a folder.
        ValueError: the folder holds no readable image, or ``split`` or a size is out of range.
    """
    if isinstance(source, DataSet):
        return source
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(f"data: got {type(source).__name__}, want {_named()}, a folder or a data set")
    if split not in SPLITS:
        raise ValueError(f"split: got {split!r}, want 'train', 'test' or 'all'")
    for name, value in (("image_size", image_size), ("decode_size", decode_size)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ValueError(f"{name}: got {value!r}, want an int >= 1 (pixels)")
    images = _load(source, split, image_size, decode_size)
    images.source = str(source) if source in NAMES else str(Path(source).resolve())
    return images


def _named() -> str:
    return ", ".join(map(repr, NAMES))


def _load(source: str | os.PathLike[str], split: str, image_size: int | None, decode_size: int | None) -> DataSet:
    if source == "digits":
        if image_size not in (None, 8):
            raise ValueError(f"image_size: got {image_size} for 'digits', want 8")
        return digits(split)
    if source == "shapes":
        sizes_and_seeds = {"train": [(5000, 0)], "test": [(1000, 2)], "all": [(5000, 0), (1000, 2)]}
        parts = [shapes(n, seed=seed, image_size=image_size or 32) for n, seed in sizes_and_seeds[split]]
        images, labels = (torch.cat([getattr(part, name) for part in parts]) for name in ("images", "labels"))
        return TensorImages(images, labels, SHAPE_NAMES, "shapes")
    if source == "photos":
        return photos(split, image_size=image_size or 64)
    if source == "pydoc":
        return texts("pydoc", split=split)
    if source == "clips":
        n, seed = {"train": (500, 0), "test": (100, 2), "all": (600, 4)}[split]
        return clips(n, seed=seed, image_size=image_size or 64)
    return _folder(Path(source), split, image_size or 224, decode_size)


def loader(
    data: DataSet,
    batch_sampler: Sampler[list[int]] | Sequence[list[int]],
    workers: int = 0,
    pin: bool = False,
    native: bool = False,
) -> DataLoader[Any]:
    """A ``DataLoader`` of batches in the order of ``batch_sampler``.

    Each is what ``data.batch`` returns, or with ``native`` what ``data.native_batch`` returns.
    """
    # The items are the indices, and collating them is reading their batch.
    return DataLoader(
        range(len(data)),  # type: ignore[arg-type]
        batch_sampler=batch_sampler,
        num_workers=workers,
        collate_fn=data.native_batch if native else data.batch,
        pin_memory=pin,
        persistent_workers=workers > 0,
    )


def digits(split: str = "train") -> TensorImages:
    """Scikit-learn's handwritten digits: 1797 grey images of 8x8, 10 classes, values scaled from 0..16 to 0..255.

    Args:
        split: ``"train"`` (1442), ``"test"`` (355) or ``"all"``; the split is stratified and never changes.

    Returns:
        Images uint8 ``[n, 1, 8, 8]`` with labels int64 ``[n]``.
    """
    bunch = require("sklearn.datasets", "the data set 'digits'").load_digits()
    images = torch.from_numpy(np.round(bunch.images * (255 / 16)).astype(np.uint8))[:, None]
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    keep = _folders.stratified(labels, split)
    return TensorImages(images[keep], labels[keep], [str(i) for i in range(10)], "digits")


def shapes(n: int = 5000, *, seed: int = 0, image_size: int = 32) -> TensorImages:
    """Generated pictures of one object each, whose class is its shape and nothing else.

    Ten shapes (disc, square, triangle, star, plus, ring, crescent, half disc, bar, corner) in equal numbers.
    Colour, position, size, rotation, background (a colour gradient, stripes, blobs) and noise are drawn independently
    of the shape, so pixels close to each other say little about the class.

    Args:
        n: number of images, at least 1.
        seed: the same seed gives the same images on every run.
        image_size: height and width in pixels, at least 8.

    Returns:
        Images uint8 ``[n, 3, image_size, image_size]`` with labels int64 ``[n]``.
    """
    if not isinstance(n, int) or n < 1:
        raise ValueError(f"n: got {n!r}, want an int >= 1 (images)")
    if not isinstance(image_size, int) or image_size < 8:
        raise ValueError(f"image_size: got {image_size!r}, want an int >= 8 (pixels)")
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % len(SHAPE_NAMES)
    labels = labels[torch.randperm(n, generator=rng)]
    images = torch.empty(n, 3, image_size, image_size, dtype=torch.uint8)
    for start in range(0, n, 1024):  # chunks bound the memory of the float intermediates
        images[start : start + 1024] = draw(labels[start : start + 1024], image_size, rng)
    return TensorImages(images, labels, SHAPE_NAMES, "shapes")


def photos(split: str = "train", *, image_size: int = 64) -> TensorImages:
    """Crops of the two photographs that come with scikit-learn, in colour; the class is the photograph.

    Args:
        split: ``"train"`` (2000 crops of the upper three fifths of both), ``"test"`` (400 of the rest) or ``"all"``;
            they never change, and no pixel is in both.
        image_size: height and width in pixels, to which crops of 64 to 160 pixels a side are scaled.

    Returns:
        Images uint8 ``[n, 3, image_size, image_size]`` with labels int64 ``[n]``.
    """
    images, labels = _photos.crops(split, image_size)
    return TensorImages(images, labels, _photos.NAMES, "photos")


def clips(n: int = 500, frames: int = 8, *, seed: int = 0, image_size: int = 64) -> Clips:
    """Generated clips: two of the objects of `shapes` that move, turn and overlap, while the camera moves, too.

    Objects are striped in two colours, which they keep; those of the objects and of the background are drawn
    independently of anything else.

    Args:
        n: number of clips, at least 1.
        frames: of each, at least 1.
        seed: the same seed gives the same clips on every run.
        image_size: height and width in pixels, at least 8.

    Returns:
        Clips uint8 ``[n, frames, 3, image_size, image_size]`` with masks of the two objects, without labels.
    """
    for name, value, least in (("n", n, 1), ("frames", frames, 1), ("image_size", image_size, 8)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name}: got {value!r}, want an int >= {least}")
    return Clips(*_clips.draw(n, frames, image_size, torch.Generator().manual_seed(seed)))


def _folder(root: Path, split: str, image_size: int, decode_size: int | None) -> FolderImages:
    if not root.exists():
        raise FileNotFoundError(f"data: no folder {str(root)!r}, and the named data sets are {_named()}")
    if not root.is_dir():
        raise NotADirectoryError(f"data: got the file {str(root)!r}, want a folder of images")
    name = root.resolve().name
    roots, given = _folders.roots(root, split)
    files, labels, classes = _folders.scan(roots)
    if not files:
        raise ValueError(
            f"data: no image files under {str(root)!r} (looked for {', '.join(sorted(_folders.EXTENSIONS))})"
        )
    if not classes and split == "test" and not given:
        raise ValueError(f"split: got 'test' for {str(root)!r}, a flat folder, whose images have no labels")
    if classes and not given:
        keep = _folders.stratified(labels, split)
        if len(keep) == 0:
            raise ValueError(
                f"split: got {split!r}, which is empty for {str(root)!r}: a class needs 5 images to be split"
            )
        files, labels = [files[i] for i in keep.tolist()], labels[keep]

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding releases the interpreter lock
        sizes = list(pool.map(lambda file: _folders.size(file, decode_size), files))
        total = sum(3 * found[0] * found[1] for found in sizes if found is not None)
        in_memory = len(files) <= IN_MEMORY_FILES and total <= IN_MEMORY_BYTES
        images = list(pool.map(lambda file: _folders.decode(file, decode_size), files)) if in_memory else sizes
    bad = [file for file, image in zip(files, images, strict=True) if image is None]
    if bad:
        names = ", ".join(str(file) for file in bad[:5]) + (", ..." if len(bad) > 5 else "")
        warnings.warn(
            f"data: skipped {len(bad)} of {len(files)} files that are not readable images: {names}", stacklevel=4
        )
    good = [i for i, image in enumerate(images) if image is not None]
    if not good:
        raise ValueError(f"data: none of the {len(files)} image files under {str(root)!r} can be read")
    decoded = RaggedImages.from_images([image for image in images if isinstance(image, Tensor)]) if in_memory else None
    files, labels = [files[i] for i in good], labels[good]
    return FolderImages(files, labels, classes, image_size, name, decode_size, decoded)
