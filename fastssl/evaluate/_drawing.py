"""What plots have in common: colours, a figure with axes, and where it goes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._extras import require

INK, BLUE, GREY, SAND, RED = "#22303c", "#1f6feb", "#9aa7b4", "#d8b26e", "#c2410c"


def new_axes(width: float = 6.4, height: float = 4.0) -> tuple[Any, Any]:
    """Return a figure of so many inches and its axes."""
    # The object interface, not pyplot: no window system, and no figure left open in somebody's session.
    figure_module = require("matplotlib.figure", "fastssl.evaluate.plots")
    figure = figure_module.Figure(figsize=(width, height), dpi=130, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK)
    return figure, axes


def save(figure: Any, path: str | os.PathLike[str]) -> Path:
    """Write a figure, in a folder that is made if it is absent."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def scatter(axes: Any, points: Tensor, labels: Tensor, classes: tuple[str, ...]) -> None:
    """Scatter points [n, 2], or [n, 1] along a line, coloured by class, with a legend of up to 20 classes."""
    points = torch.nn.functional.pad(points, (0, 2 - points.shape[1]))
    if not classes:
        axes.scatter(points[:, 0], points[:, 1], s=8, color=BLUE, alpha=0.6, linewidths=0)
        return
    colours = require("matplotlib", "fastssl.evaluate.plots").colormaps["tab10" if len(classes) <= 10 else "tab20"]
    for index, name in enumerate(classes):
        x, y = points[labels == index].T
        axes.scatter(x, y, s=10, color=colours(index % colours.N), alpha=0.75, linewidths=0, label=name)
    if len(classes) <= 20:
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), markerscale=2, fontsize=9)
