"""Measures one case of the classic pretexts with every provider in turns; `bench_pretexts.py` has the sizes.

Beside each time stands its floor: the bytes that a case has to read and write, as `pretexts_forms.py` counts them, over
the rate of a large copy in the same run. What is drawn or computed on the way counts nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import asdict

import measured
import torch
from harness import COPY, Row, rates_per_ms, rounded
from measured import MODES
from pretexts_forms import Problem
from pretexts_providers import CASES, available, backends, backward, build, make_inputs

from fastssl._bench import interleave

ROUNDS, LEAST_ROUNDS, INPUT_SETS = 30, 3, 2
MEMORY_TIMEOUT_S = 120
AGREE = {"float32": 1e-3, "bfloat16": 3e-2}  # error of results and gradients, relative to their norm


def modes(problem: Problem) -> tuple[str, ...]:
    """What a problem is measured in."""
    return MODES if CASES[problem.case].leaves else MODES[:1]


def _peaks(problem: Problem, provider: str, device: str) -> dict[str, float]:
    arguments = {"problem": asdict(problem), "provider": provider}
    return measured.peaks_mib("pretexts_providers", arguments, device, MEMORY_TIMEOUT_S)


def measure(problem: Problem, device: str) -> list[Row]:
    """Measure one problem; return one row a provider and mode."""
    torch._dynamo.reset()  # forget the sizes that were compiled before
    case, names = CASES[problem.case], available(problem, device)
    sets = [make_inputs(problem, device, seed) for seed in range(INPUT_SETS)]
    peaks, found = {}, {}
    for name in names:
        peaks[name] = _peaks(problem, name, device)
        out = build(problem, name)(sets[0])
        results = *case.compared(sets[0], out), *backward(problem, out, sets[0])
        found[name] = [t.detach().float() for t in results]
    measured.agree(problem.label, found, AGREE[problem.dtype])
    found.clear()
    back = functools.partial(backward, problem)
    steps = {name: measured.passes(build(problem, name), sets, back, device) for name in names}
    steps |= measured.references(device, problem.dtype)
    times = interleave(steps, ROUNDS, budget_s=problem.budget_s, least=LEAST_ROUNDS)
    return [_row(problem, name, mode, device, peaks[name], times) for name in names for mode in modes(problem)]


def _row(
    problem: Problem, name: str, mode: str, device: str, peaks: dict[str, float], times: measured.Times
) -> Row:  # fmt: skip
    ms, case = measured.medians(times, mode), CASES[problem.case]
    copy_per_ms = rates_per_ms(1.0, ms[COPY], device)[1]
    moved = case.moved(problem, mode)
    backend = backends(problem, device)[0] if name == "fastssl" else name.partition("fastssl-")[2] or None
    return rounded({
        "op": "pretexts", "case": problem.case, "title": case.title, "provider": name, "backend": backend,
        "device": device.split(":")[0], "n": problem.n, "side": problem.side, "interleaved": problem.interleaved,
        "dtype": problem.dtype, "mode": mode, "whole": mode == modes(problem)[-1],
        **measured.columns(name, mode, times), "peak_mib": peaks.get(mode), "floor_bytes": moved,
        "floor_bytes_ms": moved / copy_per_ms, "time_over_floor": ms[name] * copy_per_ms / moved,
        "copy_gbs": copy_per_ms / 1e6,
    })  # fmt: skip


def describe(rows: Sequence[Row]) -> None:
    """Print some rows as a small table."""
    for row in rows:
        size = f"{row['title']:31}{row['n']:4}{row['side']:5} {row['dtype']:9}{row['mode']:8}"
        peak = "-" if row["peak_mib"] is None else f"{row['peak_mib']:.1f}"
        print(
            f"{size}{row['provider']:14}{row['time_ms']:9.2f} ms{row['time_over_fastssl']:7.2f} x fastssl"
            f"{row['time_over_floor']:7.2f} x floor{peak:>9} MiB", flush=True,
        )  # fmt: skip


def own(problem: Problem, device: str) -> Callable[[], object]:
    """The whole pass by fastssl."""
    inputs, form = make_inputs(problem, device), build(problem, "fastssl")
    return lambda: backward(problem, form(inputs), inputs)
