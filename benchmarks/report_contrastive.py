"""The report's section on the contrastive losses, from a stored result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from texts import Row, cell, paragraphs, provenance, ratio_text, time_text

PLOTS = {"time": "time of the contrastive losses"}
NAMES = {
    "fastssl": "fastssl", "eager": "eager PyTorch", "compile": "torch.compile", "lightly": "lightly",
    "pml": "pytorch-metric-learning", "open_clip": "open_clip", "info-nce-pytorch": "info-nce-pytorch",
}  # fmt: skip
PEERS = ("lightly", "pml", "open_clip", "info-nce-pytorch")  # of which a loss has one
# Times faster than whom, on a CPU with two threads.
AIMS = {
    "moco": (3.5, "eager"), "supcon": (8, "pml"), "clip": (1.7, "open_clip"), "siglip": (1.6, "open_clip"),
    "dcl": (5, "lightly"),
}  # fmt: skip


def compared(rows: Sequence[Row]) -> list[Row]:
    """Rows of the table: whole steps in float32."""
    return [r for r in rows if r["mode"] == "fwd_bwd" and r["dtype"] == "float32" and r["provider"] in NAMES]


def row_title(row: Row) -> str:
    """Of a loss, with its sizes."""
    shape = f"{row['m']} × {row['n']}" if row["m"] != row["n"] else f"{row['m']}"
    return f"{row['title']}, {shape}, d = {row['d']}"


def _table(rows: Sequence[Row]) -> list[str]:
    at = {(row_title(r), r["provider"]): r for r in compared(rows)}
    lines = [
        "| | fastssl | eager PyTorch | torch.compile | the library that has it | fastssl, of sgemm |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for title in dict.fromkeys(title for title, _ in at):
        own = at[title, "fastssl"]
        cells = [cell(at.get((title, c))) for c in ("fastssl", "eager", "compile")]
        peers = [cell(at[title, c], NAMES[c]) for c in PEERS if (title, c) in at]
        lines.append(
            f"| {title} | {' | '.join(cells)} | {', '.join(peers)} | {100 * own['fraction_of_matmul']:.0f} % |"
        )
    return lines


def _aims_line(rows: Sequence[Row]) -> list[str]:
    told = []
    for r in compared(rows):
        aim, peer = AIMS.get(r["case"], (None, None))
        if aim is not None and r["provider"] == peer and r["device"] == "cpu":
            told.append(f"{row_title(r)} {aim:g}× {NAMES[peer]} ({r['time_over_fastssl']:.2f}× measured)")
    return [f"Aims on a CPU: {'; '.join(told)}."] if told else []


def _forms_line(rows: Sequence[Row]) -> list[str]:
    told = []
    for r in rows:
        if r["mode"] == "fwd_bwd" and r["provider"] == "fastssl" and r["dtype"] != "float32":
            told.append(f"{row_title(r)} {time_text(r['time_ms'])} in {r['dtype']}")
        elif r["mode"] == "fwd_bwd" and r["provider"].startswith("fastssl-"):
            told.append(
                f"{row_title(r)} {time_text(r['time_ms'])} ({ratio_text(r['time_over_fastssl'])}) by the"
                f" {r['backend']} backend"
            )
    return [f"fastssl in other forms: {'; '.join(told)}."] if told else []


def section(result: dict[str, Any]) -> str:
    """The Markdown of one machine."""
    where, rows = result["environment"], result["rows"]
    lines = [
        f"**{where['machine_name']}**, {where['threads']} threads", "",
        "Forward and backward, float32: median time (times fastssl's), peak extra memory.", "", *_table(rows),
    ]  # fmt: skip
    for part in (_aims_line, _forms_line):
        lines += ["", *part(rows)]
    return paragraphs([*lines, "", provenance(result)])
