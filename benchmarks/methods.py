"""What each method learns on `shapes` from the command line, with its defaults there; stores `methods.json`.

    python benchmarks/methods.py [--only METHOD ...] [--out DIR]

Each is `fastssl pretrain METHOD --data shapes --epochs N`, and what `fastssl evaluate` says of it. With `--only` the
other methods keep the rows that are stored, and the commits that these name.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from environment import RESULTS, commit, machine_slug
from harness import Benchmark, Row, write

from fastssl import cli

EPOCHS = {"simclr": 20, "mocov3": 20, "byol": 20, "simsiam": 20, "swav": 20, "dino": 20, "dinov2": 15}
BENCHMARK = Benchmark(
    "methods", lambda device, quick: (), lambda problem, device, state: [], lambda rows: None,
    lambda problem, device: lambda: None, ("timm", "lightning", "scikit-learn"),
)  # fmt: skip


def run(*arguments: str) -> None:
    """Run a command as a user would.

    Raises:
        RuntimeError: it fails.
    """
    if cli.main(arguments) != 0:
        raise RuntimeError(f"fastssl {' '.join(arguments)}: failed")


def measure(method: str, folder: Path) -> Row:
    """Train and evaluate one method."""
    out, start = str(folder / method), time.perf_counter()
    train = ("pretrain", method, "--data", "shapes", "--epochs", str(EPOCHS[method]), "--knn-every", "0")
    run(*train, "--out", out, "--quiet")
    minutes = (time.perf_counter() - start) / 60
    run("evaluate", out)
    found = json.loads((folder / method / "evaluation.json").read_text())
    kinds = zip(
        ("knn", "few", "all"), *(found[f"{kind} encoder"].values() for kind in ("trained", "untrained")), strict=True
    )
    accuracies = {name: (round(100 * after, 1), round(100 * before, 1)) for name, after, before in kinds}
    settings = json.loads((folder / method / "config.json").read_text())["settings"]
    return {
        "op": "methods", "method": method, "epochs": EPOCHS[method], "batch_size": settings["batch_size"],
        "minutes": round(minutes, 1), **accuracies, **commit(),
    }  # fmt: skip


def together(measured: Sequence[Row], stored: Path) -> list[Row]:
    """Return the rows that were measured and, of other methods, those that are stored."""
    before = json.loads(stored.read_text())["rows"] if stored.exists() else []
    rows = {row["method"]: row for row in (*before, *measured)}
    return [rows[method] for method in EPOCHS if method in rows]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=EPOCHS, help="measure these alone")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args(arguments)
    start, rows = time.perf_counter(), []
    with tempfile.TemporaryDirectory() as folder:
        for method in args.only or EPOCHS:
            rows.append(measure(method, Path(folder)))
            print(rows[-1], flush=True)
    command = "python benchmarks/methods.py" + (f" --only {' '.join(args.only)}" if args.only else "")
    rows = together(rows, args.out / machine_slug("cpu") / "methods.json")
    path = write(BENCHMARK, rows, "cpu", args.out, command, time.perf_counter() - start)
    print(f"written  {path.parent.name}/{path.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
