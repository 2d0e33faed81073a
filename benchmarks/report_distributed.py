"""The report's section on losses over several processes, from a stored result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from texts import Row, paragraphs, provenance

PLOTS: dict[str, str] = {}
NAMES = {"fastssl": "fastssl", "lightly": "lightly", "open_clip": "open_clip", "pml": "pytorch-metric-learning"}
_NUMBERS = ("gradient_over_exact", "cosine", "value_over_exact")


def _grouped(rows: Sequence[Row]) -> dict[tuple[Any, ...], list[str]]:
    """Losses by library, settings and numbers."""
    settings: dict[tuple[Any, ...], list[str]] = {}
    for row in rows:
        key = (row["provider"], row["loss"], *(_number(row[name]) for name in _NUMBERS))
        settings.setdefault(key, []).append(row["setting"])
    losses: dict[tuple[Any, ...], list[str]] = {}
    for (provider, loss, *numbers), found in settings.items():
        losses.setdefault((provider, tuple(found), *numbers), []).append(loss)
    return losses


def _number(value: float) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".") if abs(value - 1) > 5e-4 else "1"


def _words(words: Sequence[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def section(result: dict[str, Any]) -> str:
    """The Markdown of one machine."""
    first = result["rows"][0]
    lines = [
        f"{first['processes']} processes with {first['rows']} pairs each, float32: the gradient of a linear encoder "
        "under DistributedDataParallel, beside that of the same library's loss in one process with all pairs.",
        "",
        "| | loss | setting | its norm over the exact one's | cosine of the two | value over the exact one |",
        "|---|---|---|---:|---:|---:|",
    ]
    for (provider, settings, *numbers), losses in _grouped(result["rows"]).items():
        lines.append(f"| {' | '.join([NAMES[provider], _words(losses), _words(settings), *numbers])} |")
    return paragraphs([*lines, "", provenance(result)])
