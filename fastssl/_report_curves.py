"""The curves of `fastssl.report` as SVG elements, whose colours and font are the page's."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Sequence

from ._extras import require
from .evaluate.plots import smoothed

# Colours of the runs by light and by dark; those who mix up red and green tell neighbours apart by lightness.
LIGHT = ("#1f6feb", "#c2570c", "#12805c", "#a8338f", "#7a6400", "#0b7f95", "#b42a43", "#6550d6")
DARK = ("#62a8ff", "#f5964a", "#45c793", "#e485d1", "#d6b741", "#48c7dd", "#ff808c", "#ab9dff")
_DASHES = ("-", "--", ":", "-.")  # of the runs after so many
_INK, _SOFT, _LINE = "#010203", "#040506", "#070809"  # stand-ins in the SVG for what the page sets
_Points = Sequence[tuple[float, float]]


def colour(index: int) -> str:
    """The CSS value of the colour of a run."""
    return f"var(--run-{index % len(LIGHT)})"


def swatch(index: int) -> str:
    """The CSS of the mark of a run: full where its curves are solid."""
    return f"color: {colour(index)}" + ("; background: currentColor" if index < len(LIGHT) else "")


def _stand_in(index: int) -> str:
    return f"#0a0b{index % len(LIGHT):02x}"


def curves(
    series: Sequence[tuple[int, str, _Points]],
    label: str,
    *,
    smooth: bool = False,
    dots: bool = False,
    baseline: float | None = None,
) -> str:
    """Draw curves over epochs as an SVG element.

    Args:
        series: number of the run, its name, and points (epoch, value) of each curve.
        label: of the vertical axis.
        smooth: draw the mean of a fiftieth of a curve over the curve itself.
        dots: mark the points.
        baseline: value of a horizontal line.
    """
    matplotlib = require("matplotlib", "fastssl.report")
    figure_module = require("matplotlib.figure", "fastssl.report")
    # Words stay words, in the page's font, and nothing random makes its way into the names of clip paths.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": label, "text.parse_math": False}):
        figure = figure_module.Figure(figsize=(4.3, 2.7), layout="constrained")
        axes = figure.add_subplot()
        axes.patch.set_visible(False)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(_LINE)
        axes.tick_params(colors=_SOFT, length=0, labelsize=10)
        axes.grid(axis="y", color=_LINE, linewidth=0.8)
        axes.set_axisbelow(True)
        for number, (run, _, points) in enumerate(series):
            x, y = [at for at, _ in points], [value for _, value in points]
            look = {"color": _stand_in(run), "linestyle": _DASHES[run // len(LIGHT) % len(_DASHES)]}
            if smooth:
                axes.plot(x, y, linewidth=0.8, alpha=0.3, **look)
                y = smoothed(y)
            marker = {"marker": "o", "markersize": 3.5} if dots or len(x) == 1 else {}
            axes.plot(x, y, linewidth=1.7, gid=f"series-{number}", **marker, **look)
        if baseline is not None:
            axes.axhline(baseline, color=_SOFT, linestyle=(0, (2, 3)), linewidth=1)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.yaxis.get_major_locator().set_params(nbins=6)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xlabel("epoch", color=_SOFT, fontsize=10)
        axes.set_ylabel(label, color=_SOFT, fontsize=10)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return _inline(file.getvalue(), label, [name for _, name, _ in series])


def _inline(svg: str, label: str, names: Sequence[str]) -> str:
    """Make an SVG file of matplotlib's an element of the page."""
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    size = re.search(r'viewBox="[^"]*"', svg)
    title = html.escape(f"{label} over epochs: {', '.join(names)}")
    head = f'<svg role="img" aria-label="{title}" {size[0] if size else ""}>'
    svg = re.sub(r"<svg[^>]*>", lambda _: head, svg, count=1).replace("xlink:href", "href")
    # A pointer that rests on a curve is told its name.
    svg = re.sub(r'<g id="series-(\d+)">', lambda found: f"<g><title>{html.escape(names[int(found[1])])}</title>", svg)
    used = set(re.findall(r"#([\w.-]+)", svg))
    svg = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", svg)
    svg = re.sub(r"#0a0b(\w\w)", lambda found: colour(int(found[1], 16)), svg)
    svg = re.sub(r"font: (\S+) [^;\"]*", r"font-size: \1", svg)
    for stand_in, name in ((_INK, "ink"), (_SOFT, "soft"), (_LINE, "line")):
        svg = svg.replace(stand_in, f"var(--{name})")
    return svg.strip()


def sparkline(values: Sequence[float], run: int) -> str:
    """Draw a curve as small as a word."""
    most = 60
    step = max(1, -(-len(values) // most))
    kept = [*values[::step], *([] if (len(values) - 1) % step == 0 else values[-1:])]
    if len(kept) < 2:
        return ""
    low, high = min(kept), max(kept)
    height = (high - low) or 1.0
    points = " ".join(
        f"{2 + 76 * i / (len(kept) - 1):.1f},{18 - 16 * (v - low) / height:.1f}" for i, v in enumerate(kept)
    )
    end = points.rsplit(" ", 1)[1].split(",")
    return (
        f'<svg class="spark" viewBox="0 0 80 20" aria-hidden="true" style="color: {colour(run)}">'
        f'<polyline points="{points}"/><circle cx="{end[0]}" cy="{end[1]}" r="2"/></svg>'
    )
