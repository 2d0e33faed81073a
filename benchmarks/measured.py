"""What measuring a case takes, whatever the op: passes in turns, peaks, agreement, and the columns of a row."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import ModuleType
from typing import Any

import memory
import torch
from harness import Row, quartiles, reference_steps
from torch import Tensor

from fastssl._bench import interleave, time_passes

MODES = ("fwd", "fwd_bwd")
ROUNDS, LEAST_ROUNDS, INPUT_SETS = 30, 3, 2
MEMORY_TIMEOUT_S = 180
Times = Mapping[str, Sequence[tuple[float, float]]]  # milliseconds of forward and of both passes, by name and round


def peaks_mib(module: str, arguments: dict[str, Any], device: str, timeout_s: float) -> dict[str, float]:
    """Peak MiB of `memory.measure_case` by name; empty where this system does not tell."""
    try:
        found = memory.measure_case(module, arguments, device, timeout_s)["peaks"]
    except RuntimeError as error:
        if "does not tell" not in str(error):
            raise
        return {}
    return {name: peak / 2**20 for name, peak in found.items()}


def agree(label: str, found: Mapping[str, Sequence[Tensor]], tolerance: float) -> None:
    """Raise if a provider's results and gradients are not fastssl's: its time would mean nothing."""
    for name, tensors in found.items():
        for a, b in zip(tensors, found["fastssl"], strict=True):
            if not (a - b).norm() <= tolerance * max(b.norm(), 1e-6):
                raise AssertionError(f"{name} computes something else than fastssl: {label}")


def passes(
    form: Callable[[Any], Any], sets: Sequence[Any], backward: Callable[[Any, Any], object], device: str
) -> Callable[[int], tuple[float, float]]:
    """A step for `interleave`: a form on one of the sets of inputs in turn, and `backward` of its result and them."""

    def step(turn: int) -> tuple[float, float]:
        inputs = sets[turn % len(sets)]
        return time_passes(lambda: form(inputs), lambda out: backward(out, inputs), torch.device(device))

    return step


def twice(steps: Mapping[str, Callable[[int], float]]) -> dict[str, Callable[[int], tuple[float, float]]]:
    """Steps that give their one time as that of forward and of both passes, as the references of the machine do."""
    return {name: lambda turn, step=step: (step(turn),) * 2 for name, step in steps.items()}


def references(device: str, dtype: str) -> dict[str, Callable[[int], tuple[float, float]]]:
    """The two steps that measure the machine, for `interleave`."""
    return twice(reference_steps(device, dtype))


def medians(times: Times, mode: str) -> dict[str, float]:
    """Milliseconds by name."""
    which = MODES.index(mode)
    return {name: statistics.median(t[which] for t in taken) for name, taken in times.items()}


def columns(name: str, mode: str, times: Times) -> Row:
    """What a row says of a provider's times."""
    values = [t[MODES.index(mode)] for t in times[name]]
    first, third = quartiles(values)
    ms = medians(times, mode)
    return {
        "time_ms": ms[name], "q1_ms": first, "q3_ms": third, "rounds": len(values),
        "time_over_fastssl": ms[name] / ms["fastssl"],
    }  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """What one problem has shown.

    Attributes:
        names: of the providers that were measured.
        peaks: MiB of each by mode.
        times: of each, and of the two references.
        inputs: one of the sets of inputs.
    """

    names: list[str]
    peaks: dict[str, dict[str, float]]
    times: Times
    inputs: Any


def in_turns(problem: Any, device: str, providers: ModuleType, tolerance: float) -> Measured:
    """Measure a problem with every provider that is there: peaks, whether results agree, then times in turns.

    Args:
        problem: with `case`, `dtype`, `budget_s` and `label`.
        device: where.
        providers: the module that has `CASES`, `available`, `make_inputs`, `build` and `backward`; a case may have
            `compared`, which makes of inputs and result what must agree.
        tolerance: of the error of results and gradients, relative to their norm.
    """
    torch._dynamo.reset()  # forget the sizes that were compiled before
    case, names = providers.CASES[problem.case], providers.available(problem, device)
    compared = getattr(case, "compared", lambda inputs, out: (out,))
    sets = [providers.make_inputs(problem, device, seed) for seed in range(INPUT_SETS)]
    peaks, found = {}, {}
    for name in list(names):
        arguments = {"problem": asdict(problem), "provider": name}
        try:
            peaks[name] = peaks_mib(providers.__name__, arguments, device, MEMORY_TIMEOUT_S)
        except (MemoryError, TimeoutError) as error:
            print(f"{name} left out: {error}", flush=True)
            names.remove(name)
            continue
        out = providers.build(problem, name)(sets[0])
        results = *compared(sets[0], out), *providers.backward(problem, out, sets[0])
        found[name] = [t.detach().float() for t in results]
    agree(problem.label, found, tolerance)
    found.clear()
    back = functools.partial(providers.backward, problem)
    steps = {name: passes(providers.build(problem, name), sets, back, device) for name in names}
    steps |= references(device, problem.dtype)
    times = interleave(steps, ROUNDS, budget_s=problem.budget_s, least=LEAST_ROUNDS)
    return Measured(names, peaks, times, sets[0])


def own_pass(providers: ModuleType, problem: Any, device: str) -> Callable[[], object]:
    """The whole pass by fastssl."""
    inputs, form = providers.make_inputs(problem, device), providers.build(problem, "fastssl")
    return lambda: providers.backward(problem, form(inputs), inputs)
