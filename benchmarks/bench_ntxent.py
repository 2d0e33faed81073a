"""NT-Xent: fastssl against eager PyTorch, torch.compile and the peer libraries that are installed.

    pytest benchmarks/bench_ntxent.py [--quick]               # one test a size; on CUDA where there is a device
    python benchmarks/bench_ntxent.py [--quick] [--out DIR]   # the same without pytest

A whole run writes `benchmarks/results/<machine>/ntxent.json`. A quick run, or one of some sizes (`-k`), writes
under `runs/benchmarks`, so that stored results always come from one run of one commit.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import harness
import torch
from environment import RESULTS, ROOT, environment, machine_slug
from harness import Foresight, Problem
from providers import available

try:
    import pytest
except ImportError:  # only a run as a script is left
    pytest = None  # type: ignore[assignment]

FASTSSL = ("fastssl",)
_HALVES = tuple(Problem(m, dtype=dtype, providers=FASTSSL, budget_s=4) for m in (512, 8192) for dtype in
                ("bfloat16", "float16"))  # fmt: skip
_ROWS_CPU = {512: 14, 1024: 12, 2048: 12, 4096: 20, 8192: 45, 16384: 60, 32768: 30}  # seconds of timing by m
_CPU = (
    *(Problem(m, budget_s=budget_s) for m, budget_s in _ROWS_CPU.items()),
    *(Problem(4096, d, budget_s=15) for d in (64, 256, 512)),
    *_HALVES,
)
_CUDA = (
    *(Problem(m, budget_s=3) for m in (*_ROWS_CPU, 65536)),
    *(Problem(8192, d, budget_s=3) for d in (64, 256, 512)),
    *(Problem(m, dtype="bfloat16", budget_s=3) for m in (512, 8192, 32768, 65536)),
    *(Problem(m, dtype="float16", providers=FASTSSL, budget_s=3) for m in (512, 8192)),
)
_QUICK_CPU = (Problem(512, budget_s=2), Problem(2048, budget_s=5), _HALVES[0])
_QUICK_CUDA = (
    *(Problem(m, budget_s=2) for m in (512, 8192, 32768)),
    *(Problem(m, dtype="bfloat16", budget_s=2) for m in (512, 8192, 32768, 65536)),
    Problem(8192, dtype="float16", providers=FASTSSL, budget_s=2),
)


def default_device() -> str:
    """A CUDA device where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def problems(device: str, quick: bool) -> tuple[Problem, ...]:
    """The sizes of a run, small ones first, as each foresees the cost of the next."""
    if device.startswith("cuda"):
        return _QUICK_CUDA if quick else _CUDA
    return _QUICK_CPU if quick else _CPU


def measure(problem: Problem, device: str, foresight: Foresight) -> list[dict[str, Any]]:
    """Rows of one problem."""
    names = available(device, getattr(torch, problem.dtype), problem.d)
    names = tuple(n for n in names if problem.providers is None or n in problem.providers)
    return harness.measure(problem, names, device, foresight)


def write(rows: Sequence[dict[str, Any]], device: str, folder: Path, command: str, seconds: float) -> Path:
    """Write `<folder>/<machine>/ntxent.json` and return its path."""
    path = folder / machine_slug(device) / "ntxent.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    head = {"op": "ntxent", "environment": environment(device), "command": command, "seconds": round(seconds)}
    # One row a line: a later run shows up as a readable difference.
    lines = ",\n".join("  " + json.dumps(row) for row in rows)
    path.write_text(json.dumps(head, indent=1)[:-2] + f',\n "rows": [\n{lines}\n ]\n}}\n')
    return path


def run(todo: Iterable[Problem], device: str, folder: Path, command: str, limit_s: float = math.inf) -> Path:
    """Measure problems one after another, print a table, and write the results; none is begun after the limit."""
    start, rows, foresight = time.perf_counter(), [], Foresight()
    for problem in todo:
        if time.perf_counter() - start > limit_s:
            print(f"left out for lack of time: {problem.label}")
            continue
        found = measure(problem, device, foresight)
        harness.describe(found)
        rows += found
    return write(rows, device, folder, command, time.perf_counter() - start)


if pytest is not None:

    @pytest.fixture(scope="module")
    def collector(request):
        """Gather the rows of all tests, and write them when the last has run."""
        device, quick = default_device(), request.config.getoption("--quick", False)
        gathered: dict[str, Any] = {"rows": [], "foresight": Foresight(), "device": device, "done": set()}
        start = time.perf_counter()
        yield gathered
        if not gathered["rows"]:
            return
        whole = not quick and gathered["done"] == set(problems(device, quick))
        folder = RESULTS if whole else ROOT / "runs" / "benchmarks"
        command = f"pytest benchmarks/bench_ntxent.py{' --quick' if quick else ''}"
        path = write(gathered["rows"], device, folder, command, time.perf_counter() - start)
        with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            print(f"\n{path.relative_to(ROOT)}")

    def pytest_generate_tests(metafunc):
        """One test a problem."""
        todo = problems(default_device(), metafunc.config.getoption("--quick", False))
        metafunc.parametrize("problem", todo, ids=lambda p: p.label)

    def test_ntxent(problem, collector, request):
        """Measure one size with every provider; pytest-benchmark's table shows fastssl's step, its JSON all of them."""
        rows = measure(problem, collector["device"], collector["foresight"])
        with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            print()
            harness.describe(rows)
        collector["rows"] += rows
        collector["done"].add(problem)
        own = [r for r in rows if r["provider"] == "fastssl"]
        assert [r["mode"] for r in own] == ["fwd", "fwd_bwd"]
        assert all(r["time_ms"] > 0 for r in own)
        if request.config.pluginmanager.hasplugin("benchmark"):
            _for_pytest_benchmark(request.getfixturevalue("benchmark"), problem, rows, collector["device"])

    def _for_pytest_benchmark(benchmark, problem, rows, device):
        from memory import inputs
        from providers import PROVIDERS

        from fastssl._bench import time_loss

        z, loss = inputs(problem.m, problem.d, problem.dtype, device), PROVIDERS["fastssl"].build()
        benchmark.extra_info["rows"] = rows
        benchmark.pedantic(lambda: time_loss(loss, *z), rounds=3 if problem.m <= 8192 else 1, warmup_rounds=0)


def main(arguments: Sequence[str] | None = None) -> Path:
    """Run from a command line."""
    parser = argparse.ArgumentParser(description="NT-Xent benchmark", formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few sizes")
    parser.add_argument("--device", default=default_device(), help="cpu or cuda (default: cuda where there is one)")
    parser.add_argument("--rows", type=int, nargs="+", help="these 2N alone, at d = 128 in float32")
    parser.add_argument("--out", type=Path, help="folder of results (default: benchmarks/results for a whole run)")
    parser.add_argument("--limit-s", type=float, default=math.inf, help="begin no further size after these seconds")
    args = parser.parse_args(arguments)
    todo = problems(args.device, args.quick)
    if args.rows:
        todo = tuple(Problem(m) for m in args.rows)
    folder = args.out or (
        ROOT / "runs" / "benchmarks" if args.quick or args.rows or args.limit_s < math.inf else RESULTS
    )
    command = f"python benchmarks/bench_ntxent.py{' --quick' if args.quick else ''}"
    path = run(todo, args.device, folder, command, args.limit_s)
    print(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path.name)
    return path


if __name__ == "__main__":
    main(sys.argv[1:])
