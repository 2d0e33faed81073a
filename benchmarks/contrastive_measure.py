"""Measures one contrastive loss with every provider in turns; `bench_contrastive.py` has the cases and sizes.

Two floors stand beside each time: the operations of the problem's matrix products, every pair visited once, over the
rate of the machine's own product, and its compulsory bytes over the rate of a large copy, in the same run.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import memory
import torch
from contrastive_providers import CASES, Inputs, Problem, available, backends, backward, build, make_inputs
from harness import COPY, MATMUL, Row, quartiles, rates_per_ms, reference_steps, rounded
from torch import Tensor

from fastssl._bench import interleave, time_passes

MODES = ("fwd", "fwd_bwd")
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


def agree(problem: Problem, found: dict[str, list[Tensor]]) -> None:
    """Raise if a provider's loss or gradients are not fastssl's: its time would mean nothing."""
    for name, tensors in found.items():
        for a, b in zip(tensors, found["fastssl"], strict=True):
            if not (a - b).norm() <= AGREE[problem.dtype] * max(b.norm(), 1e-6):
                raise AssertionError(f"{name} computes something else than fastssl: {problem.label}")


def _peaks(problem: Problem, provider: str, device: str) -> dict[str, float]:
    """Peak MiB by mode; empty where this system does not tell."""
    arguments = {"problem": asdict(problem), "provider": provider}
    try:
        found = memory.measure_case("contrastive_providers", arguments, device, MEMORY_TIMEOUT_S)["peaks"]
    except RuntimeError as error:
        if "does not tell" not in str(error):
            raise
        return {}
    return {mode: peak / 2**20 for mode, peak in found.items()}


def _step(problem: Problem, provider: str, sets: Sequence[Inputs], device: str) -> Any:
    form = build(problem, provider)

    def step(turn: int) -> tuple[float, float]:
        inputs = sets[turn % INPUT_SETS]
        return time_passes(lambda: form(inputs), lambda loss: backward(problem, loss, inputs), torch.device(device))

    return step


def measure(problem: Problem, device: str) -> list[Row]:
    """Measure one problem; return one row a provider and mode."""
    torch._dynamo.reset()  # forget the sizes that were compiled before
    names = available(problem, device)
    sets = [make_inputs(problem, device, seed) for seed in range(INPUT_SETS)]
    peaks, found = {}, {}
    for name in list(names):
        try:
            peaks[name] = _peaks(problem, name, device)
        except (MemoryError, TimeoutError) as error:
            print(f"{name} left out: {error}", flush=True)
            names.remove(name)
            continue
        loss = build(problem, name)(sets[0])
        found[name] = [t.detach().float() for t in (loss, *backward(problem, loss, sets[0]))]
    agree(problem, found)
    found.clear()
    steps = {name: _step(problem, name, sets, device) for name in names}
    for name, step in reference_steps(device, problem.dtype).items():
        steps[name] = lambda turn, step=step: (step(turn),) * 2
    times = interleave(steps, ROUNDS, budget_s=problem.budget_s, least=LEAST_ROUNDS)
    return [_row(problem, name, mode, device, peaks[name], times, sets[0]) for name in names for mode in MODES]


def _row(
    problem: Problem, name: str, mode: str, device: str, peaks: dict[str, float],
    times: dict[str, list[tuple[float, float]]], inputs: Inputs,
) -> Row:  # fmt: skip
    which = MODES.index(mode)
    values = [t[which] for t in times[name]]
    ms = {who: statistics.median(t[which] for t in taken) for who, taken in times.items()}
    matmul_per_ms, copy_per_ms = rates_per_ms(ms[MATMUL], ms[COPY], device)
    work, moved = operations(problem, mode, device), compulsory_bytes(problem, inputs, mode)
    first, third = quartiles(values)
    return rounded({
        "op": "contrastive", "case": problem.case, "title": CASES[problem.case].title, "provider": name,
        "backend": backends(problem, device)[0] if name == "fastssl" else name.partition("fastssl-")[2] or None,
        "device": device.split(":")[0], "m": problem.m, "n": problem.n, "d": problem.d, "dtype": problem.dtype,
        "mode": mode, "time_ms": ms[name], "q1_ms": first, "q3_ms": third, "rounds": len(values),
        "time_over_fastssl": ms[name] / ms["fastssl"], "peak_mib": peaks.get(mode),
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
