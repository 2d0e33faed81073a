"""Plots of a run as PNG files."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from .._extras import require
from ._features import Features

__all__ = ["accuracy_bars", "embedding", "knn_curve", "loss_curve", "pictures"]

_INK, _BLUE, _GREY, _SAND = "#22303c", "#1f6feb", "#9aa7b4", "#d8b26e"


def _axes(width: float = 6.4, height: float = 4.0) -> tuple[Any, Any]:
    # The object interface, not pyplot: no window system, and no figure left open in somebody's session.
    figure_module = require("matplotlib.figure", "fastssl.evaluate.plots")
    figure = figure_module.Figure(figsize=(width, height), dpi=130, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=_INK)
    return figure, axes


def _save(figure: Any, path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


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
    width = max(1, len(rows) // 50)  # the mean of a fiftieth of the curve, over the curve itself
    smooth = [sum(losses[max(0, i + 1 - width) : i + 1]) / min(i + 1, width) for i in range(len(losses))]
    axes.plot(epochs, losses, color=_BLUE, linewidth=0.8, alpha=0.35)
    axes.plot(epochs, smooth, color=_BLUE, linewidth=1.6)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(xlabel="epoch", ylabel="training loss", title=title)
    axes.grid(axis="y", color="#e6eaee")
    return _save(figure, path)


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
    if not features.classes:
        axes.scatter(points[:, 0], points[:, 1], s=8, color=_BLUE, alpha=0.6, linewidths=0)
    else:
        colours = require("matplotlib", "fastssl.evaluate.plots").colormaps[
            "tab10" if len(features.classes) <= 10 else "tab20"
        ]
        for index, name in enumerate(features.classes):
            of_class = points[labels == index]
            axes.scatter(
                of_class[:, 0],
                of_class[:, 1],
                s=10,
                color=colours(index % colours.N),
                alpha=0.75,
                linewidths=0,
                label=name,
            )
        if len(features.classes) <= 20:
            axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), markerscale=2, fontsize=9)
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
