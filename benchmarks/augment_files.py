"""Measures the whole way from JPEG files on disk to views: decoding in worker processes, transfer, augmentation.

The peer is a `DataLoader` whose workers decode with the same decoder and apply torchvision's v2 transforms to each
image.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from environment import cores
from harness import Row, rounded
from photographs import photographs
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fastssl import _folders, data, transforms
from fastssl._bench import interleave, time_call, torchvision_views

FILES, HEIGHT, WIDTH, QUALITY = 32, 375, 500, 92


@dataclass(frozen=True)
class Files:
    """An epoch of `images` JPEG files in batches, with two SimCLR views of each, and the seconds for timing."""

    images: int = 256
    batch: int = 32
    budget_s: float = 30

    @property
    def label(self) -> str:
        """For test names."""
        return f"files-b{self.batch}"


class _PerImage(Dataset):
    """Views of each file, made where it is decoded."""

    def __init__(self, files: Sequence[Path], views: Sequence[Callable[[Tensor], Tensor]]) -> None:
        self.files, self.views = files, views

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> list[Tensor]:
        image = _folders.decode(self.files[index])
        assert image is not None
        image = image.contiguous()
        return [view(image) for view in self.views]


def write_files(folder: Path) -> list[Path]:
    """Photographs of 500 x 375 pixels as JPEG files."""
    from PIL import Image

    files = [folder / f"{i}.jpg" for i in range(FILES)]
    for file, image in zip(files, photographs(FILES, HEIGHT, WIDTH), strict=True):
        Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(file, quality=QUALITY)
    return files


def folder_images(files: Sequence[Path], n: int) -> data.FolderImages:
    """A data set of `n` images that reads its files again each time."""
    return data.FolderImages([files[i % len(files)] for i in range(n)], torch.full((n,), -1), (), 224, "files")


def measure(problem: Files, device: str) -> list[Row]:
    """Rows of fastssl and, where it is installed, of torchvision."""
    workers, where = cores(), torch.device(device)
    with tempfile.TemporaryDirectory() as folder:
        images = folder_images(write_files(Path(folder)), problem.images)
        at = torch.arange(problem.images).split(problem.batch)
        loader = data.loader(images, [b.tolist() for b in at], workers, pin=where.type == "cuda", native=True)
        transform = transforms.SimCLR(224, interpolation="bilinear")
        held = [batch for batch, _ in loader]
        on_device = [batch.to(where) for batch in held]

        def whole() -> None:
            for batch, _ in loader:
                transform(batch.to(where, non_blocking=True))

        calls: dict[str, Callable[[], object]] = {
            "fastssl": whole,
            "decode": lambda: sum(1 for _ in loader),
            "augment": lambda: [transform(batch) for batch in on_device],
        }
        if where.type == "cuda":
            calls["transfer"] = lambda: [batch.to(where, non_blocking=True) for batch in held]
        peer = DataLoader(
            _PerImage(images.files, torchvision_views(transform.recipe)), problem.batch, num_workers=workers,
            persistent_workers=True,
        )  # fmt: skip
        calls["torchvision-uint8"] = lambda: sum(1 for _ in peer)
        steps = {name: lambda turn, call=call: time_call(call, where) for name, call in calls.items()}
        times = interleave(steps, 20, budget_s=problem.budget_s, least=2)
    ms = {name: statistics.median(values) for name, values in times.items()}
    return [_row(problem, name, device, workers, ms) for name in ("fastssl", "torchvision-uint8")]


def _row(problem: Files, name: str, device: str, workers: int, ms: dict[str, float]) -> Row:
    per_s = {who: 1e3 * problem.images / value for who, value in ms.items()}
    row: dict[str, Any] = {
        "op": "augment", "provider": name, "recipe": "files", "title": f"JPEG {WIDTH} × {HEIGHT} to 2 × 224",
        "device": device.split(":")[0], "workers": workers, "batch": problem.batch, "images": problem.images,
        "images_per_s": per_s[name], "decode_per_s": per_s["decode"], "fastssl_over": ms[name] / ms["fastssl"],
    }  # fmt: skip
    if name == "fastssl":
        # Stages run beside each other: their shares are of the times that each takes alone on all cores.
        alone_ms = {stage: ms[stage] for stage in ("decode", "transfer", "augment") if stage in ms}
        row |= {"augment_per_s": per_s["augment"], "transfer_per_s": per_s.get("transfer")}
        row |= {"shares": {stage: round(t / sum(alone_ms.values()), 3) for stage, t in alone_ms.items()}}
    else:
        decode = min(1.0, ms["decode"] / ms[name])
        row |= {"shares": {"decode": round(decode, 3), "augment": round(1 - decode, 3)}}
    return rounded(row)


def describe(rows: Sequence[Row]) -> None:
    """Print the rows."""
    for row in rows:
        shares = ", ".join(f"{stage} {100 * share:.0f} %" for stage, share in row["shares"].items())
        print(f"{row['title']:24} {row['provider']:18} {row['images_per_s']:9.1f} images/s ({shares})", flush=True)


def own(problem: Files, device: str) -> Callable[[], object]:
    """Decode and augment one batch in this process."""
    transform = transforms.SimCLR(224, interpolation="bilinear")

    def call() -> object:
        with tempfile.TemporaryDirectory() as folder:
            images = folder_images(write_files(Path(folder)), problem.batch)
            return transform(images.native_batch(range(problem.batch))[0].to(device))

    return call
