"""Contrastive losses: fastssl against eager PyTorch, torch.compile and the libraries that have them.

    pytest benchmarks/bench_contrastive.py [--quick]               # one test a problem; on CUDA where there is a device
    python benchmarks/bench_contrastive.py [--quick] [--out DIR]   # the same without pytest

A whole run writes `benchmarks/results/<machine>/contrastive.json`; a quick run, or one of some problems, writes under
`runs/benchmarks`, so that stored results always come from one run of one commit.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import contrastive_measure
import contrastive_providers
import harness
from contrastive_providers import Problem
from measured import own_pass

_PAIR = ("fastssl", "eager")


def _cpu() -> tuple[Problem, ...]:
    return (
        Problem("moco", 256, 65536, 128),
        Problem("supcon", 2048, 2048, 128),
        Problem("clip", 4096, 4096, 512, budget_s=25),
        Problem("siglip", 4096, 4096, 512, budget_s=25),
        Problem("dcl", 8192, 8192, 128, budget_s=60),
        Problem("info-nce", 4096, 4096, 128),
        Problem("multi-positive", 256, 256, 128, budget_s=20),
        Problem("hard-negatives", 2048, 2048, 128),
        Problem("uniformity", 2048, 2048, 128),
        Problem("vocabulary", 1024, 30522, 256, budget_s=30),
        Problem("moco", 256, 65536, 128, "bfloat16", ("fastssl",), 2),
        Problem("clip", 4096, 4096, 512, "bfloat16", ("fastssl",), 3),
    )


def _quick() -> tuple[Problem, ...]:
    cases = {"moco": 8192, "supcon": 256, "clip": 256, "siglip": 256, "dcl": 256, "info-nce": 256, "uniformity": 256}
    return tuple(Problem(case, 256, n, 64, providers=_PAIR, budget_s=1) for case, n in cases.items())


def _cuda(quick: bool) -> tuple[Problem, ...]:
    both, some = ("float32", "bfloat16"), _PAIR if quick else None
    pairs = (4096,) if quick else (4096, 16384)
    large = () if quick else (65536, 131072)
    return (
        *(Problem(c, n, n, d, t, some, 2) for c in ("clip", "siglip") for n in pairs for d in (128, 512) for t in both),
        *(Problem("clip", n, n, d, "bfloat16", ("fastssl",), 3) for n in large for d in (128, 512)),
        *(Problem("moco", 4096, 65536, 128, t, some, 2) for t in both),
        *(Problem("supcon", 8192, 8192, 128, t, some, 2) for t in both),
        Problem("dcl", 8192, 8192, 128, "bfloat16", some, 2),
        Problem("vocabulary", 4096, 30522, 768, "bfloat16", some, 2),
    )


def problems(device: str, quick: bool) -> tuple[Problem, ...]:
    """What a run measures."""
    if device.startswith("cuda"):
        return _cuda(quick)
    return _quick() if quick else _cpu()


BENCHMARK = harness.Benchmark(
    "contrastive", problems, contrastive_measure.measure, contrastive_measure.describe,
    partial(own_pass, contrastive_providers),
    ("lightly", "pytorch-metric-learning", "open_clip_torch", "info-nce-pytorch"),
)  # fmt: skip


def test_contrastive(measured):
    """Measure one problem with every provider."""
    assert measured[0]["provider"] == "fastssl"
    assert all(r["time_ms"] > 0 for r in measured)


def main(arguments: Sequence[str] | None = None) -> Path:
    """Run from a command line."""
    return harness.execute(BENCHMARK, harness.parser(BENCHMARK).parse_args(arguments))


if __name__ == "__main__":
    main(sys.argv[1:])
