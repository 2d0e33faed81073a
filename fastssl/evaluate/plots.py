"""Plots of a run as PNG files."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ._drawing import BLUE as _BLUE
from ._drawing import GREY as _GREY
from ._drawing import INK as _INK
from ._drawing import SAND as _SAND
from ._drawing import new_axes as _axes
from ._drawing import save as _save
from ._drawing import scatter
from ._features import Features
from ._judgement_plots import label_efficiency, retrieval, shortcut_audit
from ._latent_plots import latent_scatter, latent_sweep, texts

__all__ = [
    "accuracy_bars", "embedding", "knn_curve", "label_efficiency", "latent_scatter", "latent_sweep", "loss_curve",
    "pictures", "retrieval", "shortcut_audit", "texts",
]  # fmt: skip


def loss_curve(history: Sequence[Mapping[str, Any]], path: str | os.PathLike[str], title: str = "") -> Path:
    """Plot the training loss over epochs.

    Args:
        history: rows with `epoch` (fractional) and `loss`, such as ``fit(...).history``;
            rows without loss are left out.
        path: the PNG file to write.
        title: above the plot.

    Returns:
        The path.
    """
    rows = [row for row in history if row.get("loss") is not None]
    figure, axes = _axes()
    epochs, losses = [r["epoch"] for r in rows], [r["loss"] for r in rows]
    axes.plot(epochs, losses, color=_BLUE, linewidth=0.8, alpha=0.35)
    axes.plot(epochs, smoothed(losses), color=_BLUE, linewidth=1.6)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(xlabel="epoch", ylabel="training loss", title=title)
    axes.grid(axis="y", color="#e6eaee")
    return _save(figure, path)


def smoothed(values: Sequence[float]) -> list[float]:
    """Return the mean of each value and those before it, over a fiftieth of the curve."""
    width = max(1, len(values) // 50)
    return [sum(values[max(0, i + 1 - width) : i + 1]) / min(i + 1, width) for i in range(len(values))]


def knn_curve(
    history: Sequence[Mapping[str, Any]],
    path: str | os.PathLike[str],
    baselines: Mapping[str, float] | None = None,
    title: str = "",
) -> Path:
    """Plot the kNN accuracy over epochs, with baselines as horizontal lines.

    Args:
        history: rows with `epoch` and `knn`; rows without `knn` are left out.
        path: the PNG file to write.
        baselines: accuracy in [0, 1] of what to compare with, by name.
        title: above the plot.

    Returns:
        The path.
    """
    rows = [row for row in history if row.get("knn") is not None]
    figure, axes = _axes()
    axes.plot(
        [r["epoch"] for r in rows], [100 * r["knn"] for r in rows], "o-", color=_BLUE, markersize=4, label="trained"
    )
    for (name, value), style in zip((baselines or {}).items(), ("--", ":", "-."), strict=False):
        axes.axhline(100 * value, color=_INK, linestyle=style, linewidth=1, label=name)
    axes.set(xlabel="epoch", ylabel="kNN accuracy (%)", title=title)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(axis="y", color="#e6eaee")
    if baselines:
        axes.legend(frameon=False, loc="center right")
    return _save(figure, path)


def embedding(features: Features, path: str | os.PathLike[str], title: str = "", most: int = 2000) -> Path:
    """Scatter the features over their first two principal components, coloured by class.

    Args:
        features: what to show; see `fastssl.evaluate.features`.
        path: the PNG file to write.
        title: above the plot.
        most: greatest number of points; more are thinned evenly.

    Returns:
        The path.
    """
    step = max(1, -(-len(features.x) // most))
    x = torch.nn.functional.normalize(features.x[::step].double())
    labels = features.labels[::step]
    x = x - x.mean(0)
    # The sign of a principal axis is arbitrary; numbers to six digits keep the picture the same between runs.
    _, vectors = torch.linalg.eigh(x.T @ x)
    points = x @ vectors[:, -2:].flip(1)
    figure, axes = _axes(6.4, 4.8)
    scatter(axes, points, labels, features.classes)
    axes.set(xlabel="first principal component", ylabel="second principal component", title=title)
    axes.set(xticks=[], yticks=[])
    return _save(figure, path)


def accuracy_bars(
    table: Mapping[str, Mapping[str, float]], path: str | os.PathLike[str], title: str = "", chance: float | None = None
) -> Path:
    """Plot accuracies as groups of bars.

    Args:
        table: accuracy in [0, 1] by representation (a bar's colour) and measure (a group); a representation may lack
            a measure that another has.
        path: the PNG file to write.
        title: above the plot.
        chance: accuracy of guessing, drawn as a line.

    Returns:
        The path.
    """
    figure, axes = _axes(7.2, 4.0)
    groups = list(dict.fromkeys(group for row in table.values() for group in row))
    width = 0.8 / len(table)
    for index, ((name, row), colour) in enumerate(zip(table.items(), (_GREY, _SAND, _BLUE, _INK), strict=False)):
        at = [g + (index - (len(table) - 1) / 2) * width for g, group in enumerate(groups) if group in row]
        bars = axes.bar(at, [100 * row[g] for g in groups if g in row], width * 0.94, color=colour, label=name)
        axes.bar_label(bars, fmt="%.0f", padding=2, fontsize=8, color=_INK)
    if chance is not None:
        axes.axhline(100 * chance, color=_INK, linestyle=":", linewidth=1, label="chance")
    axes.set(ylabel="test accuracy (%)", title=title, ylim=(0, 108))
    axes.set_xticks(range(len(groups)), [textwrap.fill(group, 18) for group in groups])
    axes.legend(frameon=False, ncols=len(table) + 1, loc="upper center", bbox_to_anchor=(0.5, -0.15))
    return _save(figure, path)


def pictures(rows: Mapping[str, torch.Tensor], path: str | os.PathLike[str], title: str = "") -> Path:
    """Draw rows of images below each other, such as originals, what the encoder sees, and reconstructions.

    Args:
        rows: images float [N, C, h, w] in [0, 1], C 1 or 3, by the name of the row; N the same for all.
        path: the PNG file to write.
        title: above the plot.

    Returns:
        The path.
    """
    drawn = {name: images.detach().float().cpu().clamp(0, 1) for name, images in rows.items()}
    n, _, height, width = next(iter(drawn.values())).shape
    figure, _ = _axes(0.6 + 1.1 * n, 0.5 + 1.1 * len(rows) * height / width)
    figure.clear()
    grid = figure.subplots(len(rows), n, squeeze=False)
    for axes_of_row, (name, images) in zip(grid, drawn.items(), strict=True):
        for axes, image in zip(axes_of_row, images, strict=True):
            axes.imshow(image.permute(1, 2, 0).squeeze(2), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        axes_of_row[0].set_ylabel(name, color=_INK, fontsize=9)
    figure.suptitle(title, color=_INK, fontsize=11)
    return _save(figure, path)
