"""The ops of the classic pretexts: fastssl against eager PyTorch, torch.compile, torchvision,
kornia and scikit-learn.

    pytest benchmarks/bench_pretexts.py [--quick]               # one test a problem; on CUDA where there is a device
    python benchmarks/bench_pretexts.py [--quick] [--out DIR]   # the same without pytest

A whole run writes `benchmarks/results/<machine>/pretexts.json`; a quick run, or one of some problems, writes under
`runs/benchmarks`, so that stored results always come from one run of one commit.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import harness
import pretexts_measure
import pretexts_providers
from measured import own_pass
from pretexts_forms import Problem

PEERS = ("torchvision", "kornia", "scikit-learn")  # packages
_OWN, _PAIR = ("fastssl",), ("fastssl", "eager")


def _cpu() -> tuple[Problem, ...]:
    return (
        Problem("jigsaw", 64, 255, budget_s=6),
        Problem("jigsaw", 64, 255, interleaved=True, providers=_PAIR, budget_s=3),
        Problem("jigsaw", 64, 255, "bfloat16", providers=_OWN, budget_s=2),
        Problem("context", 32, 400, budget_s=8),
        Problem("lab", 32, 224, budget_s=6),
        Problem("bins", 32, 224, budget_s=16),
        Problem("loss", 16, 56, budget_s=8),
        Problem("loss", 16, 56, interleaved=True, providers=_PAIR, budget_s=4),
        Problem("loss", 16, 56, "bfloat16", providers=_OWN, budget_s=2),
    )


def _quick_cpu() -> tuple[Problem, ...]:
    sizes = {"jigsaw": (2, 255), "context": (1, 400), "lab": (2, 64), "bins": (2, 64), "loss": (1, 16)}
    return tuple(Problem(case, *size, providers=_PAIR, budget_s=0.5) for case, size in sizes.items())


def _cuda() -> tuple[Problem, ...]:
    return (
        *(Problem("jigsaw", 256, 255, interleaved=last, budget_s=2) for last in (False, True)),
        Problem("jigsaw", 256, 255, "bfloat16", providers=_OWN, budget_s=1),
        Problem("context", 128, 400, budget_s=2),
        Problem("lab", 256, 224, budget_s=2),
        Problem("bins", 64, 224, providers=("fastssl", "eager", "compile"), budget_s=2),
        *(Problem("loss", 64, 56, interleaved=last, budget_s=2) for last in (False, True)),
        Problem("loss", 64, 56, "bfloat16", providers=_PAIR, budget_s=1),
    )


def _quick_cuda() -> tuple[Problem, ...]:
    sizes = {"jigsaw": (256, 255), "context": (128, 400), "lab": (256, 224), "bins": (64, 224), "loss": (64, 56)}
    return tuple(Problem(case, *size, providers=_PAIR, budget_s=1) for case, size in sizes.items())


def problems(device: str, quick: bool) -> tuple[Problem, ...]:
    """What a run measures."""
    if device.startswith("cuda"):
        return _quick_cuda() if quick else _cuda()
    return _quick_cpu() if quick else _cpu()


BENCHMARK = harness.Benchmark(
    "pretexts",
    problems,
    pretexts_measure.measure,
    pretexts_measure.describe,
    partial(own_pass, pretexts_providers),
    PEERS,
)


def test_pretexts(measured):
    """Measure one problem with every provider."""
    assert measured[0]["provider"] == "fastssl"
    assert all(r["time_ms"] > 0 for r in measured)


def main(arguments: Sequence[str] | None = None) -> Path:
    """Run from a command line."""
    return harness.execute(BENCHMARK, harness.parser(BENCHMARK).parse_args(arguments))


if __name__ == "__main__":
    main(sys.argv[1:])
