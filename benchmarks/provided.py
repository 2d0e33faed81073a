"""Which providers of a loss or an op can run here, and how a backend of fastssl is one of them."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from fastssl import _backend, use_backend


def backends(op: str, like: torch.Tensor) -> list[str]:
    """Backends of fastssl that run an op on tensors like this one; `auto` takes the first."""
    importlib.import_module("fastssl.functional")
    # Triton's interpreter checks kernels on a CPU; its time says nothing.
    names = [b for b in _backend.BACKENDS if not (b == "triton" and like.device.type == "cpu")]
    return [b for b in names if _backend.why_not(op, b, like) is None]


def available(
    forms: Iterable[str], packages: Mapping[str, str], found: list[str], wanted: tuple[str, ...] | None
) -> list[str]:
    """Names of providers whose packages are here; the backend that `auto` takes is left to "fastssl"."""
    names = [name for name in forms if importlib.util.find_spec(packages.get(name, "torch"))]
    return [n for n in names + [f"fastssl-{b}" for b in found[1:]] if wanted is None or n in wanted]


def on_backend(form: Callable[..., Any], provider: str) -> Callable[..., Any]:
    """A form of fastssl's on the backend that "fastssl-torch", say, names."""
    backend = provider.removeprefix("fastssl-")

    def forced(*inputs: Any) -> Any:
        with use_backend(backend):
            return form(*inputs)

    return forced
