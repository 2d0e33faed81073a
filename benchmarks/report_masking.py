"""The report's section on masked training, from a stored result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from texts import Row, cell, memory_text, paragraphs, provenance, ratio_text, table, time_text

PLOTS = {"time": "time of the ops of masked training"}
NAMES = {
    "fastssl": "fastssl", "eager": "eager PyTorch", "compile": "torch.compile", "lightly": "lightly", "timm": "timm",
}  # fmt: skip
STAGES = ("embedding, masking", "encoder", "restore, decoder", "loss", "backward")
TARGETS = {"tokens": 6, "restore": 4, "loss": 15}  # over eager PyTorch, of a CPU with two threads


def ops(rows: Sequence[Row]) -> list[Row]:
    """Rows of single ops, in the most that was measured of each: forward and backward, or all there is of masks."""
    return [r for r in rows if r["case"] != "step" and (r["mode"] == "fwd_bwd" or r["case"] == "ids")]


def headline(rows: Sequence[Row]) -> int:
    """The batch of the tables: that with the most rows."""
    batches = [r["n"] for r in ops(rows) if r["case"] != "ids"]
    return max(batches, key=batches.count) if batches else 0


def compared(rows: Sequence[Row]) -> list[Row]:
    """Rows of the table: providers in float32 at the headline's batch, and masks at any."""
    n = headline(rows)
    return [
        r for r in ops(rows)
        if r["provider"] in NAMES and r["dtype"] == "float32" and (r["n"] == n or r["case"] == "ids")
    ]  # fmt: skip


def row_title(row: Row) -> str:
    """Of an op, with the sizes that set it apart."""
    if row["case"] == "ids":
        return f"{row['title']}, {row['n']} × {row['length']}, forward"
    return f"{row['title']}, d = {row['d']}" if row["case"] in ("tokens", "restore") else str(row["title"])


def _targets_line(rows: Sequence[Row]) -> list[str]:
    told = [
        f"{row_title(r)} {TARGETS[r['case']]}× ({ratio_text(r['time_over_fastssl'])} measured)"
        for r in compared(rows)
        if r["provider"] == "eager" and r["case"] in TARGETS and r["device"] == "cpu"
    ]
    return [f"Aims on a CPU, over eager PyTorch: {', '.join(told)}."] if told else []


def _bytes_table(rows: Sequence[Row]) -> list[str]:
    own = [r for r in compared(rows) if r["provider"] == "fastssl"]
    if not own:
        return []
    lines = [
        f"Bytes of these calls: what must be read and written once, and what fastssl moves, beside a copy's"
        f" {own[-1]['copy_gbs']:.0f} GB/s in the same run.{_new_memory(own[-1])}", "",
        "| | must move | fastssl moves | GB/s | of a copy's | floor |", "|---|" + "---:|" * 5,
    ]  # fmt: skip
    for r in own:
        floor = time_text(r["floor_bytes_ms"] + r["floor_operations_ms"])
        product = ", product included" if r["floor_operations"] else ""
        lines.append(
            f"| {row_title(r)} | {r['floor_bytes'] / 1e6:.1f} MB | {r['moved_over_floor']:.2f}× | {r['moved_gbs']:.1f}"
            f" | {100 * r['moved_gbs'] / r['copy_gbs']:.0f} % | {floor}{product} |"
        )
    return lines


def _new_memory(row: Row) -> str:
    if row["new_gbs"] is None:
        return ""
    return (
        f" Writing to memory that the system has yet to clear runs at {row['new_gbs']:.1f} GB/s: PyTorch's results over"
        " 32 MiB are that in every call, while fastssl keeps the pages of large results, up to 256 MiB, which the"
        " peaks above leave out."
    )


def _batches_line(rows: Sequence[Row]) -> list[str]:
    n, told = headline(rows), {}
    others = [r for r in ops(rows) if r["dtype"] == "float32" and r["n"] != n and r["case"] != "ids"]
    for own in (r for r in others if r["provider"] == "fastssl"):
        eager = [
            f" ({ratio_text(r['time_over_fastssl'])})" for r in others
            if r["provider"] == "eager" and all(r[k] == own[k] for k in ("case", "n", "d", "length"))
        ]  # fmt: skip
        told.setdefault(row_title(own), []).append(f"{time_text(own['time_ms'])}{''.join(eager)} at {own['n']}")
    each = "; ".join(f"{title} {', '.join(cells)}" for title, cells in told.items())
    return [f"Other batches (eager PyTorch's time over fastssl's): {each}."] if told else []


def _forms_line(rows: Sequence[Row]) -> list[str]:
    told, n = [], headline(rows)
    at = {(r["case"], r["d"], r["provider"], r["dtype"]): r for r in ops(rows) if r["n"] == n}
    for (case, d, provider, dtype), r in at.items():
        full = at.get((case, d, "fastssl", "float32"))
        if provider == "fastssl" and dtype != "float32" and full:
            told.append(f"{row_title(r)} {time_text(r['time_ms'])} in {dtype}")
        elif provider.startswith("fastssl-") and full:
            told.append(f"{row_title(r)} {cell({**r, 'peak_mib': None})} by the {r['backend']} backend")
    return [f"fastssl in other forms: {'; '.join(told)}."] if told else []


def _step(rows: Sequence[Row]) -> list[str]:
    pairs = [r for r in rows if r["case"] == "step"]
    if not pairs:
        return []
    lines = []
    for key in dict.fromkeys((r["encoder"], r["n"], r["dtype"]) for r in pairs):
        both = {r["provider"]: r for r in pairs if (r["encoder"], r["n"], r["dtype"]) == key}
        own, plain = both["fastssl"], both["eager"]
        lines += ["", f"A step of MAE, `{key[0]}`, batch {key[1]}, {key[2]}, loss and gradients:", ""]
        lines += ["| | step | peak memory | " + " | ".join(STAGES) + " |", "|---|" + "---:|" * (2 + len(STAGES))]
        for name, r in (("fastssl.methods.MAE", own), ("the same in plain PyTorch", plain)):
            ratio = "" if r is own else f" ({r['time_over_fastssl']:.2f}×)"
            peak = "" if r["peak_mib"] is None else memory_text(r["peak_mib"])
            stages = " | ".join(time_text(r[f"ms_{i}"]) for i in range(len(STAGES)))
            lines.append(f"| {name} | {time_text(r['time_ms'])}{ratio} | {peak} | {stages} |")
        lines += [
            "",
            f"With the same weights, images and masks the loss is {own['loss']:.6f}, in plain PyTorch"
            f" {plain['loss']:.6f}, and no parameter's gradient differs by more than {own['difference']:.1e} of its"
            f" norm. What rounding does by itself: on {own['exact_batch']} images the gradients are"
            f" {own['error']:.1e} from those in float64, in plain PyTorch {plain['error']:.1e}.",
        ]
    return lines


def section(result: dict[str, Any]) -> str:
    """The Markdown of one machine."""
    where, rows = result["environment"], result["rows"]
    own = next((r for r in compared(rows) if r["case"] != "ids"), None)
    lines = [f"**{where['machine_name']}**, {where['threads']} threads", ""]
    if own is not None:
        lines += [
            f"Forward and backward, float32, {own['n']} images of {own['length']} patches: median time (times"
            " fastssl's), peak extra memory.", "", *table(compared(rows), NAMES, row_title),
        ]  # fmt: skip
    for part in (_targets_line, _bytes_table, _batches_line, _forms_line, _step):
        lines += ["", *part(rows)]
    return paragraphs([*lines, "", provenance(result)])
