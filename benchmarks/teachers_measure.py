"""Measures one case of training with a teacher with every provider in turns; `bench_teachers.py` has the sizes.

Beside each time stands its floor: compulsory bytes over the rate of a large copy, or the operations of matrix products
over the rate of the machine's own product, whichever takes longer, with both rates taken in the same run. With S views
of a student and T of a teacher, n numbers in a view:

- DINO, iBOT (S = T = 1): two passes. Forward reads (S + T) n; backward reads (S + T) n again and writes S n. The update
  of the centre, where it is in the time, reads T n more.
- Sinkhorn-Knopp: each iteration reads n. The assignments take one more pass, which reads n and writes as many floats.
- The centre alone: reads n. The average of weights: reads the student's and the teacher's, and writes the teacher's.
- KoLeo: a product of all pairs of rows, each pair once; reads n, backward writes n.

Vectors of the width of a row are left out. Peaks are told twice: whole, and without the gradients of the logits, which
every form returns.
"""

from __future__ import annotations

from collections.abc import Sequence

import measured
import teachers_providers
import torch
from harness import COPY, MATMUL, Row, rates_per_ms, rounded
from measured import MODES
from teachers_forms import GLOBAL_VIEWS, ITERATIONS, weights
from teachers_providers import CASES, Problem, backends

# Error of results and gradients, relative to their norm; lightly loses as much in its sum over all prototypes.
AGREE = {"float32": 1e-3, "bfloat16": 3e-2}


def modes(problem: Problem) -> tuple[str, ...]:
    """What a problem is measured in."""
    return MODES if CASES[problem.case].leaves else MODES[:1]


def operations(problem: Problem) -> float:
    """Of the matrix products that a case needs."""
    return float(problem.rows**2 * problem.width) if problem.case == "koleo" else 0.0


def gradient_bytes(problem: Problem, mode: str) -> int:
    """Of the gradients that a pass returns, whoever computes it."""
    if mode == "fwd":
        return 0
    return problem.views * problem.rows * problem.width * getattr(torch, problem.dtype).itemsize


def returns_assignments(problem: Problem, provider: str) -> bool:
    """Whether a provider of Sinkhorn-Knopp makes Q, and not the centre alone."""
    own = provider.partition("-")[0] == "fastssl"
    return problem.case == "sinkhorn" and (not own or provider == "fastssl-assignments")


def compulsory_bytes(problem: Problem, provider: str, mode: str) -> int:
    """Bytes that have to be read or written, as counted above."""
    numbers = problem.rows * problem.width
    view = numbers * getattr(torch, problem.dtype).itemsize
    if problem.case in ("dino", "dino-loss", "ibot"):
        teachers = 1 if problem.case == "ibot" else GLOBAL_VIEWS
        update = 0 if problem.case == "dino-loss" else teachers * view
        each = (problem.views + teachers) * view
        return each + update + (each if mode == "fwd_bwd" else 0) + gradient_bytes(problem, mode)
    if problem.case == "sinkhorn":
        return ITERATIONS * view + (view + 4 * numbers if returns_assignments(problem, provider) else 0)
    if problem.case == "ema":
        return 3 * 4 * weights(problem)
    return view + gradient_bytes(problem, mode)


def measure(problem: Problem, device: str, state: object = None) -> list[Row]:
    """Measure one problem; return one row a provider and mode."""
    done = measured.in_turns(problem, device, teachers_providers, AGREE[problem.dtype])
    return [_row(problem, name, mode, device, done) for name in done.names for mode in modes(problem)]


def _row(problem: Problem, name: str, mode: str, device: str, done: measured.Measured) -> Row:
    ms = measured.medians(done.times, mode)
    matmul_per_ms, copy_per_ms = rates_per_ms(ms[MATMUL], ms[COPY], device)
    work, moved = operations(problem), compulsory_bytes(problem, name, mode)
    floor_ms = max(work / matmul_per_ms, moved / copy_per_ms)
    gradients_mib, peak = gradient_bytes(problem, mode) / 2**20, done.peaks[name].get(mode)
    derivative = bool(CASES[problem.case].leaves)
    own = backends(problem, device)
    backend = own[0] if own and name in ("fastssl", "fastssl-assignments") else name.partition("fastssl-")[2] or None
    return rounded({
        "op": "teachers", "case": problem.case, "title": CASES[problem.case].title, "provider": name,
        "backend": backend, "device": device.split(":")[0], "m": problem.rows, "n": problem.width,
        "views": problem.views, "dtype": problem.dtype, "mode": mode, **measured.columns(name, mode, done.times),
        "peak_mib": peak, "gradients_mib": gradients_mib if derivative else None,
        "peak_beyond_mib": None if peak is None else max(0.0, peak - gradients_mib),
        "floor_operations": work, "floor_operations_ms": work / matmul_per_ms,
        "floor_bytes": moved, "floor_bytes_ms": moved / copy_per_ms, "time_over_floor": ms[name] / floor_ms,
        "matmul_gflops": matmul_per_ms / 1e6, "copy_gbs": copy_per_ms / 1e6,
    })  # fmt: skip


def describe(rows: Sequence[Row]) -> None:
    """Print some rows as a small table."""
    for row in rows:
        size = f"{row['title']:21}{row['views']:3}{row['m']:6}{row['n']:7} {row['dtype']:9}{row['mode']:8}"
        peak = "-" if row["peak_mib"] is None else f"{row['peak_mib']:.1f} ({row['peak_beyond_mib']:.1f} beyond)"
        print(
            f"{size}{row['provider']:20}{row['time_ms']:9.2f} ms{row['time_over_fastssl']:7.2f} x fastssl"
            f"{row['time_over_floor']:7.2f} x floor{peak:>24} MiB", flush=True,
        )  # fmt: skip
