"""Writes the README's tables and the plots from the stored results, and nothing that no result backs.

    python benchmarks/report.py [--check] [--readme FILE] [--results DIR]

The tables go between `<!-- bench:ntxent:begin -->` and `<!-- bench:ntxent:end -->`, the plots between such markers
of `ntxent-plots`. --check changes nothing and exits 1 where the text differs from what the results give.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- bench:{op}:begin -->", "<!-- bench:{op}:end -->"
NAMES = {
    "fastssl": "fastssl", "eager": "eager PyTorch", "compile": "torch.compile", "lightly": "lightly",
    "pml": "pytorch-metric-learning",
}  # fmt: skip
_WIDTH = 128  # the width of the tables over 2N
Row = dict[str, Any]


def load(folder: Path, op: str = "ntxent") -> dict[str, dict[str, Any]]:
    """Stored results of an op by machine; a machine is a folder."""
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(folder.glob(f"*/{op}.json"))}


def time_text(ms: float) -> str:
    """Three digits and a unit."""
    if ms >= 10_000:
        return f"{ms / 1000:.1f} s"
    return f"{ms:.0f} ms" if ms >= 100 else f"{ms:.1f} ms" if ms >= 10 else f"{ms:.2f} ms"


def memory_text(mib: float) -> str:
    """MiB, or GiB from 1024 MiB on."""
    return f"{mib / 1024:.1f} GiB" if mib >= 1024 else f"{mib:.0f} MiB" if mib >= 10 else f"{mib:.1f} MiB"


def ratio_text(ratio: float) -> str:
    """Times fastssl's time, with two or three digits."""
    return f"{ratio:.0f}×" if ratio >= 100 else f"{ratio:.1f}×"


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
    versions = ", ".join(f"{name} {number}" for name, number in where["versions"].items())
    commit = (where["commit"] or "unknown")[:10] + (" with changes" if where["dirty"] else "")
    lines = [f"**{where['machine_name']}**, {where['threads']} threads"]
    for dtype in compared_dtypes(rows):
        lines += ["", f"Forward and backward, {dtype}, d = {_WIDTH}: median time (times fastssl's), peak extra memory."]
        lines += ["", *_table(rows, dtype), "", *_widths_line(rows, dtype)]
    lines += ["", " ".join(_dtypes_line(rows) + _fallback_line(rows)), ""]
    lines += [f"Measured {where['date']} by `{result['command']}`, commit {commit}; {versions}."]
    text = "\n".join(lines)
    while "\n\n\n" in text:
        text = text.replace("\n\n\n", "\n\n")
    return text


def pictures(results: dict[str, dict[str, Any]], op: str = "ntxent") -> str:
    """The Markdown of the plots of all machines."""
    return "\n\n".join(
        f"![{what} of {op} over 2N, {result['environment']['machine_name']}]"
        f"(benchmarks/results/{machine}/{op}_{what}.png)"
        for machine, result in results.items()
        for what in ("time", "memory")
    )


def update(text: str, results: dict[str, dict[str, Any]], op: str = "ntxent") -> str:
    """Return the README's text with tables, and with plots where it has markers for them."""
    text = insert(text, "\n\n".join(section(result) for result in results.values()), op)
    if BEGIN.format(op=f"{op}-plots") in text:
        text = insert(text, pictures(results, op), f"{op}-plots")
    return text


def insert(text: str, content: str, name: str) -> str:
    """Return the text with the content between the markers of that name.

    Raises:
        ValueError: a marker is missing, or they are in the wrong order.
    """
    begin, end = BEGIN.format(op=name), END.format(op=name)
    start, stop = text.find(begin), text.find(end)
    if start < 0 or stop < start:
        raise ValueError(f"README: got no markers {begin} and {end}, in that order, want both")
    return f"{text[: start + len(begin)]}\n{content}\n{text[stop:]}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the tables and plots, or check the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 where the tables are out of date")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args(arguments)
    results = load(args.results)
    if not results:
        print(f"report: no results in {args.results}; run pytest benchmarks/bench_ntxent.py", file=sys.stderr)
        return 1
    old = args.readme.read_text()
    new = update(old, results)
    if args.check:
        print(
            "the README's tables are up to date" if new == old else "the README's tables are out of date: make report"
        )
        return int(new != old)
    args.readme.write_text(new)
    print(f"written  {args.readme.name}")
    try:
        import plots
    except ImportError as error:
        print(f"report: no plots ({error})", file=sys.stderr)
        return 0
    for machine, result in results.items():
        for path in plots.draw(result, args.results / machine):
            print(f"written  {machine}/{path.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
