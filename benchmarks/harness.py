"""What the benchmarks of all ops share: the machine's own rates, the file of results, and how a run is begun.

A benchmark is a module with a constant `BENCHMARK`; `conftest.py` makes one test of each of its problems.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from environment import RESULTS, ROOT, environment, machine_slug

from fastssl._bench import time_call

MATMUL, COPY = "matmul", "copy"
UNSTORED = ROOT / "runs" / "benchmarks"  # of runs that are not whole
Row = dict[str, Any]


@dataclass(frozen=True)
class Benchmark:
    """The benchmark of one op.

    Attributes:
        op: its name, and that of its file of results.
        problems: of a device and whether the run is quick, in the order in which they are measured.
        measure: rows of a problem on a device, given the `state` of the run.
        describe: prints rows.
        own: a call of fastssl's on a problem and device, which pytest-benchmark times as well.
        packages: whose versions stand with the results.
        state: what a run hands from one problem to the next.
    """

    op: str
    problems: Callable[[str, bool], tuple[Any, ...]]
    measure: Callable[[Any, str, Any], list[Row]]
    describe: Callable[[Sequence[Row]], None]
    own: Callable[[Any, str], Callable[[], object]]
    packages: tuple[str, ...]
    state: Callable[[], Any] = dict


def default_device() -> str:
    """A CUDA device where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def reference_sizes(device: str) -> tuple[int, int]:
    """Side of the matrix product and number of floats of the copy that measure the machine."""
    return (8192, 2**28) if device.startswith("cuda") else (2048, 2**25)


def reference_steps(device: str, dtype: str) -> dict[str, Callable[[int], float]]:
    """Two steps for `interleave`, which return the milliseconds of a matrix product and of a large copy."""
    side, numel = reference_sizes(device)
    # A CPU multiplies 16-bit embeddings in float32.
    kind = getattr(torch, dtype) if device.startswith("cuda") else torch.float32
    a, b = (torch.randn(side, side, device=device).to(kind) for _ in range(2))
    out = torch.empty_like(a)
    source, target = (torch.ones(numel, device=device) for _ in range(2))
    where = torch.device(device)
    return {
        MATMUL: lambda turn: time_call(lambda: torch.mm(a, b, out=out), where),
        COPY: lambda turn: time_call(lambda: target.copy_(source), where),
    }


def rates_per_ms(matmul_ms: float, copy_ms: float, device: str) -> tuple[float, float]:
    """Operations and bytes a millisecond, from the times of the two steps; a copy reads and writes each float."""
    side, numel = reference_sizes(device)
    return 2.0 * side**3 / matmul_ms, 8.0 * numel / copy_ms


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """The first and the third."""
    if len(values) < 2:
        return values[0], values[0]
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return first, third


def rounded(row: Row) -> Row:
    """The row with five digits of each float: no measurement has more."""
    return {k: float(f"{v:.5g}") if isinstance(v, float) else v for k, v in row.items()}


def write(
    benchmark: Benchmark, rows: Sequence[Row], device: str, folder: Path, command: str, seconds: float
) -> Path:  # fmt: skip
    """Write `<folder>/<machine>/<op>.json` and return its path."""
    path = folder / machine_slug(device) / f"{benchmark.op}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    about = environment(device, benchmark.packages)
    head = {"op": benchmark.op, "environment": about, "command": command, "seconds": round(seconds)}
    # One row a line: a later run shows up as a readable difference.
    lines = ",\n".join("  " + json.dumps(row) for row in rows)
    path.write_text(json.dumps(head, indent=1)[:-2] + f',\n "rows": [\n{lines}\n ]\n}}\n')
    return path


class Collector:
    """The rows of a run, as they are measured."""

    def __init__(self, benchmark: Benchmark, device: str) -> None:
        self.benchmark, self.device = benchmark, device
        self.rows: list[Row] = []
        self.done: set[Any] = set()
        self.state = benchmark.state()
        self.start = time.perf_counter()

    def measure(self, problem: Any) -> list[Row]:
        """Measure a problem, print its rows and keep them."""
        found = self.benchmark.measure(problem, self.device, self.state)
        self.benchmark.describe(found)
        self.rows += found
        self.done.add(problem)
        return found

    def write(self, folder: Path, command: str) -> Path:
        """Write what has been measured."""
        return write(self.benchmark, self.rows, self.device, folder, command, time.perf_counter() - self.start)


def run(
    benchmark: Benchmark, todo: Iterable[Any], device: str, folder: Path, command: str, limit_s: float = math.inf
) -> Path:  # fmt: skip
    """Measure problems one after another, print a table, and write the results; none is begun after the limit."""
    collector = Collector(benchmark, device)
    for problem in todo:
        if time.perf_counter() - collector.start > limit_s:
            print(f"left out for lack of time: {problem.label}")
        else:
            collector.measure(problem)
    return collector.write(folder, command)


def parser(benchmark: Benchmark) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    made = argparse.ArgumentParser(description=f"benchmark of {benchmark.op}")
    made.add_argument("--quick", action="store_true", help="a few problems")
    made.add_argument("--device", default=default_device(), help="cpu or cuda (default: cuda where there is one)")
    made.add_argument("--out", type=Path, help="folder of results (default: benchmarks/results for a whole run)")
    made.add_argument("--limit-s", type=float, default=math.inf, help="begin no further problem after these seconds")
    return made


def execute(benchmark: Benchmark, args: argparse.Namespace, todo: Sequence[Any] | None = None) -> Path:
    """Run what a command line asks for; `todo` are the problems if not those of the benchmark."""
    whole = todo is None and not args.quick and args.limit_s == math.inf
    problems = benchmark.problems(args.device, args.quick) if todo is None else todo
    command = f"python benchmarks/bench_{benchmark.op}.py{' --quick' if args.quick else ''}"
    folder = args.out or (RESULTS if whole else UNSTORED)
    path = run(benchmark, problems, args.device, folder, command, args.limit_s)
    print(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path.name)
    return path
