"""The report's section on the ops of the classic pretexts, from a stored result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from texts import Row, cell, paragraphs, provenance, table, time_text

PLOTS = {"time": "time of the ops of the classic pretexts"}
NAMES = {
    "fastssl": "fastssl", "eager": "eager PyTorch", "compile": "torch.compile", "slices": "a slice a patch",
    "torchvision": "torchvision's crops", "kornia": "kornia", "tree": "scikit-learn's ball tree",
    "products": "targets times log-softmax",
}  # fmt: skip


def ops(rows: Sequence[Row]) -> list[Row]:
    """Rows in the most that there is of each case: forward and backward, where there is a derivative."""
    return [r for r in rows if r["whole"]]


def compared(rows: Sequence[Row]) -> list[Row]:
    """Rows of the tables: providers in float32, of images whose channels are planes."""
    return [r for r in ops(rows) if r["provider"] in NAMES and r["dtype"] == "float32" and not r["interleaved"]]


def row_title(row: Row) -> str:
    """Of an op, with its sizes."""
    return f"{row['title']}, {row['n']} × {row['side']}²"


def _floors_table(rows: Sequence[Row]) -> list[str]:
    own = [r for r in compared(rows) if r["provider"] == "fastssl"]
    if not own:
        return []
    others = [name for name in NAMES if any(r["provider"] == name for r in compared(rows))]
    at = {(row_title(r), r["provider"]): r for r in compared(rows)}
    lines = [
        f"The floor of these calls, bytes that must be read and written at a copy's {own[0]['copy_gbs']:.0f} GB/s in"
        " the same run, and how many times as long each takes:", "",
        f"| | must move | floor | {' | '.join(NAMES[name] for name in others)} |",
        "|---|" + "---:|" * (2 + len(others)),
    ]  # fmt: skip
    for r in own:
        found = [at.get((row_title(r), name)) for name in others]
        over = ["" if x is None else f"{x['time_over_floor']:.1f}×" for x in found]
        size = f"{r['floor_bytes'] / 1e6:.1f} MB | {time_text(r['floor_bytes_ms'])}"
        lines.append(f"| {row_title(r)} | {size} | {' | '.join(over)} |")
    return lines


def _forms_line(rows: Sequence[Row]) -> list[str]:
    told = []
    for r in ops(rows):
        if r["provider"].startswith("fastssl-"):
            told.append(f"{row_title(r)} {cell({**r, 'peak_mib': None})} by the {r['backend']} backend")
        elif r["dtype"] != "float32":
            told.append(f"{row_title(r)} {cell(r)} in {r['dtype']}")
        elif r["interleaved"]:
            who = "" if r["provider"] == "fastssl" else NAMES[r["provider"]]
            told.append(f"{row_title(r)} {cell(r, who)} from interleaved channels")
    return [f"In other forms: {'; '.join(told)}."] if told else []


def section(result: dict[str, Any]) -> str:
    """The Markdown of one machine."""
    where, rows = result["environment"], result["rows"]
    lines = [
        f"**{where['machine_name']}**, {where['threads']} threads", "",
        "Forward and backward, where there is a derivative, float32: median time (times fastssl's), peak extra memory.",
        "", *table(compared(rows), NAMES, row_title),
    ]  # fmt: skip
    for part in (_floors_table, _forms_line):
        lines += ["", *part(rows)]
    return paragraphs([*lines, "", provenance(result)])
