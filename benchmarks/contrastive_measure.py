"""Measures one contrastive loss with every provider in turns; `bench_contrastive.py` has the cases and sizes.

Two floors stand beside each time: the operations of the problem's matrix products, every pair visited once, over the
rate of the machine's own product, and its compulsory bytes over the rate of a large copy, in the same run.
"""

from __future__ import annotations

from collections.abc import Sequence

import contrastive_providers
import measured
from contrastive_providers import CASES, Inputs, Problem, backends
from harness import COPY, MATMUL, Row, rates_per_ms, rounded
from measured import MODES

AGREE = {"float32": 2e-4, "bfloat16": 3e-2}  # error of the loss and of gradients, relative to their norm


def operations(problem: Problem, mode: str, device: str) -> float:
    """Of the matrix products that the loss needs; on a GPU each side's gradient computes the scores again."""
    forward, whole = CASES[problem.case].products
    if device.startswith("cuda") and mode == "fwd_bwd":
        whole = whole + (whole - forward) / 3
    return 2.0 * problem.m * problem.n * problem.d * (forward if mode == "fwd" else whole)


def compulsory_bytes(problem: Problem, inputs: Inputs, mode: str) -> int:
    """Every input read once, and every gradient written once."""
    sizes = {name: x.numel() * x.element_size() for name, x in inputs.items()}
    written = sum(sizes[name] for name in CASES[problem.case].leaves)
    return sum(sizes.values()) + (written if mode == "fwd_bwd" else 0)


def measure(problem: Problem, device: str, state: object = None) -> list[Row]:
    """Measure one problem; return one row a provider and mode."""
    done = measured.in_turns(problem, device, contrastive_providers, AGREE[problem.dtype])
    return [_row(problem, name, mode, device, done) for name in done.names for mode in MODES]


def _row(problem: Problem, name: str, mode: str, device: str, done: measured.Measured) -> Row:
    ms = measured.medians(done.times, mode)
    matmul_per_ms, copy_per_ms = rates_per_ms(ms[MATMUL], ms[COPY], device)
    work, moved = operations(problem, mode, device), compulsory_bytes(problem, done.inputs, mode)
    return rounded({
        "op": "contrastive", "case": problem.case, "title": CASES[problem.case].title, "provider": name,
        "backend": backends(problem, device)[0] if name == "fastssl" else name.partition("fastssl-")[2] or None,
        "device": device.split(":")[0], "m": problem.m, "n": problem.n, "d": problem.d, "dtype": problem.dtype,
        "mode": mode, **measured.columns(name, mode, done.times), "peak_mib": done.peaks[name].get(mode),
        "floor_operations": work, "floor_operations_ms": work / matmul_per_ms,
        "floor_bytes": moved, "floor_bytes_ms": moved / copy_per_ms,
        "fraction_of_matmul": work / matmul_per_ms / ms[name], "matmul_gflops": matmul_per_ms / 1e6,
        "copy_gbs": copy_per_ms / 1e6,
    })  # fmt: skip


def describe(rows: Sequence[Row]) -> None:
    """Print the whole steps of some rows as a small table."""
    for row in rows:
        size = f"{row['title']:24} {row['m']:6} {row['n']:6} {row['d']:4} {row['dtype']:9} {row['mode']:8}"
        peak = "-" if row["peak_mib"] is None else f"{row['peak_mib']:.1f}"
        print(
            f"{size}{row['provider']:17}{row['time_ms']:10.2f} ms{peak:>9} MiB{row['time_over_fastssl']:8.2f} x fastssl"
            f"{100 * row['fraction_of_matmul']:7.1f} % of matmul", flush=True,
        )  # fmt: skip
