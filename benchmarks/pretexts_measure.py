"""Measures one case of the classic pretexts with every provider in turns; `bench_pretexts.py` has the sizes.

Beside each time stands its floor: the bytes that a case has to read and write, as `pretexts_forms.py` counts them, over
the rate of a large copy in the same run. What is drawn or computed on the way counts nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import measured
import pretexts_providers
from harness import COPY, Row, rates_per_ms, rounded
from measured import MODES
from pretexts_forms import Problem
from pretexts_providers import CASES, backends

AGREE = {"float32": 1e-3, "bfloat16": 3e-2}  # error of results and gradients, relative to their norm


def modes(problem: Problem) -> tuple[str, ...]:
    """What a problem is measured in."""
    return MODES if CASES[problem.case].leaves else MODES[:1]


def measure(problem: Problem, device: str, state: object = None) -> list[Row]:
    """Measure one problem; return one row a provider and mode."""
    done = measured.in_turns(problem, device, pretexts_providers, AGREE[problem.dtype])
    return [_row(problem, name, mode, device, done) for name in done.names for mode in modes(problem)]


def _row(problem: Problem, name: str, mode: str, device: str, done: measured.Measured) -> Row:
    ms, case = measured.medians(done.times, mode), CASES[problem.case]
    copy_per_ms = rates_per_ms(1.0, ms[COPY], device)[1]
    moved = case.moved(problem, mode)
    backend = backends(problem, device)[0] if name == "fastssl" else name.partition("fastssl-")[2] or None
    return rounded({
        "op": "pretexts", "case": problem.case, "title": case.title, "provider": name, "backend": backend,
        "device": device.split(":")[0], "n": problem.n, "side": problem.side, "interleaved": problem.interleaved,
        "dtype": problem.dtype, "mode": mode, "whole": mode == modes(problem)[-1],
        **measured.columns(name, mode, done.times), "peak_mib": done.peaks[name].get(mode), "floor_bytes": moved,
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
