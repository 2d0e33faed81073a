"""What the probes of all ops use on a CUDA device: errors, times, and the kernels that a call launches."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch

from fastssl._bench import time_call

DEVICE = torch.device("cuda")
DTYPES = ("float32", "bfloat16", "float16")
# Below these, an error relative to the norm is rounding of the result itself.
FLOORS = {"float32": 1e-5, "bfloat16": 4e-3, "float16": 5e-4}


def error(got: list[torch.Tensor], want: list[torch.Tensor]) -> float:
    """The largest relative error of loss and gradients; NaN stays NaN."""
    errors = [((g.double() - w).norm() / w.norm().clamp_min(1e-30)).item() for g, w in zip(got, want, strict=True)]
    return max(errors) if all(e == e for e in errors) else float("nan")


def median_ms(call: Callable[[], object], rounds: int = 10) -> float:
    """Median milliseconds of a call after three others."""
    for _ in range(3):
        call()
    return statistics.median(time_call(call, DEVICE) for _ in range(rounds))


def kernels(call: Callable[[], Any]) -> tuple[list[str], Any]:
    """Names of the kernels that a call launches, copies and fills left out; and its result."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        result = call()
        torch.cuda.synchronize()
    events = [e for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    return [e.name for e in events if not e.name.startswith(("Memcpy", "Memset"))], result
