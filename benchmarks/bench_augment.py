"""Augmentation: fastssl against torchvision v2, lightly and kornia, and the whole way from files to views.

    pytest benchmarks/bench_augment.py [--quick]               # one test a problem; on CUDA where there is a device
    python benchmarks/bench_augment.py [--quick] [--out DIR]   # the same without pytest

A whole run writes `benchmarks/results/<machine>/augment.json`; a quick run, or one of some problems (`-k`), writes
under `runs/benchmarks`, so that stored results always come from one run of one commit.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import augment_files
import augment_measure
import harness
from augment_files import Files
from augment_measure import Problem, all_threads
from augment_providers import PEERS
from environment import cores
from harness import Row

_PEERS = ("torchvision-uint8", "torchvision-float", "lightly", "kornia")
_COMPARED = ("fastssl", *_PEERS)
_OWN = ("fastssl", "fastssl-uint8", "fastssl-bf16")


def _cpu() -> tuple[Problem | Files, ...]:
    several = [n for n in all_threads() if n > 1]
    return (
        Problem("simclr", budget_s=60),
        Problem("simclr-bicubic", providers=(*_OWN, *_PEERS), budget_s=25),
        Problem("simclr-small", providers=(*_OWN, *_PEERS), budget_s=25),
        *(Problem(recipe, providers=_COMPARED, budget_s=20) for recipe in ("mocov2", "byol", "mae")),
        Problem("dino", providers=_COMPARED, budget_s=40),
        *(Problem("simclr", n, ("fastssl",), budget_s=6) for n in several if n < cores()),
        *(Problem("simclr", n, _COMPARED, budget_s=40) for n in several[-1:]),
        Files(),
    )


def _quick_cpu() -> tuple[Problem | Files, ...]:
    few = ("fastssl", "torchvision-uint8", "lightly")
    return (
        Problem("simclr", providers=few, budget_s=6),
        Problem("simclr-small", providers=few, budget_s=4),
        Files(images=64, budget_s=4),
    )


def _cuda(quick: bool) -> tuple[Problem | Files, ...]:
    batches, recipes = (
        ((256,), ("simclr", "dino")) if quick else ((32, 256), ("simclr", "simclr-small", "byol", "dino"))
    )
    return (
        *(Problem(recipe, batch=batch, budget_s=5) for recipe in recipes for batch in batches),
        *(() if quick else (Files(images=1024, batch=128),)),
    )


def problems(device: str, quick: bool) -> tuple[Problem | Files, ...]:
    """What a run measures."""
    if device.startswith("cuda"):
        return _cuda(quick)
    return _quick_cpu() if quick else _cpu()


def measure(problem: Problem | Files, device: str, state: Any) -> list[Row]:
    """Rows of one problem."""
    if isinstance(problem, Files):
        return augment_files.measure(problem, device)
    return augment_measure.measure(problem, device)


def describe(rows: Sequence[Row]) -> None:
    """Print the rows of one problem."""
    (augment_files if rows[0]["recipe"] == "files" else augment_measure).describe(rows)


def own(problem: Problem | Files, device: str) -> Callable[[], object]:
    """A call of fastssl's on one problem."""
    if isinstance(problem, Files):
        return augment_files.own(problem, device)
    return augment_measure.own(problem, device)


BENCHMARK = harness.Benchmark("augment", problems, measure, describe, own, PEERS)


def test_augment(measured):
    """Measure one problem with every provider."""
    assert measured[0]["provider"] == "fastssl"
    assert all(r.get("time_ms", r.get("images_per_s")) > 0 for r in measured)


def main(arguments: Sequence[str] | None = None) -> Path:
    """Run from a command line."""
    return harness.execute(BENCHMARK, harness.parser(BENCHMARK).parse_args(arguments))


if __name__ == "__main__":
    main(sys.argv[1:])
