"""The implementations of NT-Xent that are compared, each as `loss(z0, z1)` at one temperature.

All compute the same number on the same inputs; `bench_ntxent.py` checks that before it times anything.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import provided
import torch

TEMPERATURE = 0.5
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Provider:
    """One implementation, and how its cost grows with the rows, from which the next size's cost is foreseen."""

    name: str
    build: Callable[[], Loss]
    package: str | None = None  # what has to be installed
    backend: str | None = None  # a forced backend of fastssl
    memory_exponent: int = 2
    time_exponent: int = 2
    preload: tuple[str, ...] = ()  # modules that its first call imports


def _fastssl(backend: str = "auto") -> Loss:
    import fastssl
    from fastssl import functional

    if backend == "auto":
        return lambda z0, z1: functional.ntxent(z0, z1, TEMPERATURE)

    def forced(z0: torch.Tensor, z1: torch.Tensor) -> torch.Tensor:
        with fastssl.use_backend(backend):
            return functional.ntxent(z0, z1, TEMPERATURE)

    return forced


def _eager() -> Loss:
    from fastssl import reference

    return lambda z0, z1: reference.ntxent(z0, z1, TEMPERATURE)


def _compiled() -> Loss:
    # Static shapes, which is the best case of the compiler.
    return torch.compile(_eager(), dynamic=False)


def _lightly() -> Loss:
    return importlib.import_module("lightly.loss").NTXentLoss(temperature=TEMPERATURE)


def _pml() -> Loss:
    losses = importlib.import_module("pytorch_metric_learning.losses")
    return losses.SelfSupervisedLoss(losses.NTXentLoss(temperature=TEMPERATURE))


def _forced(backend: str) -> Provider:
    return Provider(f"fastssl-{backend}", lambda: _fastssl(backend), backend=backend, memory_exponent=1)


_COMPILER = ("torch._dynamo", "torch._inductor.compile_fx")
PROVIDERS = {
    p.name: p
    for p in (
        Provider("fastssl", _fastssl, memory_exponent=1),
        *(_forced(backend) for backend in ("cuda", "triton", "cpp", "torch")),
        Provider("eager", _eager),
        Provider("compile", _compiled, preload=_COMPILER),
        Provider("lightly", _lightly, package="lightly"),
        Provider("pml", _pml, package="pytorch_metric_learning", memory_exponent=3, time_exponent=3),
    )
}


def backends(device: str, dtype: torch.dtype, d: int) -> list[str]:
    """Backends of fastssl that run embeddings of that kind here; `auto` takes the first."""
    return provided.backends("ntxent", torch.empty(1, d, dtype=dtype, device=device))


@functools.cache
def available(device: str, dtype: torch.dtype = torch.float32, d: int = 128) -> tuple[str, ...]:
    """Names of the providers that can run here; the backend that `auto` takes is left to "fastssl"."""
    forced = backends(device, dtype, d)[1:]
    return tuple(
        p.name
        for p in PROVIDERS.values()
        if (p.package is None or importlib.util.find_spec(p.package) is not None)
        and (p.backend is None or p.backend in forced)
    )
