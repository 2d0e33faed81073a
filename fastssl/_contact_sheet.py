"""Contact sheets: images and the views that a recipe makes of them on one page, for a person to look at."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from torch import Tensor

from . import _folders
from ._extras import require
from ._images import RaggedImages
from ._normalization import channel_statistics
from .transforms import Transform

COLUMNS = 8  # recipes of few views are drawn as often as fits into so many columns
LEAST = 128  # smaller views are enlarged to about so many pixels, by a whole number
_MARGIN, _GAP, _HEADER = 6, 14, 26  # pixels: between pictures, between rows and draws, above the first row
_PAPER, _INK = "#e3e7eb", "#22303c"  # white and black views both show on grey


def read_images(paths: Sequence[str], most: int = 4) -> list[Tensor]:
    """Decode image files, uint8 [3, H, W] each; a folder stands for its first `most` files.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: a folder holds no images, or a file is none.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if not path.exists():
            raise FileNotFoundError(f"image: no file or folder {str(path)!r}")
        found = _folders.images_under(path)[:most] if path.is_dir() else [path]
        if not found:
            raise ValueError(f"image: no image files under {str(path)!r}")
        files += found
    images = []
    for file in files:
        image = _folders.decode(file)
        if image is None:
            raise ValueError(f"image: got {str(file)!r}, which cannot be read as an image")
        images.append(image)
    return images


def contact_sheet(images: Sequence[Tensor], transform: Transform, seed: int = 0) -> Any:
    """Draw a row for each image: the image, fitted, and its views, all of them at one scale.

    Args:
        images: uint8 [3, H, W] each, sizes as they come.
        transform: what makes the views.
        seed: of its draws.

    Returns:
        A PIL image.

    Raises:
        MissingExtraError: PIL is not installed.
    """
    image_module = require("PIL.Image", "fastssl augment")
    sizes = transform.recipe.sizes
    draws = max(1, COLUMNS // len(sizes))
    views = transform(RaggedImages.from_images([image for image in images for _ in range(draws)]), seed=seed)
    pictures = [_as_pixels(view, transform) for view in views]

    tallest = max(height for height, _ in sizes)
    zoom = max(1, round(LEAST / tallest))
    row = zoom * tallest
    originals = [image_module.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    originals = [_fitted(original, 3 * row // 2, row) for original in originals]

    left = _MARGIN + max(original.width for original in originals)
    titles, cells = [(_MARGIN, "image")], []
    for draw in range(draws):
        left += _GAP
        places, names, width = _arrange([(zoom * height, zoom * width) for height, width in sizes], row)
        of_draw = f"draw {draw + 1}, " if draws > 1 else ""
        titles += [(left + x, of_draw + name) for x, name in names]
        cells += [(draw, view, left + x, y) for view, (x, y) in enumerate(places)]
        left += width

    sheet = image_module.new("RGB", (left + _MARGIN, _HEADER + len(images) * (row + _GAP) - _GAP + _MARGIN), _PAPER)
    font = require("PIL.ImageFont", "fastssl augment").load_default(13)
    pen = require("PIL.ImageDraw", "fastssl augment").Draw(sheet)
    for x, title in titles:
        pen.text((x, _HEADER // 2), title, _INK, font, anchor="lm")
    for i, original in enumerate(originals):
        top = _HEADER + i * (row + _GAP)
        sheet.paste(original, (_MARGIN, top + (row - original.height) // 2))
        for draw, view, x, y in cells:
            picture = image_module.fromarray(pictures[view][i * draws + draw].numpy())
            size = zoom * picture.width, zoom * picture.height
            sheet.paste(picture.resize(size, image_module.Resampling.NEAREST), (x, top + y))
    return sheet


def _as_pixels(view: Tensor, transform: Transform) -> Tensor:
    """Normalised float [B, 3, h, w] -> uint8 [B, h, w, 3]."""
    mean, std = channel_statistics(3, transform.recipe.mean, transform.recipe.std)
    x = view.float().permute(0, 2, 3, 1)
    return ((x * x.new_tensor(std) + x.new_tensor(mean)) * 255).round().clamp(0, 255).byte().contiguous()


def _fitted(image: Any, width: int, height: int) -> Any:
    ratio = min(width / image.width, height / image.height)
    return image.resize([max(1, round(side * ratio)) for side in image.size])


def _arrange(sizes: Sequence[tuple[int, int]], row: int) -> tuple[list[tuple[int, int]], list[tuple[int, str]], int]:
    """Place the views of one draw in a row of that height; small ones of one size go on top of each other.

    Returns:
        (left, top) of each view, (left, title) of each column or block of them, and the width of it all.
    """
    places: list[tuple[int, int]] = []
    names: list[tuple[int, str]] = []
    left = 0
    for (height, width), group in groupby(sizes):
        count, first = len(list(group)), len(places)
        rows = min(count, (row + _MARGIN) // (height + _MARGIN))
        columns = -(-count // rows)
        top = (row - rows * (height + _MARGIN) + _MARGIN) // 2
        for i in range(count):
            y, x = divmod(i, columns)
            places.append((left + x * (width + _MARGIN), top + y * (height + _MARGIN)))
        if rows == 1:
            names += [(left + i * (width + _MARGIN), f"view {first + i + 1}") for i in range(count)]
        else:
            names.append((left, f"views {first + 1} to {first + count}"))
        left += columns * (width + _MARGIN)
    return places, names, left - _MARGIN
