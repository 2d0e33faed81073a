"""Plots of what is between encoder and decoder, and of hidden words."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ._drawing import BLUE, INK, RED, new_axes, save, scatter
from ._features import Features


def latent_scatter(
    codes: Features,
    path: str | os.PathLike[str],
    title: str = "",
    dims: tuple[int, int] | None = None,
    most: int = 2000,
) -> Path:
    """Scatter codes over two of their numbers, or over their first two principal components, coloured by class.

    Args:
        codes: codes [n, d], d >= 2, such as an autoencoder's ``latents(images)``, with their labels.
        path: the PNG file to write.
        title: above the plot.
        dims: the two numbers; by default principal components, of codes as they are.
        most: greatest number of points; more are thinned evenly.

    Returns:
        The path.

    Raises:
        ValueError: the codes do not have these two numbers.
    """
    step = max(1, -(-len(codes.x) // most))
    x, labels = codes.x[::step].double(), codes.labels[::step]
    if min(x.shape) < 2 or not all(0 <= dim < x.shape[1] for dim in dims or ()):
        which = dims or "two principal components"
        raise ValueError(f"dims: got {which} for {len(x)} codes of {x.shape[1]} numbers, want two of each at least")
    figure, axes = new_axes(6.4, 4.8)
    if dims is not None:
        points, names = x[:, list(dims)], (f"code {dims[0]}", f"code {dims[1]}")
    else:
        u, s, _ = torch.linalg.svd(x - x.mean(0), full_matrices=False)
        points = u[:, :2] * s[:2]
        first, second = (100 * s.square() / s.square().sum().clamp(min=1e-300))[:2].tolist()
        names = f"first principal component ({first:.0f} %)", f"second principal component ({second:.0f} %)"
    scatter(axes, points, labels, codes.classes)
    axes.set(xlabel=names[0], ylabel=names[1], title=title)
    return save(figure, path)


def latent_sweep(
    sweep: Tensor, path: str | os.PathLike[str], title: str = "", dims: Sequence[int] | None = None, span: float = 2.0
) -> Path:
    """Draw a latent sweep: a row for each number of the code that moves, while the others are held.

    Args:
        sweep: float [D, steps, C, H, W] in [0, 1], such as an autoencoder's ``latent_sweep(images)``.
        path: the PNG file to write.
        title: above the plot.
        dims: which numbers they are, at the rows.
        span: how far they moved to both sides, in standard deviations, above the columns.

    Returns:
        The path.
    """
    pictures = sweep.detach().float().cpu().clamp(0, 1)
    rows, steps, _, height, width = pictures.shape
    figure, _ = new_axes(0.7 + 0.9 * steps, 0.8 + 0.9 * rows * height / width)
    figure.clear()
    grid = figure.subplots(rows, steps, squeeze=False)
    for i, of_row in enumerate(grid):
        for j, axes in enumerate(of_row):
            picture = pictures[i, j].permute(1, 2, 0).squeeze(2)
            axes.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        of_row[0].set_ylabel(f"code {dims[i] if dims else i}", color=INK, fontsize=9)
    for axes, at in zip(grid[0], torch.linspace(-span, span, steps).tolist(), strict=True):
        axes.set_title(f"{at:+.1f} σ", color=INK, fontsize=8)
    figure.suptitle(title, color=INK, fontsize=11)
    return save(figure, path)


def texts(
    rows: Mapping[str, Sequence[Sequence[str]]],
    path: str | os.PathLike[str],
    title: str = "",
    most: int = 4,
    width: int = 96,
) -> Path:
    """Draw texts with hidden words: what was predicted where, right in blue and wrong in red, above what was there.

    Args:
        rows: words of N texts by the name of the row: "text", "seen" with other words where some are hidden, and
            "predicted", of the same lengths.
        path: the PNG file to write.
        title: above the plot.
        most: greatest number of texts, of which the first are drawn.
        width: letters in a line.

    Returns:
        The path.
    """
    lines: list[list[tuple[int, str, str, str]]] = []  # of (column, word, what was there, colour)
    for words, seen, predicted in list(zip(rows["text"], rows["seen"], rows["predicted"], strict=True))[:most]:
        lines.append([])
        column = 0
        for true, shown, guess in zip(words, seen, predicted, strict=True):
            hidden = shown != true
            word, below = (_shown(guess), _shown(true)) if hidden else (_plain(true), "")
            room = max(len(word), len(below))
            if column + room > width:
                lines.append([])
                column = 0
            lines[-1].append((column, word, "" if guess == true else below, _colour(hidden, guess == true)))
            column += room
        lines.append([])
    letter, line = 0.078, 0.3  # inches, of the typewriter font below
    figure, axes = new_axes(width * letter + 0.4, len(lines) * line + 0.5)
    legend = "hidden words as they are predicted: blue right; red wrong, above what was there"
    axes.set(xlim=(0, width), ylim=(len(lines), 0), title=f"{title}: {legend}" if title else legend)
    axes.title.set_fontsize(9)
    axes.set_axis_off()
    for y, of_line in enumerate(lines):
        for column, word, below, colour in of_line:
            font = {"family": "monospace", "va": "center", "parse_math": False}
            weight = "normal" if colour == INK else "bold"
            axes.text(column, y + 0.35, word, color=colour, fontsize=9, weight=weight, **font)
            axes.text(column, y + 0.75, below, color=INK, alpha=0.6, fontsize=6.5, style="italic", **font)
    return save(figure, path)


def _plain(word: str) -> str:
    """A word on one line, of letters that a font has."""
    return "".join(" " if letter.isspace() else letter if letter.isprintable() else "?" for letter in word)


def _shown(word: str) -> str:
    """The same, where blanks alone would not be seen."""
    return _plain(word) if word.strip() else "".join("↵" if letter == "\n" else "␣" for letter in word) or "?"


def _colour(hidden: bool, right: bool) -> str:
    return INK if not hidden else BLUE if right else RED
