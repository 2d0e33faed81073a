"""Teachers and students: fastssl against eager PyTorch, torch.compile and lightly.

    pytest benchmarks/bench_teachers.py [--quick]               # one test a problem; on CUDA where there is a device
    python benchmarks/bench_teachers.py [--quick] [--out DIR]   # the same without pytest

A whole run writes `benchmarks/results/<machine>/teachers.json`; a quick run, or one of some problems, writes under
`runs/benchmarks`, so that stored results always come from one run of one commit.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import harness
import teachers_measure
import teachers_providers
from measured import own_pass
from teachers_providers import Problem

_OWN, _PAIR, _PEER = ("fastssl",), ("fastssl", "eager"), ("fastssl", "lightly")
K = 65536  # prototypes of DINO's head
SMALL, LARGE = 10, 12  # views: two global ones, and 8 or 10 local ones


def _cpu() -> tuple[Problem, ...]:
    return (
        Problem("dino", 8, K, SMALL, budget_s=15),
        Problem("dino", 64, K, SMALL, budget_s=60),
        Problem("dino", 64, K, LARGE, providers=_PEER, budget_s=30),
        Problem("dino-loss", 64, K, SMALL, providers=_PAIR, budget_s=20),
        Problem("dino", 8, K, SMALL, "bfloat16", _OWN, 4),
        Problem("dino", 64, K, SMALL, "bfloat16", _OWN, 8),
        Problem("sinkhorn", 16, K, budget_s=8),
        Problem("sinkhorn", 128, K, budget_s=25),
        Problem("sinkhorn", 2048, 3000, budget_s=20),
        Problem("ibot", 4096, 8192, budget_s=25),
        Problem("koleo", 2048, 384, budget_s=8),
        Problem("ema", 12, 384, budget_s=10),
        Problem("center", 128, K, budget_s=6),
    )


def _quick_cpu() -> tuple[Problem, ...]:
    sizes = {"sinkhorn": (16, 8192), "ibot": (256, 1024), "koleo": (256, 64), "ema": (2, 96), "center": (32, 8192)}
    views = (Problem(case, 4, 8192, SMALL, providers=_PAIR, budget_s=1) for case in ("dino", "dino-loss"))
    return *views, *(Problem(case, *size, providers=_PAIR, budget_s=1) for case, size in sizes.items())


def _cuda() -> tuple[Problem, ...]:
    both = ("float32", "bfloat16")
    # The loss of lightly multiplies probabilities of float32, as the centre is, with those of the logits' type.
    of = {"float32": None, "bfloat16": ("fastssl", "eager", "compile")}
    return (
        *(Problem("dino", rows, K, SMALL, t, of[t], 2) for rows in (8, 64) for t in both),
        Problem("dino", 64, K, LARGE, providers=_PEER, budget_s=2),
        *(Problem("sinkhorn", *size, dtype=t, budget_s=1) for size in ((128, K), (2048, 3000)) for t in both),
        *(Problem("ibot", 4096, 8192, dtype=t, budget_s=2) for t in both),
        Problem("koleo", 2048, 384, budget_s=1),
        Problem("ema", 12, 384, budget_s=1),
        Problem("center", 128, K, budget_s=1),
    )


def _quick_cuda() -> tuple[Problem, ...]:
    sizes = {"sinkhorn": (128, K), "koleo": (2048, 384), "ema": (12, 384), "center": (128, K)}
    return (
        Problem("dino", 64, K, SMALL, "bfloat16", _PAIR, 1.5),
        Problem("ibot", 4096, 8192, 1, "bfloat16", _PAIR, 1),
        *(Problem(case, *size, providers=_PAIR, budget_s=0.5) for case, size in sizes.items()),
    )


def problems(device: str, quick: bool) -> tuple[Problem, ...]:
    """What a run measures."""
    if device.startswith("cuda"):
        return _quick_cuda() if quick else _cuda()
    return _quick_cpu() if quick else _cpu()


BENCHMARK = harness.Benchmark(
    "teachers",
    problems,
    teachers_measure.measure,
    teachers_measure.describe,
    partial(own_pass, teachers_providers),
    ("lightly",),
)


def test_teachers(measured):
    """Measure one problem with every provider."""
    assert measured[0]["provider"] == "fastssl"
    assert all(r["time_ms"] > 0 for r in measured)


def main(arguments: Sequence[str] | None = None) -> Path:
    """Run from a command line."""
    return harness.execute(BENCHMARK, harness.parser(BENCHMARK).parse_args(arguments))


if __name__ == "__main__":
    main(sys.argv[1:])
