"""Numbers as words, and what every section of the report says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Row = dict[str, Any]


def time_text(ms: float) -> str:
    """Three digits and a unit."""
    if ms >= 10_000:
        return f"{ms / 1000:.1f} s"
    if ms < 0.1:
        return f"{1000 * ms:.1f} µs" if ms >= 0.01 else f"{1000 * ms:.2f} µs"
    return f"{ms:.0f} ms" if ms >= 100 else f"{ms:.1f} ms" if ms >= 10 else f"{ms:.2f} ms"


def memory_text(mib: float) -> str:
    """MiB, or GiB from 1024 MiB on."""
    return f"{mib / 1024:.1f} GiB" if mib >= 1024 else f"{mib:.0f} MiB" if mib >= 10 else f"{mib:.1f} MiB"


def ratio_text(ratio: float) -> str:
    """Times fastssl's time, with two or three digits."""
    return f"{ratio:.0f}×" if ratio >= 100 else f"{ratio:.1f}×"


def cell(row: Row | None, who: str = "") -> str:
    """Who, if it has to be told, the time, times fastssl's, and the peak; nothing where nothing was measured."""
    if row is None:
        return ""
    ratio = "" if row["provider"] == "fastssl" else f" ({ratio_text(row['time_over_fastssl'])})"
    peak = "" if row.get("peak_mib") is None else f", {memory_text(row['peak_mib'])}"
    return f"{who} ".lstrip() + time_text(row["time_ms"]) + ratio + peak


def table(rows: Sequence[Row], names: Mapping[str, str], title_of: Callable[[Row], str], corner: str = "") -> list[str]:
    """A line for each title, with the cells of the providers by name, those of them that there are."""
    at = {(title_of(r), r["provider"]): r for r in rows}
    columns = [name for name in names if any(name == who for _, who in at)]
    head = f"| {corner} | " if corner else "| | "
    lines = [f"{head}{' | '.join(names[c] for c in columns)} |", "|---|" + "---:|" * len(columns)]
    for title in dict.fromkeys(title for title, _ in at):
        lines.append(f"| {title} | {' | '.join(cell(at.get((title, c))) for c in columns)} |")
    return lines


def provenance(result: dict[str, Any]) -> str:
    """When, how and with what a result was measured."""
    where = result["environment"]
    versions = ", ".join(f"{name} {number}" for name, number in where["versions"].items())
    return f"Measured {where['date']} by `{result['command']}`, commit {short_commit(where)}; {versions}."


def short_commit(where: dict[str, Any]) -> str:
    """The commit of what was measured, and whether there were changes to it."""
    return (where["commit"] or "unknown")[:10] + (" with changes" if where["dirty"] else "")


def paragraphs(lines: list[str]) -> str:
    """Markdown of lines, where an empty one ends a paragraph, and several are as one."""
    text = "\n".join(lines)
    while "\n\n\n" in text:
        text = text.replace("\n\n\n", "\n\n")
    return text
