"""Measures one case of masked training with every provider in turns; `bench_masking.py` has the cases and sizes.

Beside each time stand the bytes of `masking_floors.py` at the rate of a large copy between tensors that exist, taken in
the same run. On a CPU there is a second rate, that of writing to new memory, which the system has to provide and to
clear page by page. A result of PyTorch's is that where it is over 32 MiB, beyond which the C library keeps nothing;
fastssl keeps the pages of large results.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import asdict

import masking_floors
import measured
import torch
from harness import COPY, MATMUL, Row, rates_per_ms, reference_steps, rounded
from masking_providers import CASES, Problem, available, backends, backward, build, make_inputs
from masking_providers import upstream_of as upstream
from measured import MODES
from torch import Tensor

from fastssl._bench import interleave, time_call

ROUNDS, LEAST_ROUNDS, INPUT_SETS = 30, 3, 3
NEW, NEW_NUMEL = "new memory", 64 * 196 * 768
MEMORY_TIMEOUT_S = 120
AGREE = {"float32": 1e-4, "bfloat16": 3e-2, "float16": 4e-3}  # error of outputs and gradients, relative to their norm


def modes(problem: Problem) -> tuple[str, ...]:
    """What a problem is measured in."""
    return MODES if CASES[problem.case].leaves else MODES[:1]


def agree(problem: Problem, found: dict[str, list[Tensor]]) -> None:
    """Raise if a provider's outputs and gradients are not fastssl's: its time would mean nothing.

    Where masks are drawn, shapes must be equal, and so must the number of rows that get a gradient.
    """
    own = found["fastssl"]
    if not CASES[problem.case].random:
        measured.agree(problem.label, found, AGREE[problem.dtype])
        return
    for name, tensors in found.items():
        same = tensors[0].shape == own[0].shape
        if problem.case == "tokens":
            same &= all((t[-1] != 0).any(2).sum(1).eq(problem.kept).all().item() for t in (tensors, own))
        if not same:
            raise AssertionError(f"{name} computes something else than fastssl: {problem.label}")


def _peaks(problem: Problem, provider: str, device: str) -> dict[str, float]:
    arguments = {"problem": asdict(problem), "provider": provider}
    return measured.peaks_mib("masking_providers", arguments, device, MEMORY_TIMEOUT_S)


def _references(device: str, product: bool) -> dict[str, Callable[[int], tuple[float, float]]]:
    steps = reference_steps(device, "float32")
    if not product:
        del steps[MATMUL]
    if not device.startswith("cuda"):
        steps[NEW] = lambda turn: time_call(lambda: torch.empty(NEW_NUMEL).fill_(1), torch.device(device))
    return measured.twice(steps)


def measure(problem: Problem, device: str) -> list[Row]:
    """Measure one problem; return one row a provider and mode."""
    torch._dynamo.reset()  # forget the sizes that were compiled before
    names = available(problem, device)
    sets = [make_inputs(problem, device, seed) for seed in range(INPUT_SETS)]
    found, gradient = {}, None
    for name in names:
        out = build(problem, name)(sets[0])
        gradient = upstream(out) if gradient is None else gradient
        outputs = [out] if isinstance(out, Tensor) else list(out)
        found[name] = [t.detach().float() for t in (*outputs, *backward(problem, out, sets[0], gradient))]
    agree(problem, found)
    found.clear()
    peaks = {name: _peaks(problem, name, device) for name in names}
    back = functools.partial(backward, problem, upstream=gradient)
    steps = {name: measured.passes(build(problem, name), sets, back, device) for name in names}
    product = masking_floors.work(problem, "fwd").operations > 0
    times = interleave(
        steps | _references(device, product), ROUNDS, budget_s=problem.budget_s, least=LEAST_ROUNDS
    )  # fmt: skip
    return [_row(problem, name, mode, device, peaks[name], times) for name in names for mode in modes(problem)]


def _row(
    problem: Problem, name: str, mode: str, device: str, peaks: dict[str, float],
    times: measured.Times,
) -> Row:  # fmt: skip
    ms = measured.medians(times, mode)
    matmul_per_ms, copy_per_ms = rates_per_ms(ms.get(MATMUL, float("inf")), ms[COPY], device)
    work = masking_floors.work(problem, mode)
    own = name == "fastssl"
    return rounded({
        "op": "masking", "case": problem.case, "title": CASES[problem.case].title, "provider": name,
        "backend": backends(problem, device)[0] if own else name.partition("-")[2] or None,
        "device": device.split(":")[0], "n": problem.n, "length": problem.length, "d": problem.dim,
        "dtype": problem.dtype, "mode": mode, **measured.columns(name, mode, times), "peak_mib": peaks.get(mode),
        "floor_bytes": work.floor, "floor_bytes_ms": work.floor / copy_per_ms,
        "floor_operations": work.operations,
        "floor_operations_ms": work.operations / matmul_per_ms if work.operations else 0.0,
        "moved_bytes": work.moved if own else None, "moved_over_floor": work.moved / work.floor if own else None,
        "moved_gbs": work.moved / ms[name] / 1e6 if own else None, "copy_gbs": copy_per_ms / 1e6,
        "new_bytes": work.new, "new_gbs": 4e-6 * NEW_NUMEL / ms[NEW] if NEW in ms else None,
    })  # fmt: skip


def describe(rows: Sequence[Row]) -> None:
    """Print some rows as a small table."""
    for row in rows:
        size = f"{row['title']:38} {row['n']:4} {row['length']:6} {row['d']:4} {row['dtype']:9} {row['mode']:8}"
        peak = "-" if row["peak_mib"] is None else f"{row['peak_mib']:.1f}"
        own = ""
        if row["moved_bytes"] is not None:
            rates = f"{row['moved_gbs']:.1f} of {row['copy_gbs']:.1f} GB/s, {row['moved_over_floor']:.2f} x floor"
            own = f" by {row['backend']}, {rates}"
        print(
            f"{size}{row['provider']:15}{row['time_ms']:10.3f} ms{peak:>8} MiB{row['time_over_fastssl']:8.2f} x"
            f" fastssl{own}", flush=True,
        )  # fmt: skip


def own(problem: Problem, device: str) -> Callable[[], object]:
    """Forward and backward by fastssl."""
    inputs, form = make_inputs(problem, device), build(problem, "fastssl")
    gradient = upstream(form(inputs))
    return lambda: backward(problem, form(inputs), inputs, gradient)
