"""The report's section on teachers and students, from a stored result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from texts import Row, cell, memory_text, paragraphs, provenance, ratio_text, table, time_text

PLOTS = {"time": "time of the ops of teachers and students"}
NAMES = {
    "fastssl": "fastssl", "eager": "eager PyTorch", "compile": "torch.compile", "lightly": "lightly",
    "pairs": "DINO's loop over pairs",
}  # fmt: skip
LEAST_MIB = 1  # of an eager form's memory, to be compared with
# On a CPU: of a case, over whom, at least how many times as fast; and times the floor, at most.
AIMS = {"dino": ("lightly", 5), "sinkhorn": ("eager", 6)}
MOST_OVER_FLOOR = 1.5


def ops(rows: Sequence[Row]) -> list[Row]:
    """Rows in the most that there is of each case: forward and backward, where there is a derivative."""
    return [r for r in rows if r["mode"] == "fwd_bwd" or r["gradients_mib"] is None]


def compared(rows: Sequence[Row]) -> list[Row]:
    """Rows of the tables: providers in float32."""
    return [r for r in ops(rows) if r["provider"] in NAMES and r["dtype"] == "float32"]


def row_title(row: Row) -> str:
    """Of an op, with its sizes."""
    if row["case"] == "ema":
        return f"{row['title']}, {row['floor_bytes'] / 12e6:.1f} million"
    views = f"2 + {row['views'] - 2} views, " if row["case"] in ("dino", "dino-loss") else ""
    return f"{row['title']}, {views}{row['m']} × {row['n']}"


def _key(row: Row) -> tuple[Any, ...]:
    return tuple(row[k] for k in ("case", "m", "n", "views"))


def _share(own: Row, eager: Row | None, what: str) -> str:
    """Of the eager form's memory, in per cent, where that is any."""
    if eager is None or own[what] is None or eager[what] is None or eager[what] < LEAST_MIB:
        return ""
    return f"{100 * own[what] / eager[what]:.1f} %"


def _aims_line(rows: Sequence[Row]) -> list[str]:
    told = []
    for r in compared(rows):
        who, least = AIMS.get(r["case"], ("", 0))
        if r["device"] == "cpu" and r["provider"] == who:
            told.append(f"{row_title(r)} {least}× {NAMES[who]} ({ratio_text(r['time_over_fastssl'])} measured)")
        if r["device"] == "cpu" and r["provider"] == "fastssl" and r["case"] == "dino":
            told.append(f"{row_title(r)} at most {MOST_OVER_FLOOR}× the floor ({r['time_over_floor']:.2f}×)")
    return [f"Aims on a CPU: {', '.join(told)}."] if told else []


def _floors_table(rows: Sequence[Row]) -> list[str]:
    at = {(_key(r), r["provider"]): r for r in compared(rows)}
    own = [r for r in compared(rows) if r["provider"] == "fastssl"]
    if not own:
        return []
    lines = [
        f"The floor of these calls: bytes that must be read and written, at a copy's {own[0]['copy_gbs']:.0f} GB/s in"
        " the same run; for KoLeo its product, at the rate of a matrix product. And fastssl's peak memory over eager"
        " PyTorch's, whole and without the gradients of the logits, which every form returns.", "",
        "| | must move | floor | fastssl over it | eager PyTorch | lightly | memory of eager's | without gradients |",
        "|---|" + "---:|" * 7,
    ]  # fmt: skip
    for r in own:
        eager, lightly = (at.get((_key(r), name)) for name in ("eager", "lightly"))
        over = ["" if x is None else f"{x['time_over_floor']:.1f}×" for x in (r, eager, lightly)]
        shares = [_share(r, eager, what) for what in ("peak_mib", "peak_beyond_mib")]
        floor_ms = max(r["floor_bytes_ms"], r["floor_operations_ms"])
        lines.append(
            f"| {row_title(r)} | {r['floor_bytes'] / 1e6:.1f} MB | {time_text(floor_ms)} | "
            f"{' | '.join(over + shares)} |"
        )
    return lines


def _beyond_line(rows: Sequence[Row]) -> list[str]:
    told = []
    for key in dict.fromkeys(_key(r) for r in compared(rows) if r["gradients_mib"] and r["peak_mib"] is not None):
        group = {r["provider"]: r for r in compared(rows) if _key(r) == key and r["peak_beyond_mib"] is not None}
        peaks = [f"{NAMES[name]} {memory_text(group[name]['peak_beyond_mib'])}" for name in NAMES if name in group]
        told.append(f"{row_title(next(iter(group.values())))}: {', '.join(peaks)}")
    return [f"Peaks beyond those gradients: {'; '.join(told)}."] if told else []


def _forms_line(rows: Sequence[Row]) -> list[str]:
    told = []
    for r in ops(rows):
        if r["provider"] == "fastssl" and r["dtype"] != "float32":
            told.append(f"{row_title(r)} {cell(r)} in {r['dtype']}")
        elif r["provider"] == "fastssl-assignments":
            told.append(f"{row_title(r)} {cell(r)} with the assignments")
        elif r["provider"].startswith("fastssl-"):
            told.append(f"{row_title(r)} {cell({**r, 'peak_mib': None})} by the {r['backend']} backend")
    return [f"fastssl in other forms: {'; '.join(told)}."] if told else []


def section(result: dict[str, Any]) -> str:
    """The Markdown of one machine."""
    where, rows = result["environment"], result["rows"]
    lines = [
        f"**{where['machine_name']}**, {where['threads']} threads", "",
        "Forward and backward, where there is a derivative, float32: median time (times fastssl's), peak extra memory.",
        "", *table(compared(rows), NAMES, row_title),
    ]  # fmt: skip
    for part in (_aims_line, _floors_table, _beyond_line, _forms_line):
        lines += ["", *part(rows)]
    return paragraphs([*lines, "", provenance(result)])
