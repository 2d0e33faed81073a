"""Masked training: fastssl against eager PyTorch, torch.compile, lightly and timm; and a whole step of MAE.

    pytest benchmarks/bench_masking.py [--quick]               # one test a problem; on CUDA where there is a device
    python benchmarks/bench_masking.py [--quick] [--out DIR]   # the same without pytest
    python benchmarks/bench_masking.py --step-batch 8          # the step alone, with another batch

A whole run writes `benchmarks/results/<machine>/masking.json`; a quick run, or one of some problems, writes under
`runs/benchmarks`, so that stored results always come from one run of one commit.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import harness
import masking_measure
import masking_step
from harness import Row
from masking_providers import Problem
from masking_step import Step

_OWN = ("fastssl",)
_PAIR = ("fastssl", "eager")
_COMPILED = ("tokens", "embed-float", "restore", "loss", "loss-masked")  # to compile takes longer than to measure
_QUICKLY = ("fastssl", "fastssl-torch", "eager", "lightly", "timm")
_CASES = ("tokens", "embed-float", "embed-uint8", "restore", "loss", "loss-masked", "simmim")
VIDEO = 16384  # tokens of a clip


def _width(case: str) -> int:
    """Of the tokens: that of MAE's decoder where they are restored, else ViT-B's."""
    return 512 if case == "restore" else 768


def _sizes(cases: Sequence[str], sizes: Sequence[int], providers: tuple[str, ...], budget_s: float) -> list[Problem]:
    return [Problem(c, n, dim=_width(c), providers=providers, budget_s=budget_s) for c in cases for n in sizes]


def _cpu() -> tuple[Problem | Step, ...]:
    return (
        Problem("ids", providers=_QUICKLY, budget_s=2),
        Problem("ids", 8, VIDEO, providers=_QUICKLY, budget_s=3),
        *(Problem(c, dim=_width(c), providers=None if c in _COMPILED else _QUICKLY, budget_s=5) for c in _CASES),
        Problem("restore", providers=_QUICKLY, budget_s=4),
        *_sizes(("tokens", "restore", "loss"), (1, 8), _PAIR, 1.5),
        *_sizes(("tokens", "restore", "loss"), (256,), _PAIR, 4),
        *(Problem(c, dim=_width(c), dtype="bfloat16", providers=_OWN, budget_s=1.5) for c in _CASES),
        Step(),
    )


def _quick_cpu() -> tuple[Problem | Step, ...]:
    return (
        Problem("ids", providers=_PAIR, budget_s=0.5),
        *_sizes(_CASES, (16,), _PAIR, 1.5),
        Step(2, encoder="vit_tiny_patch16_224", decoder_dim=128, decoder_depth=2),
    )


def _cuda(quick: bool) -> tuple[Problem | Step, ...]:
    cases = ("tokens", "embed-uint8", "restore", "loss", "loss-masked")
    some = _PAIR if quick else None
    return (
        Problem("ids", 256, budget_s=1),
        Problem("ids", 64, VIDEO, budget_s=1),
        *(Problem(c, 256, dim=_width(c), dtype=t, providers=some, budget_s=2) for c in cases for t in
          ("float32", "bfloat16")),
        *(() if quick else (Problem(c, 8, dim=_width(c), budget_s=1) for c in cases)),
        Step(128 if quick else 256, rounds=5, autocast=True),
    )  # fmt: skip


def problems(device: str, quick: bool) -> tuple[Problem | Step, ...]:
    """What a run measures; the model of a step is timm's."""
    on_cpu = _quick_cpu if quick else _cpu
    found = _cuda(quick) if device.startswith("cuda") else on_cpu()
    has_timm = importlib.util.find_spec("timm") is not None
    return tuple(p for p in found if has_timm or not isinstance(p, Step))


def measure(problem: Problem | Step, device: str, state: Any) -> list[Row]:
    """Rows of one problem."""
    return (masking_step if isinstance(problem, Step) else masking_measure).measure(problem, device)


def describe(rows: Sequence[Row]) -> None:
    """Print the rows of one problem."""
    (masking_step if rows[0]["case"] == "step" else masking_measure).describe(rows)


def own(problem: Problem | Step, device: str) -> Callable[[], object]:
    """A call of fastssl's on one problem."""
    return (masking_step if isinstance(problem, Step) else masking_measure).own(problem, device)


BENCHMARK = harness.Benchmark("masking", problems, measure, describe, own, ("timm", "lightly"))


def test_masking(measured):
    """Measure one problem with every provider."""
    assert measured[0]["provider"] == "fastssl"
    assert all(r["time_ms"] > 0 for r in measured)


def main(arguments: Sequence[str] | None = None) -> Path:
    """Run from a command line."""
    parser = harness.parser(BENCHMARK)
    parser.add_argument("--step-batch", type=int, help="the whole step alone, of so many images")
    args = parser.parse_args(arguments)
    todo = None
    if args.step_batch is not None:
        steps = [p for p in problems(args.device, args.quick) if isinstance(p, Step)]
        todo = [dataclasses.replace(step, batch=args.step_batch) for step in steps]
    return harness.execute(BENCHMARK, args, todo)


if __name__ == "__main__":
    main(sys.argv[1:])
