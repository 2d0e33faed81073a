"""Measures one contrastive loss with every provider in turns; `bench_contrastive.py` has the cases and sizes.

Two floors stand beside each time: the operations of the problem's matrix products, every pair visited once, over the
rate of the machine's own product, and its compulsory bytes over the rate of a large copy, in the same run.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import asdict

import measured
import torch
from contrastive_providers import CASES, Inputs, Problem, available, backends, backward, build, make_inputs
from harness import COPY, MATMUL, Row, rates_per_ms, rounded
from measured import MODES

from fastssl._bench import interleave

ROUNDS, LEAST_ROUNDS, INPUT_SETS = 30, 3, 2
MEMORY_TIMEOUT_S = 180
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


def measure(problem: Problem, device: str) -> list[Row]:
    """Measure one problem; return one row a provider and mode."""
    torch._dynamo.reset()  # forget the sizes that were compiled before
    names = available(problem, device)
    sets = [make_inputs(problem, device, seed) for seed in range(INPUT_SETS)]
    peaks, found = {}, {}
    for name in list(names):
        try:
            arguments = {"problem": asdict(problem), "provider": name}
            peaks[name] = measured.peaks_mib("contrastive_providers", arguments, device, MEMORY_TIMEOUT_S)
        except (MemoryError, TimeoutError) as error:
            print(f"{name} left out: {error}", flush=True)
            names.remove(name)
            continue
        loss = build(problem, name)(sets[0])
        found[name] = [t.detach().float() for t in (loss, *backward(problem, loss, sets[0]))]
    measured.agree(problem.label, found, AGREE[problem.dtype])
    found.clear()
    back = functools.partial(backward, problem)
    steps = {name: measured.passes(build(problem, name), sets, back, device) for name in names}
    steps |= measured.references(device, problem.dtype)
    times = interleave(steps, ROUNDS, budget_s=problem.budget_s, least=LEAST_ROUNDS)
    return [_row(problem, name, mode, device, peaks[name], times, sets[0]) for name in names for mode in MODES]


def _row(
    problem: Problem, name: str, mode: str, device: str, peaks: dict[str, float],
    times: measured.Times, inputs: Inputs,
) -> Row:  # fmt: skip
    ms = measured.medians(times, mode)
    matmul_per_ms, copy_per_ms = rates_per_ms(ms[MATMUL], ms[COPY], device)
    work, moved = operations(problem, mode, device), compulsory_bytes(problem, inputs, mode)
    return rounded({
        "op": "contrastive", "case": problem.case, "title": CASES[problem.case].title, "provider": name,
        "backend": backends(problem, device)[0] if name == "fastssl" else name.partition("fastssl-")[2] or None,
        "device": device.split(":")[0], "m": problem.m, "n": problem.n, "d": problem.d, "dtype": problem.dtype,
        "mode": mode, **measured.columns(name, mode, times), "peak_mib": peaks.get(mode),
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


def own(problem: Problem, device: str) -> Callable[[], object]:
    """Forward and backward by fastssl."""
    inputs, form = make_inputs(problem, device), build(problem, "fastssl")
    return lambda: backward(problem, form(inputs), inputs)
