"""A comparison in words and numbers: one line a method as it ends, and Markdown tables of all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]

# Scores that are no shares, which the tables give in %.
NUMBERS = ("RankMe", "alignment", "uniformity", "perplexity", "perplexity by frequency")
_PROBE = "linear, all labels"
_WIDTH = 6  # columns of a table, for pages of usual width


def scores(judged: dict[str, Any]) -> dict[str, float]:
    """Return the scores of all judgements of an encoder, by their names."""
    return {name: value for found in judged.values() for name, value in found["scores"].items()}


def number(name: str, value: float) -> str:
    """Return a score as a table has it: in %, or as it is."""
    return f"{value:.2f}" if name in NUMBERS else f"{100 * value:.1f}"


def line(row: Row) -> str:
    """Return one line on a method."""
    if "error" in row:
        return f"{row['method']:20} failed: {row['error']}"
    if "skipped" in row:
        return f"{row['method']:20} skipped: {row['skipped']}"
    before, after = scores(row["before"]), scores(row["after"])
    first = list(after)[:2]
    told = ", ".join(f"{name} {number(name, after[name])} ({number(name, before[name])})" for name in first)
    return f"{row['method']:20} {told}, {sum(row['seconds'].values()):.0f} s"


def reason(row: Row) -> str | None:
    """Return why a method's encoder is not ahead of the untrained one, as far as its own numbers tell; None if it is.

    Ahead is who exceeds the untrained encoder in the first judgement by two standard errors; where the linear probe of
    all labels is ahead alone, that is told.
    """
    before, after = scores(row["before"]), scores(row["after"])
    name = next(iter(after))
    judged = next(iter(row["after"].values()))
    n = judged["tokens"] if "tokens" in judged else judged["protocol"]["test"]["images"]
    if _ahead(after[name], before[name], n):
        return None
    told = f"{name} {number(name, after[name])} against {number(name, before[name])}"
    first, last = row["loss"]
    if after.get("RankMe", 2.0) < 1.5:
        return f"{told}: its features have become one direction (RankMe {after['RankMe']:.1f})"
    if last > 0.98 * first:
        return f"{told}: it did not learn its own task in {row['epochs']} epochs, a loss of {first:.3g} to {last:.3g}"
    task = f"it learned its own task, a loss of {first:.3g} to {last:.3g}"
    if _PROBE in after and _ahead(after[_PROBE], before[_PROBE], n):
        probe = f"{number(_PROBE, after[_PROBE])} against {number(_PROBE, before[_PROBE])}"
        return f"{told}: {task}, and what tells these classes is in its features, but not nearest ({_PROBE}, {probe})"
    return f"{told}: {task}, by what does not tell these classes"


def _ahead(after: float, before: float, n: int) -> bool:
    """Whether a share of n exceeds another by two standard errors of their difference."""
    return after > before + 2 * math.sqrt((after * (1 - after) + before * (1 - before)) / n)


def markdown(rows: Sequence[Row]) -> str:
    """Return the tables of a comparison, and what is not ahead of its untrained encoder, with the reason."""
    done = [row for row in rows if "after" in row]
    lines = [
        "| method | epochs | batch | loss, first and last | training | judging |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in done:
        seconds = row["seconds"]
        cells = [row["method"], row["epochs"], row["batch_size"], " → ".join(f"{loss:.3g}" for loss in row["loss"])]
        cells += [f"{seconds[part]:.0f} s" for part in ("training", "judging")]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    kinds: dict[tuple[str, ...], list[Row]] = {}
    for row in done:
        kinds.setdefault(tuple(scores(row["after"])), []).append(row)
    for names, alike in kinds.items():
        for start in range(0, len(names), _WIDTH):
            lines += ["", *_table(names[start : start + _WIDTH], alike)]
    behind = [(row["method"], row["behind"]) for row in done if row["behind"] is not None]
    lines += ["", "Not ahead of its untrained encoder: " + ("none." if not behind else "")]
    lines += ["", *(f"- {name}: {why}." for name, why in behind)] if behind else []
    for what in ("skipped", "error"):
        told = [f"- {row['method']}: {row[what]}." for row in rows if what in row]
        lines += ["", f"{'Failed' if what == 'error' else 'Skipped'}:", "", *told] if told else []
    return "\n".join(lines) + "\n"


def _table(names: Sequence[str], rows: Sequence[Row]) -> list[str]:
    lines = [f"| method | {' | '.join(names)} |", "|---|" + "---:|" * len(names)]
    for row in rows:
        before, after = scores(row["before"]), scores(row["after"])
        cells = [f"{number(name, after[name])} ({number(name, before[name])})" for name in names]
        lines.append(f"| {row['method']} | {' | '.join(cells)} |")
    return lines
