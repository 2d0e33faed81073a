"""Every method on `shapes`, small and from one seed, judged alike; stores `compare.json` and draws the gallery.

    python benchmarks/compare.py [--runs DIR] [--out DIR]

It is `fastssl compare --methods all --data shapes`, goes on where it was stopped, and takes half an hour on two
cores. The gallery is the picture that each run leaves of what its method does.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from environment import RESULTS, ROOT, commit
from harness import Benchmark, Row, write

from fastssl import cli

BENCHMARK = Benchmark(
    "compare", lambda device, quick: (), lambda problem, device, state: [], lambda rows: None,
    lambda problem, device: lambda: None, ("timm", "lightning", "scikit-learn"),
)  # fmt: skip
COMMAND = ("compare", "--methods", "all", "--data", "shapes")


def stored(row: dict[str, Any]) -> Row:
    """What is kept of a row: of each judgement its scores."""
    kept = {way: {name: {"scores": found["scores"]} for name, found in row[way].items()} for way in ("before", "after")}
    return {"op": "compare", **row, **kept, **commit()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, print, store and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "compare-shapes", help="folder of the runs")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args(arguments)
    if cli.main((*COMMAND, "--out", str(args.runs))) != 0:
        return 1
    rows = json.loads((args.runs / "compare.json").read_text())["rows"]
    seconds = sum(sum(row["seconds"].values()) for row in rows)
    path = write(BENCHMARK, [stored(row) for row in rows], "cpu", args.out, f"fastssl {' '.join(COMMAND)}", seconds)
    for row in rows:
        shutil.copy(args.runs / row["method"] / "pictures.png", path.parent / f"compare_{row['method']}.png")
    print(f"written  {path.parent.name}/{path.name}, and the pictures beside it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
