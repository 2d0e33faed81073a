"""Measures one size of NT-Xent with every provider in turns, and returns rows; `bench_ntxent.py` has the sizes.

Two floors stand beside each time: the operations of the problem over the rate of the machine's matrix product, and
its compulsory bytes over the rate of a large copy. Both rates are measured in the same run, in turns with the rest.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import measured
import memory
import torch
from environment import available_bytes
from harness import COPY, MATMUL, quartiles, rates_per_ms, rounded
from measured import MODES, Times
from providers import PROVIDERS, backends

from fastssl._bench import interleave, time_loss

ROUNDS, LEAST_ROUNDS, INPUT_SETS = 40, 3, 3
MEMORY_SHARE = 0.8  # of what is free: a provider that is foreseen to need more is not run
MEMORY_TIMEOUT_S = 120
OUT_OF_MEMORY = "out of memory budget"
OUT_OF_TIME = "out of time budget"


@dataclass(frozen=True)
class Problem:
    """One size, with the seconds that its timing may take and the providers to compare."""

    m: int
    d: int = 128
    dtype: str = "float32"
    providers: tuple[str, ...] | None = None  # None: all there are
    budget_s: float = 10

    @property
    def label(self) -> str:
        """For test names: rows, width and dtype."""
        return f"m{self.m}-d{self.d}-{self.dtype}"


@dataclass
class Foresight:
    """The last peak and time of each provider, from which those of a larger problem are foreseen."""

    seen: dict[tuple[str, str], tuple[int, int, float]] = field(default_factory=dict)

    def note(self, provider: str, what: str, problem: Problem, value: float) -> None:
        """Remember a peak in bytes or a time in seconds, if it is of the largest problem so far."""
        if (provider, what) not in self.seen or self.seen[provider, what][0] <= problem.m:
            self.seen[provider, what] = (problem.m, problem.d, value)

    def foresee(self, provider: str, what: str, problem: Problem) -> float | None:
        """The same for another problem; None before the first measurement."""
        if (provider, what) not in self.seen:
            return None
        m, d, value = self.seen[provider, what]
        p = PROVIDERS[provider]
        exponent = p.memory_exponent if what == "peak_bytes" else p.time_exponent
        return value * (problem.m / m) ** exponent * max(1.0, problem.d / d)


def operations(m: int, d: int, mode: str, device: str) -> float:
    """Floating-point operations that the problem needs; products are symmetric, so half of them are saved.

    Forward m^2 d. Backward another m^2 d for the scores and 2 m^2 d for the gradient on a CPU; on a GPU rows own
    their gradients and the scores are not shared, 4 m^2 d.
    """
    backward = 4 if device.startswith("cuda") else 3
    return float(m) ** 2 * d * (1 if mode == "fwd" else 1 + backward)


def compulsory_bytes(m: int, d: int, mode: str, element_bytes: int) -> int:
    """Bytes that must move: the embeddings read once, and the gradients written once."""
    return m * d * element_bytes * (1 if mode == "fwd" else 2) + 4


def _peaks(problem: Problem, provider: str, device: str, foresight: Foresight) -> dict[str, Any]:
    """Peak MiB by mode and the loss, or the reason why there is none."""
    foreseen = foresight.foresee(provider, "peak_bytes", problem)
    free = available_bytes(device)
    if foreseen is not None and free is not None and foreseen > MEMORY_SHARE * free:
        needs = "over 1 TiB" if foreseen > 2**40 else f"about {foreseen / 2**30:.0f} GiB"
        return {"note": f"{OUT_OF_MEMORY}: needs {needs}"}
    answers = {}
    try:
        for mode in MODES[::-1]:
            if mode == "fwd" and answers["fwd_bwd"].get("seconds", 0) > 2:
                break  # its peak adds nothing to that of the whole step, which has cost enough time
            answers[mode] = memory.measure(
                provider, problem.m, problem.d, problem.dtype, mode, device, MEMORY_TIMEOUT_S
            )
    except MemoryError:
        return {"note": f"{OUT_OF_MEMORY}: the call failed"}
    except TimeoutError:
        return {"note": f"{OUT_OF_TIME}: over {MEMORY_TIMEOUT_S} s a step"}
    except Exception as error:
        if "does not tell" in str(error):  # not on this system: its time is measured all the same
            return {}
        if provider == "fastssl":
            raise
        print(f"{provider} fails at m = {problem.m}: {error}", flush=True)
        return {"note": f"failed: {type(error).__name__}"}
    foresight.note(provider, "peak_bytes", problem, answers["fwd_bwd"]["peak_bytes"])
    if (
        foresight.foresee(provider, "step_s", problem) is None
    ):  # a first call, in fresh pages: slower than those to come
        foresight.note(provider, "step_s", problem, answers["fwd_bwd"]["seconds"])
    return {
        "peak_mib": {mode: answer["peak_bytes"] / 2**20 for mode, answer in answers.items()},
        "loss": answers["fwd_bwd"]["loss"],
    }


def _agree(losses: dict[str, float], dtype: str) -> None:
    """Raise if a provider computes something else: its time would mean nothing."""
    tolerance = 1e-4 if dtype == "float32" else 2e-2
    for name, loss in losses.items():
        if not abs(loss - losses["fastssl"]) <= tolerance * max(1.0, abs(losses["fastssl"])):
            raise AssertionError(f"{name} computes {loss}, fastssl {losses['fastssl']}: not the same loss")


def measure(problem: Problem, names: Sequence[str], device: str, foresight: Foresight) -> list[dict[str, Any]]:
    """Measure one problem with the named providers ("fastssl" among them); return one row a provider and mode."""
    torch._dynamo.reset()  # forget the sizes that were compiled before
    peaks = {name: _peaks(problem, name, device, foresight) for name in names}
    _agree({name: p["loss"] for name, p in peaks.items() if "loss" in p}, problem.dtype)
    timed = []
    for name in names:
        foreseen_s = foresight.foresee(name, "step_s", problem)
        if "note" in peaks[name]:
            continue
        if foreseen_s is not None and LEAST_ROUNDS * foreseen_s > problem.budget_s and name != "fastssl":
            peaks[name]["note"] = f"{OUT_OF_TIME}: about {foreseen_s:.1f} s a step"
            continue
        timed.append(name)
    times = _time(problem, timed, device)
    for name in timed:
        foresight.note(name, "step_s", problem, statistics.median(t[1] for t in times[name]) / 1e3)
    return [
        _row(problem, name, mode, device, peaks[name], times)
        for name in names
        for mode in MODES
        if mode in peaks[name].get("peak_mib", MODES) or name in timed
    ]


def _time(problem: Problem, names: Sequence[str], device: str) -> Times:
    """Time the named providers and the machine's references in turns; a reference gives its time twice."""
    sets = [memory.inputs(problem.m, problem.d, problem.dtype, device, seed) for seed in range(INPUT_SETS)]
    losses = {name: PROVIDERS[name].build() for name in names}
    steps: dict[str, Callable[[int], tuple[float, float]]] = {
        name: lambda turn, loss=loss: time_loss(loss, *sets[turn % INPUT_SETS]) for name, loss in losses.items()
    }
    steps |= measured.references(device, problem.dtype)
    return interleave(steps, ROUNDS, budget_s=problem.budget_s, least=LEAST_ROUNDS)


def _row(problem: Problem, name: str, mode: str, device: str, peaks: dict[str, Any], times: Times) -> dict[str, Any]:
    which = MODES.index(mode)
    median_ms = measured.medians(times, mode)
    matmul_per_ms, copy_per_ms = rates_per_ms(median_ms[MATMUL], median_ms[COPY], device)
    work = operations(problem.m, problem.d, mode, device)
    moved = compulsory_bytes(problem.m, problem.d, mode, getattr(torch, problem.dtype).itemsize)
    backend = PROVIDERS[name].backend
    if name == "fastssl":
        backend = backends(device, getattr(torch, problem.dtype), problem.d)[0]
    row = {
        "op": "ntxent", "provider": name, "backend": backend, "device": device.split(":")[0], "dtype": problem.dtype,
        "m": problem.m, "d": problem.d, "mode": mode,
        "time_ms": None, "q1_ms": None, "q3_ms": None, "rounds": 0,
        "peak_mib": peaks.get("peak_mib", {}).get(mode),
        "floor_operations": work, "floor_bytes": moved,
        "floor_operations_ms": work / matmul_per_ms, "floor_bytes_ms": moved / copy_per_ms,
        "matmul_gflops": matmul_per_ms / 1e6, "copy_gbs": copy_per_ms / 1e6,
        "fraction_of_matmul": None, "time_over_fastssl": None, "note": peaks.get("note"),
    }  # fmt: skip
    if name in times:
        values = [t[which] for t in times[name]]
        row["time_ms"], row["rounds"] = median_ms[name], len(values)
        row["q1_ms"], row["q3_ms"] = quartiles(values)
        row["fraction_of_matmul"] = row["floor_operations_ms"] / row["time_ms"]
        row["time_over_fastssl"] = row["time_ms"] / median_ms["fastssl"]
    return rounded(row)


def describe(rows: Sequence[dict[str, Any]]) -> None:
    """Print the whole steps of some rows as a small table."""
    for row in rows:
        if row["mode"] != "fwd_bwd":
            continue
        peak = "-" if row["peak_mib"] is None else f"{row['peak_mib']:.1f}"
        size = f"{row['m']:6} {row['d']:4} {row['dtype']:9} {row['provider']:14}"
        if row["time_ms"] is None:
            print(f"{size} {'-':>10} ms {peak:>9} MiB  {row['note']}", flush=True)
        else:
            told = f"{100 * row['fraction_of_matmul']:5.1f} % of matmul  {row['time_over_fastssl']:6.2f} x fastssl"
            print(f"{size} {row['time_ms']:10.3f} ms {peak:>9} MiB  {told}", flush=True)
