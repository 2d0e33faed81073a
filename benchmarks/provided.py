"""Which providers of a loss or an op can run here, how a backend of fastssl is one of them, what memory is measured.

A provider is a name and a form: a function of the inputs of a case.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import torch

from fastssl import _backend, use_backend

_P = TypeVar("_P")
Calls = dict[str, Callable[[], object]]
_COMPILER = ("torch._dynamo", "torch._inductor.compile_fx")


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


def build(forms: Mapping[str, Callable[[_P], Callable[..., Any]]], problem: _P, provider: str) -> Callable[..., Any]:
    """A provider's form of a problem; "fastssl-torch" is fastssl on that backend."""
    if provider in forms:
        return forms[provider](problem)
    return on_backend(forms["fastssl"](problem), provider)


def preload(provider: str, packages: Mapping[str, str], modules: Iterable[str] = ()) -> None:
    """Import what a provider's calls need: its package, and those of the modules that belong to it."""
    package = packages.get(provider, "torch")
    own = [package, *(m for m in modules if m.partition(".")[0] == package)]
    for module in _COMPILER if provider == "compile" else own:
        importlib.import_module(module)


def memory_calls(
    forward: Callable[[], Any], backward: Callable[[Any], object] | None, mode: str | None
) -> tuple[Callable[[], object], Calls]:
    """What a case has measured: a whole pass to go before; by mode, or for one, the calls themselves.

    They are a forward pass with its graph and, where there is a derivative, that and its gradients.
    """
    calls: Calls = {"fwd": forward}
    if backward is not None:
        calls["fwd_bwd"] = lambda: backward(forward())
    return calls.get("fwd_bwd", forward), calls if mode is None else {mode: calls[mode]}
