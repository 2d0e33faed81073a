"""The report's section on augmentation, from a stored result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from texts import Row, cell, paragraphs, provenance, table, time_text

PLOTS = {"time": "time of a view by recipe"}
NAMES = {
    "fastssl": "fastssl", "torchvision-uint8": "torchvision, uint8", "torchvision-float": "torchvision, float",
    "lightly": "lightly (PIL)", "kornia": "kornia",
}  # fmt: skip
FORMS = {"fastssl-uint8": "with uint8 rounding", "fastssl-bf16": "as bfloat16 channels_last"}
HEADLINE = "simclr"


def compared(rows: Sequence[Row]) -> list[Row]:
    """Rows of the table: what one thread, or a CUDA device, does with each recipe."""
    return [r for r in rows if r["recipe"] != "files" and r["threads"] == 1 and r["provider"] in NAMES]


def row_title(row: Row) -> str:
    """Of a recipe, with the batch where the problem sets it."""
    return row["title"] if row["batch"] is None else f"{row['title']}, batch {row['batch']}"


def _headline(rows: Sequence[Row], provider: str, threads: int = 1) -> list[Row]:
    return [r for r in rows if (r["recipe"], r["provider"]) == (HEADLINE, provider) and r["threads"] == threads]


def _forms_line(rows: Sequence[Row]) -> list[str]:
    told = [f"{time_text(r['time_ms'])} {FORMS[name]}" for name in FORMS for r in _headline(rows, name)[:1]]
    forced = (r for r in rows if r["recipe"] == HEADLINE and r["provider"] == f"fastssl-{r.get('backend')}")
    told += [f"{cell(r)} by the {r['backend']} backend" for r in forced]
    own = _headline(rows, "fastssl")
    return [f"fastssl in other forms, {row_title(own[0])}: {', '.join(told)}."] if told and own else []


def _threads_line(rows: Sequence[Row]) -> list[str]:
    own = {r["threads"]: r for r in rows if (r["recipe"], r["provider"]) == (HEADLINE, "fastssl")}
    if len(own) < 2:
        return []
    most, one_ms = max(own), own[1]["time_ms"]
    told = [f"{time_text(r['time_ms'])} with {n} ({one_ms / r['time_ms']:.1f} times the pace)" for n, r in
            sorted(own.items()) if n > 1]  # fmt: skip
    peers = [f"{NAMES[name]} {cell(r)}" for name in NAMES if name != "fastssl" for r in _headline(rows, name, most)]
    beside = f" Peers in {most} `DataLoader` workers, kornia with {most} threads: {', '.join(peers)}." if peers else ""
    return [f"Threads, {own[1]['title']}: {time_text(one_ms)} with 1, {', '.join(told)}.{beside}"]


def _floor_line(rows: Sequence[Row]) -> list[str]:
    own = _headline(rows, "fastssl")[:1]
    if not own:
        return []
    row = own[0]
    rate = "a matrix product's" if row["device"] == "cuda" else "sgemm's"
    floor_ms = max(row["floor_bytes_ms"], row["floor_operations_ms"])
    halves = [f", {r['predicted_h200_us']:.2f} µs in bfloat16" for r in _headline(rows, "fastssl-bf16")[:1]]
    return [
        f"The floor, {row['title']}: to read a crop and write a view, {row['floor_bytes'] / 1e6:.2f} MB, takes"
        f" {time_text(row['floor_bytes_ms'])} at the rate of a copy, and {row['floor_operations'] / 1e6:.1f} million"
        f" operations {time_text(row['floor_operations_ms'])} at {rate} rate; fastssl takes"
        f" {row['time_ms'] / floor_ms:.1f} times the larger. For an H200 the same counts and its data sheet predict at"
        f" least {row['predicted_h200_us']:.2f} µs a view in float32{''.join(halves)}: a prediction, not a measurement."
    ]


def _files_line(rows: Sequence[Row]) -> list[str]:
    told = []
    for row in rows:
        if row["recipe"] == "files":
            shares = ", ".join(f"{stage} {100 * share:.0f} %" for stage, share in row["shares"].items())
            name = "fastssl" if row["provider"] == "fastssl" else "torchvision in the workers"
            told.append(f"{name} {row['images_per_s']:.0f} images/s ({shares})")
    first = next((r for r in rows if r["recipe"] == "files"), None)
    return [f"From files, {first['title']}, {first['workers']} decoding workers: {'; '.join(told)}."] if first else []


def section(result: dict[str, Any]) -> str:
    """The Markdown of one machine."""
    where, rows = result["environment"], result["rows"]
    on_cpu = not str(where["device"]).startswith("cuda")
    lines = [f"**{where['machine_name']}**{', 1 thread' if on_cpu else ''}", ""]
    sizes = sorted({r["image_size"] for r in compared(rows)}, reverse=True)
    lines += [f"Median time of a view, float32, of photographs of {' or '.join(f'{n} × {n}' for n in sizes)} pixels"]
    lines[-1] += " (times fastssl's)."
    lines += ["", *table(compared(rows), NAMES, row_title, "a view of")]
    for line in (_forms_line, _threads_line, _floor_line, _files_line):
        lines += ["", *line(rows)]
    return paragraphs([*lines, "", provenance(result)])
