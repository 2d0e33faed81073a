"""The report's plots as PNG files, with log scales, in colours that a colour-blind reader can tell apart."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path
from typing import Any

import report_augment
import report_contrastive
import report_masking
import report_pretexts
import report_teachers
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator
from report_ntxent import compared_dtypes
from texts import memory_text, time_text

# Okabe and Ito's colours, and a marker each, so that a print in grey is readable too.
STYLES: dict[str, tuple[str, str, str]] = {
    "fastssl": ("fastssl", "#0072B2", "o"),
    "fastssl-torch": ("fastssl, torch backend", "#56B4E9", "v"),
    "compile": ("torch.compile", "#E69F00", "^"),
    "eager": ("eager PyTorch", "#D55E00", "s"),
    "lightly": ("lightly", "#009E73", "D"),
    "pml": ("pytorch-metric-learning", "#CC79A7", "X"),
}
BARS = {
    "fastssl": "#0072B2", "torchvision-uint8": "#E69F00", "torchvision-float": "#D55E00", "lightly": "#009E73",
    "kornia": "#CC79A7", "compile": "#E69F00", "eager": "#D55E00", "timm": "#CC79A7",
    "pml": "#CC79A7", "open_clip": "#56B4E9", "info-nce-pytorch": "#F0E442", "pairs": "#CC79A7",
    "slices": "#56B4E9", "torchvision": "#009E73", "tree": "#F0E442", "products": "#8a939c",
}  # fmt: skip
_GREY, _INK = "#8a939c", "#22303c"


def draw_ntxent(result: dict[str, Any], folder: Path) -> list[Path]:
    """Draw `ntxent_time.png` and `ntxent_memory.png` of one machine's result, in the first dtype with peers."""
    steps = [r for r in result["rows"] if r["mode"] == "fwd_bwd" and r["d"] == 128]
    dtypes = compared_dtypes(steps)
    if not dtypes:
        return []
    rows = [r for r in steps if r["dtype"] == dtypes[0]]
    title = f"NT-Xent forward + backward, {dtypes[0]}, d = 128\n{result['environment']['machine_name']}"
    own = sorted((r for r in rows if r["provider"] == "fastssl"), key=lambda r: r["m"])
    floor = [(r["m"], r["floor_operations_ms"]) for r in own]
    element_bytes = 4 if dtypes[0] == "float32" else 2
    matrix = [(r["m"], r["m"] ** 2 * element_bytes / 2**20) for r in own]
    return [
        _plot(rows, "time_ms", time_text, "median time", title, ("operations at the matmul rate", floor),
              folder / "ntxent_time.png"),
        _plot(rows, "peak_mib", memory_text, "peak extra memory", title, ("one 2N × 2N matrix", matrix),
              folder / "ntxent_memory.png"),
    ]  # fmt: skip


def _plot(
    rows: list[dict[str, Any]], key: str, text: Any, ylabel: str, title: str,
    mark: tuple[str, list[tuple[int, float]]], path: Path,
) -> Path:  # fmt: skip
    figure = Figure(figsize=(7.6, 4.4), dpi=140, layout="constrained")
    axes = figure.add_subplot()
    label, points = mark
    if points:
        axes.plot(*zip(*points, strict=True), color=_GREY, linestyle=":", linewidth=1.4, label=label)
    for name, (label, colour, marker) in STYLES.items():
        points = sorted((r["m"], r[key]) for r in rows if r["provider"] == name and r[key])
        if points:
            width, size = (2.6, 7) if name == "fastssl" else (1.5, 5)
            order = 5 if name == "fastssl" else 3
            axes.plot(*zip(*points, strict=True), color=colour, marker=marker, linewidth=width, markersize=size,
                      label=label, zorder=order)  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(FixedLocator(sorted({r["m"] for r in rows})))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda m, _: f"{m:.0f}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value, text)))
    axes.yaxis.set_major_locator(LogLocator(base=10 if key == "time_ms" else 4))  # MiB and GiB go in powers of two
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("2N, rows of both views", color=_INK)
    axes.set_ylabel(ylabel, color=_INK)
    _dress(axes, title)
    # In the order of the last values, as the lines end, so that the eye need not search.
    handles, labels = axes.get_legend_handles_labels()
    ends = [handle.get_ydata()[-1] * (max(r["m"] for r in rows) / handle.get_xdata()[-1]) ** 2 for handle in handles]
    order = sorted(range(len(handles)), key=lambda i: -ends[i])
    figure.legend(
        [handles[i] for i in order], [labels[i] for i in order], loc="outside right center", frameon=False, fontsize=9
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def draw_augment(result: dict[str, Any], folder: Path) -> list[Path]:
    """Draw `augment_time.png` of one machine's result: a group of bars a recipe."""
    on = "" if result["environment"]["device"].startswith("cuda") else ", 1 thread"
    title = f"Augmentation, time a view\n{result['environment']['machine_name']}{on}"
    rows = [{**r, "floor_ms": max(r["floor_bytes_ms"], r["floor_operations_ms"])}
            for r in report_augment.compared(result["rows"])]  # fmt: skip
    return _bars(rows, report_augment, title, "median time a view", folder / "augment_time.png")


def draw_masking(result: dict[str, Any], folder: Path) -> list[Path]:
    """Draw `masking_time.png` of one machine's result: a group of bars an op."""
    where = result["environment"]
    title = f"Masked training, forward + backward, batch {report_masking.headline(result['rows'])}\n"
    rows = [{**r, "floor_ms": r["floor_bytes_ms"] + r["floor_operations_ms"]}
            for r in report_masking.compared(result["rows"])]  # fmt: skip
    return _bars(rows, report_masking, title + where["machine_name"], "median time", folder / "masking_time.png")


def draw_contrastive(result: dict[str, Any], folder: Path) -> list[Path]:
    """Draw `contrastive_time.png` of one machine's result: a group of bars a loss."""
    title = f"Contrastive losses, forward + backward, float32\n{result['environment']['machine_name']}"
    rows = [{**r, "floor_ms": r["floor_operations_ms"]} for r in report_contrastive.compared(result["rows"])]
    return _bars(rows, report_contrastive, title, "median time", folder / "contrastive_time.png")


def draw_teachers(result: dict[str, Any], folder: Path) -> list[Path]:
    """Draw `teachers_time.png` of one machine's result: a group of bars an op and its sizes."""
    title = f"Teachers and students, float32\n{result['environment']['machine_name']}"
    rows = [{**r, "floor_ms": max(r["floor_bytes_ms"], r["floor_operations_ms"])}
            for r in report_teachers.compared(result["rows"])]  # fmt: skip
    return _bars(rows, report_teachers, title, "median time", folder / "teachers_time.png")


def draw_pretexts(result: dict[str, Any], folder: Path) -> list[Path]:
    """Draw `pretexts_time.png` of one machine's result: a group of bars an op and its sizes."""
    title = f"Ops of the classic pretexts, float32\n{result['environment']['machine_name']}"
    rows = [{**r, "floor_ms": r["floor_bytes_ms"]} for r in report_pretexts.compared(result["rows"])]
    return _bars(rows, report_pretexts, title, "median time", folder / "pretexts_time.png")


def _bars(rows: list[dict[str, Any]], report: Any, title: str, ylabel: str, path: Path) -> list[Path]:
    """A group of bars for each title of a section, a bar for each of its names, and a line for the floor."""
    titles = list(dict.fromkeys(report.row_title(r) for r in rows))
    if not titles:
        return []
    figure = Figure(figsize=(max(8.6, 2.6 + 0.85 * len(titles)), 4.4), dpi=140, layout="constrained")
    axes, least_ms = figure.add_subplot(), math.inf
    for group, name_of_group in enumerate(titles):
        members = {r["provider"]: r for r in rows if report.row_title(r) == name_of_group}
        present = [name for name in report.NAMES if name in members]
        for place, name in enumerate(present):
            x = group + 0.17 * (place - (len(present) - 1) / 2)
            ms = members[name]["time_ms"]
            axes.bar(x, ms, 0.155, color=BARS[name], label=report.NAMES[name], zorder=3)
            axes.text(x, 1.1 * ms, time_text(ms), ha="center", va="bottom", fontsize=6.5, color=_INK, rotation=90)
        floor_ms = members["fastssl"]["floor_ms"]
        axes.hlines(floor_ms, group - 0.45, group + 0.45, color=_INK, linewidth=1.2, label="floor", zorder=4)
        least_ms = min(least_ms, floor_ms)
    axes.set_yscale("log")
    axes.set_ylim(0.5 * least_ms, 4 * max(r["time_ms"] for r in rows))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value, time_text)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xticks(range(len(titles)), [textwrap.fill(title, 11) for title in titles])
    axes.tick_params(axis="x", labelsize=8 if len(titles) <= 7 else 6.5, length=0)
    axes.set_ylabel(ylabel, color=_INK)
    _dress(axes, title)
    handles = {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside right center", frameon=False, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return [path]


DRAW = {
    "ntxent": draw_ntxent, "augment": draw_augment, "masking": draw_masking, "contrastive": draw_contrastive,
    "teachers": draw_teachers, "pretexts": draw_pretexts,
}  # fmt: skip


def _dress(axes: Any, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=10, color=_INK)
    axes.grid(axis="y", color="#e6eaee", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=_INK)


def _short(value: float, text: Any) -> str:
    if text is time_text:
        return f"{value / 1000:g} s" if value >= 1000 else f"{value:g} ms" if value >= 0.1 else f"{1000 * value:g} µs"
    return f"{value / 1024:.3g} GiB" if value >= 1024 else f"{value:g} MiB"
