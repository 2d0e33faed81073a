"""The report's section on NT-Xent, from a stored result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from texts import Row, memory_text, paragraphs, provenance, ratio_text, time_text

PLOTS = {"time": "time of ntxent over 2N", "memory": "memory of ntxent over 2N"}
NAMES = {
    "fastssl": "fastssl", "eager": "eager PyTorch", "compile": "torch.compile", "lightly": "lightly",
    "pml": "pytorch-metric-learning",
}  # fmt: skip
_WIDTH = 128  # the width of the tables over 2N


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    parts = []
    if row["time_ms"] is not None:
        ratio = "" if row["provider"] == "fastssl" else f" ({ratio_text(row['time_over_fastssl'])})"
        parts.append(time_text(row["time_ms"]) + ratio)
    elif row["peak_mib"] is not None:
        parts.append("not timed")
    else:
        parts.append((row["note"] or "not run").removeprefix("out of memory budget: "))
    if row["peak_mib"] is not None:
        parts.append(memory_text(row["peak_mib"]))
    return ", ".join(parts)


def _steps(result: dict[str, Any]) -> list[Row]:
    return [r for r in result["rows"] if r["mode"] == "fwd_bwd"]


def _peers(rows: Sequence[Row], dtype: str) -> list[str]:
    """Columns of a dtype's table: what was measured in it."""
    found = {r["provider"] for r in rows if r["dtype"] == dtype}
    return [name for name in NAMES if name in found]


def compared_dtypes(rows: Sequence[Row]) -> list[str]:
    """Dtypes in which more than fastssl was measured."""
    return [t for t in dict.fromkeys(r["dtype"] for r in rows) if len(_peers(rows, t)) > 1]


def _table(rows: Sequence[Row], dtype: str) -> list[str]:
    columns = _peers(rows, dtype)
    at = {(r["m"], r["provider"]): r for r in rows if r["dtype"] == dtype and r["d"] == _WIDTH}
    rate = "matmul" if any(r["device"] == "cuda" for r in rows) else "sgemm"
    lines = [
        f"| 2N | {' | '.join(NAMES[c] for c in columns)} | fastssl, of {rate} |",
        "|---:|" + "---:|" * (len(columns) + 1),
    ]
    for m in sorted({m for m, _ in at}):
        own = at.get((m, "fastssl"))
        share = "" if own is None or own["fraction_of_matmul"] is None else f"{100 * own['fraction_of_matmul']:.0f} %"
        lines.append(f"| {m} | {' | '.join(_cell(at.get((m, c))) for c in columns)} | {share} |")
    return lines


def _widths_line(rows: Sequence[Row], dtype: str) -> list[str]:
    others = [r for r in rows if r["provider"] == "fastssl" and r["dtype"] == dtype and r["d"] != _WIDTH]
    told = []
    for row in sorted((r for r in others if r["time_ms"] is not None), key=lambda r: r["d"]):
        same = [r for r in rows if all(r[k] == row[k] for k in ("m", "d", "dtype")) and r["provider"] in NAMES]
        ratios = [f"{NAMES[r['provider']]} {ratio_text(r['time_over_fastssl'])}" for r in same
                  if r["provider"] != "fastssl" and r["time_ms"] is not None]  # fmt: skip
        told.append(f"d = {row['d']}: {time_text(row['time_ms'])} ({', '.join(ratios)})")
    return [f"Other widths at 2N = {others[0]['m']}, {dtype}: {'; '.join(told)}."] if told else []


def _dtypes_line(rows: Sequence[Row]) -> list[str]:
    told = []
    for dtype in dict.fromkeys(r["dtype"] for r in rows):
        own = [r for r in rows if r["dtype"] == dtype and r["provider"] == "fastssl" and r["time_ms"] is not None]
        if dtype not in compared_dtypes(rows) and own:
            sizes = (f"{_cell(r)} at 2N = {r['m']}" for r in own)
            told.append(f"{dtype} {'; '.join(sizes)}")
    return [f"fastssl in other types, d = {_WIDTH}: {'. '.join(told)}."] if told else []


def _fallback_line(rows: Sequence[Row]) -> list[str]:
    own = {(r["m"], r["d"], r["dtype"]): r for r in rows if r["provider"] == "fastssl"}
    told = []
    for name in dict.fromkeys(r["provider"] for r in rows):
        timed = [r for r in rows if r["provider"] == name and r["time_ms"] is not None and r["d"] == _WIDTH]
        if name.startswith("fastssl-") and timed:
            last = max(timed, key=lambda r: r["m"])
            backend = own[last["m"], last["d"], last["dtype"]]["backend"]
            told.append(
                f"The {last['backend']} backend takes {time_text(last['time_ms'])} at 2N = {last['m']} in"
                f" {last['dtype']}, {last['time_over_fastssl']:.1f}× the {backend} backend, which is what runs here."
            )
    return told


def section(result: dict[str, Any]) -> str:
    """The Markdown of one machine."""
    where, rows = result["environment"], _steps(result)
    lines = [f"**{where['machine_name']}**, {where['threads']} threads"]
    for dtype in compared_dtypes(rows):
        lines += ["", f"Forward and backward, {dtype}, d = {_WIDTH}: median time (times fastssl's), peak extra memory."]
        lines += ["", *_table(rows, dtype), "", *_widths_line(rows, dtype)]
    lines += ["", " ".join(_dtypes_line(rows) + _fallback_line(rows)), "", provenance(result)]
    return paragraphs(lines)
