"""Plots of judgements: neighbours of images, accuracy over labels, and what planted cues do."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from ..data import Images
from ._drawing import BLUE, GREY, INK, RED, SAND, new_axes, save
from ._label_efficiency import PROBE, SCRATCH, TUNED, LabelEfficiencyResult
from ._retrieval import RetrievalResult
from ._shortcut_audit import ShortcutAuditResult

_CURVES = {TUNED: (BLUE, "o-"), PROBE: (SAND, "s-"), SCRATCH: (GREY, "D--")}
_WAYS = {
    "clean": (GREY, "trained and tested without the cue"),
    "with": (SAND, "trained and tested with the cue"),
    "without": (BLUE, "trained with it, tested without"),
    "against": (RED, "tested with the cue of another class"),
}


def retrieval(
    result: RetrievalResult,
    train: Images,
    test: Images,
    path: str | os.PathLike[str],
    title: str = "",
    queries: int = 8,
    neighbours: int = 10,
) -> Path:
    """Draw test images and the training images nearest to them, framed in blue where the class is right, else in red.

    Args:
        result: of `fastssl.evaluate.retrieval` with the same data.
        train: the images that were searched.
        test: the images that were searched for; one of each class in turn is drawn, the first ones.
        path: the PNG file to write.
        title: above the plot.
        queries: greatest number of test images.
        neighbours: greatest number of neighbours of each.

    Returns:
        The path.
    """
    first = [int((test.labels == label).nonzero()[0]) for label in test.labels.unique().tolist()]
    rest = [i for i in range(len(test)) if i not in set(first)]
    chosen = (first + rest)[:queries]
    columns = min(neighbours, result.neighbours.shape[1])
    figure, _ = new_axes(1.6 + 0.75 * columns, 0.7 + 0.78 * len(chosen))
    figure.clear()
    grid = figure.subplots(
        len(chosen), columns + 2, squeeze=False, width_ratios=[1, 0.25, *[1] * columns]
    )  # fmt: skip
    for of_row, query in zip(grid, chosen, strict=True):
        asked, found = test.batch([query])[0], train.batch(result.neighbours[query, :columns].tolist())[0]
        of_row[1].set_axis_off()
        for axes, image in zip((of_row[0], *of_row[2:]), (*asked, *found), strict=True):
            axes.imshow(image.permute(1, 2, 0).squeeze(2), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(True)
            axes.spines[:].set(color=INK, linewidth=0.8)
        for axes, right in zip(of_row[2:], result.right[query].tolist(), strict=False):
            axes.spines[:].set(color=BLUE if right else RED, linewidth=2.5)
        name = test.classes[int(test.labels[query])]
        of_row[0].set_ylabel(name, color=INK, fontsize=8, rotation=0, ha="right", va="center")
    grid[0][0].set_title("query", color=INK, fontsize=9)
    grid[0][2].set_title("nearest", color=INK, fontsize=9)
    figure.supxlabel("frame: blue, of the query's class; red, of another", color=INK, fontsize=9)
    figure.suptitle(title, color=INK, fontsize=11)
    return save(figure, path)


def label_efficiency(
    result: LabelEfficiencyResult, path: str | os.PathLike[str], title: str = "", chance: float | None = None
) -> Path:
    """Plot the accuracy over the number of labels a class, with a standard deviation over the draws to both sides.

    Args:
        result: of `fastssl.evaluate.label_efficiency`.
        path: the PNG file to write.
        title: above the plot.
        chance: accuracy of guessing, drawn as a line.

    Returns:
        The path.
    """
    figure, axes = new_axes()
    for name, (colour, style) in _CURVES.items():
        if name not in result.curves:
            continue
        means, stds = (
            torch.tensor([100 * getattr(each, key) for each in result.curves[name]]) for key in ("accuracy", "std")
        )
        axes.plot(result.labels, means, style, color=colour, markersize=4, linewidth=1.6, label=name)
        axes.fill_between(result.labels, means - stds, means + stds, color=colour, alpha=0.18, linewidth=0)
    if chance is not None:
        axes.axhline(100 * chance, color=INK, linestyle=":", linewidth=1, label="chance")
    axes.set_xscale("log")
    axes.set_xticks(result.labels, [str(n) for n in result.labels])
    axes.minorticks_off()
    axes.set(xlabel="labels a class", ylabel="test accuracy (%)", title=title)
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", color="#e6eaee")
    axes.legend(frameon=False)
    return save(figure, path)


def shortcut_audit(
    result: ShortcutAuditResult, path: str | os.PathLike[str], title: str = "", chance: float | None = None
) -> Path:
    """Plot what each planted cue does to the accuracy.

    Args:
        result: of `fastssl.evaluate.shortcut_audit`.
        path: the PNG file to write.
        title: above the plot.
        chance: accuracy of guessing, drawn as a line.

    Returns:
        The path.
    """
    figure, axes = new_axes(7.2, 4.2)
    width = 0.8 / len(_WAYS)
    for index, (way, (colour, label)) in enumerate(_WAYS.items()):
        at = [place + (index - (len(_WAYS) - 1) / 2) * width for place in range(len(result.accuracies))]
        values = [100 * row[way] for row in result.accuracies.values()]
        bars = axes.bar(at, values, width * 0.94, color=colour, label=label)
        axes.bar_label(bars, fmt="%.0f", padding=2, fontsize=8, color=INK)
    if chance is not None:
        axes.axhline(100 * chance, color=INK, linestyle=":", linewidth=1, label="chance")
    axes.set(ylabel="test accuracy (%)", title=title, ylim=(0, 108))
    axes.set_xticks(range(len(result.accuracies)), list(result.accuracies))
    axes.legend(frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.1), fontsize=9)
    return save(figure, path)
