"""Writes the README's tables and the plots from the stored results, and nothing that no result backs.

    python benchmarks/report.py [--check] [--readme FILE] [--results DIR]

The tables of an op go between `<!-- bench:<op>:begin -->` and `<!-- bench:<op>:end -->`, its plots between such markers
of `<op>-plots`. --check changes nothing and exits 1 where the text differs from what the results give.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import report_augment
import report_cached
import report_compare
import report_contrastive
import report_distributed
import report_masking
import report_ntxent
import report_pretexts
import report_teachers

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- bench:{op}:begin -->", "<!-- bench:{op}:end -->"
SECTIONS = {
    "ntxent": report_ntxent, "contrastive": report_contrastive, "cached": report_cached, "augment": report_augment,
    "masking": report_masking, "teachers": report_teachers, "pretexts": report_pretexts,
    "distributed": report_distributed, "compare": report_compare,
}  # fmt: skip
Results = dict[str, dict[str, Any]]  # by machine


def load(folder: Path, op: str) -> Results:
    """Stored results of an op by machine; a machine is a folder."""
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(folder.glob(f"*/{op}.json"))}


def pictures(results: Results, op: str) -> str:
    """The Markdown of the plots of all machines."""
    return "\n\n".join(
        f"![{alt}, {result['environment']['machine_name']}](benchmarks/results/{machine}/{op}_{what}.png)"
        for machine, result in results.items()
        for what, alt in SECTIONS[op].PLOTS.items()
    )


def update(text: str, results: Results, op: str) -> str:
    """Return the README's text with an op's tables, and with plots where it has markers for them."""
    text = insert(text, "\n\n".join(SECTIONS[op].section(result) for result in results.values()), op)
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
    found = {op: results for op in SECTIONS if (results := load(args.results, op))}
    if not found:
        print(f"report: no results in {args.results}; run pytest benchmarks", file=sys.stderr)
        return 1
    old = new = args.readme.read_text()
    for op, results in found.items():
        new = update(new, results, op)
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
    for op, results in found.items():
        for machine, result in results.items():
            for path in plots.DRAW[op](result, args.results / machine) if op in plots.DRAW else ():
                print(f"written  {machine}/{path.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
