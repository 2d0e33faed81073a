"""Image files: which there are under a folder, decoding them, and showing them at a fixed size."""

from __future__ import annotations

import os
from collections.abc import Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ._extras import require

EXTENSIONS = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}


def roots(root: Path, split: str) -> tuple[list[Path], bool]:
    """Return the folders of a split, and whether the folder itself says so, by sub-folders train and test (or val)."""
    parts = {"train": ("train",), "test": ("test", "val", "valid", "validation")}
    found = {key: next((root / n for n in names if (root / n).is_dir()), None) for key, names in parts.items()}
    given = found["train"] is not None and found["test"] is not None
    return ([r for key, r in found.items() if r is not None and split in (key, "all")] if given else [root]), given


def stratified(labels: Tensor, split: str, test_fraction: float = 0.2) -> Tensor:
    """Indices of a fixed stratified split, in ascending order."""
    if split == "all":
        return torch.arange(len(labels))
    generator = torch.Generator().manual_seed(0)
    test = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique().tolist():
        members = (labels == label).nonzero()[:, 0]
        order = torch.randperm(len(members), generator=generator)
        test[members[order[: int(len(members) * test_fraction)]]] = True
    return (test if split == "test" else ~test).nonzero()[:, 0]


def scan(roots: Sequence[Path], extensions: Set[str] = EXTENSIONS) -> tuple[list[Path], Tensor, list[str]]:
    """Return the files of these kinds under the roots in a fixed order, their labels, and the class names.

    The sub-folders of the roots are the classes; roots without any are flat, and all their labels -1.
    """
    folders = [d for r in roots for d in r.iterdir() if d.is_dir() and d.name[0] != "."]
    classes = sorted({d.name for d in folders if files_under(d, extensions)})
    files: list[Path] = []
    labels: list[int] = []
    for root in roots:
        if not classes:
            files += sorted(f for f in root.iterdir() if f.suffix.lower() in extensions and f.is_file())
        for label, name in enumerate(classes):
            members = files_under(root / name, extensions) if (root / name).is_dir() else []
            files += members
            labels += [label] * len(members)
    return files, torch.tensor(labels if classes else [-1] * len(files), dtype=torch.int64), classes


def images_under(folder: Path) -> list[Path]:
    """Return the image files in a folder and below it, sorted."""
    return files_under(folder, EXTENSIONS)


def files_under(folder: Path, extensions: Set[str]) -> list[Path]:
    """Return the files of these kinds in a folder and below it, sorted, without those under a hidden name."""
    found: list[Path] = []
    for at, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if name[0] != "."]
        found += [Path(at) / name for name in names if name[0] != "."]
    return sorted(path for path in found if path.suffix.lower() in extensions)


def _open(file: Path, decode_size: int | None) -> Any:
    image = require("PIL.Image", "reading images")
    opened = image.open(file)
    if decode_size is not None:
        # libjpeg leaves out the frequencies of the pixels it need not make; other formats ignore this.
        opened.draft(None, (decode_size, decode_size))
    return opened


def size(file: Path, decode_size: int | None = None) -> tuple[int, int] | None:
    """Return (width, height) from the file's header, or None where it is no image."""
    try:
        with _open(file, decode_size) as image:
            width, height = image.size
    except Exception:  # PIL raises many types on damaged files; each of them means the file is unusable
        return None
    return (width, height) if width and height else None


def decode(file: Path, decode_size: int | None = None) -> Tensor | None:
    """Decode a file to RGB at its own size.

    Args:
        file: in any format that PIL reads.
        decode_size: where given, libjpeg may decode a JPEG at 1/2, 1/4 or 1/8 of its size, both of whose sides remain
            at least so long.

    Returns:
        uint8 [3, H, W] in memory [H, W, 3], or None where the file cannot be read.
    """
    try:
        with _open(file, decode_size) as image:
            pixels = np.array(image.convert("RGB"))
    except Exception:
        return None
    return torch.from_numpy(pixels).permute(2, 0, 1)


def fit(image: Tensor, side: int) -> Tensor:
    """Resize an image's shorter side (antialiased bilinear) and crop the centre.

    Args:
        image: uint8 [3, H, W].
        side: height and width of the result in pixels.

    Returns:
        uint8 [3, side, side], contiguous.
    """
    image_module = require("PIL.Image", "reading images")
    rgb = image_module.fromarray(image.permute(1, 2, 0).numpy())
    ratio = side / min(rgb.size)
    width, height = (max(side, round(length * ratio)) for length in rgb.size)
    rgb = rgb.resize((width, height), image_module.Resampling.BILINEAR)
    left, top = (width - side) // 2, (height - side) // 2
    rgb = rgb.crop((left, top, left + side, top + side))
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1).contiguous()
