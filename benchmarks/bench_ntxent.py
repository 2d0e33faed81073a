"""NT-Xent: fastssl against eager PyTorch, torch.compile and the peer libraries that are installed.

    pytest benchmarks/bench_ntxent.py [--quick]               # one test a size; on CUDA where there is a device
    python benchmarks/bench_ntxent.py [--quick] [--out DIR]   # the same without pytest

A whole run writes `benchmarks/results/<machine>/ntxent.json`. A quick run, or one of some sizes (`-k`), writes
under `runs/benchmarks`, so that stored results always come from one run of one commit.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import harness
import ntxent_measure
import torch
from memory import inputs
from ntxent_measure import Foresight, Problem
from providers import PROVIDERS, available

from fastssl._bench import time_loss

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


def problems(device: str, quick: bool) -> tuple[Problem, ...]:
    """The sizes of a run, small ones first, as each foresees the cost of the next."""
    if device.startswith("cuda"):
        return _QUICK_CUDA if quick else _CUDA
    return _QUICK_CPU if quick else _CPU


def measure(problem: Problem, device: str, foresight: Foresight) -> list[dict[str, Any]]:
    """Rows of one problem."""
    names = available(device, getattr(torch, problem.dtype), problem.d)
    names = tuple(n for n in names if problem.providers is None or n in problem.providers)
    return ntxent_measure.measure(problem, names, device, foresight)


def own(problem: Problem, device: str) -> Callable[[], object]:
    """Forward and backward by fastssl."""
    z, loss = inputs(problem.m, problem.d, problem.dtype, device), PROVIDERS["fastssl"].build()
    return lambda: time_loss(loss, *z)


BENCHMARK = harness.Benchmark(
    "ntxent", problems, measure, ntxent_measure.describe, own, ("lightly", "pytorch-metric-learning"), Foresight
)


def test_ntxent(measured):
    """Measure one size with every provider."""
    rows = [r for r in measured if r["provider"] == "fastssl"]
    assert [r["mode"] for r in rows] == ["fwd", "fwd_bwd"]
    assert all(r["time_ms"] > 0 for r in rows)


def main(arguments: Sequence[str] | None = None) -> Path:
    """Run from a command line."""
    parser = harness.parser(BENCHMARK)
    parser.add_argument("--rows", type=int, nargs="+", help="these 2N alone, at d = 128 in float32")
    args = parser.parse_args(arguments)
    return harness.execute(BENCHMARK, args, tuple(Problem(m) for m in args.rows) if args.rows else None)


if __name__ == "__main__":
    main(sys.argv[1:])
