"""Which implementation runs for a call, and why not another.

An op registers one `Kernel` per backend. A call asks `select`, which takes the forced backend
(`use_backend`, or the environment variable FASTSSL_BACKEND, read at import) or else the first of `BACKENDS`
that can run the call's device, dtype and width.
"""

from __future__ import annotations

import functools
import importlib
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch

BACKENDS = ("cuda", "triton", "cpp", "torch")  # in the order `auto` tries them: fastest first
# What holds the functions of an op.
_HOLDERS = {
    "cuda": "torch.ops.fastssl_cuda", "triton": "fastssl.kernels.triton.{op}", "cpp": "torch.ops.fastssl_cpp",
    "torch": "fastssl.kernels.torch.{op}",
}  # fmt: skip
FLOATS = (torch.float32, torch.float16, torch.bfloat16)  # which the ops on floats take on every backend
_DEVICES: dict[str, tuple[str, ...] | None] = {"cuda": ("cuda",), "triton": ("cuda",), "cpp": ("cpu",), "torch": None}


@dataclass(frozen=True)
class Kernel:
    """What one backend's kernels of an op accept."""

    dtypes: tuple[torch.dtype, ...]
    max_width: int | None = None


_kernels: dict[str, dict[str, Kernel]] = {}
_requested = os.environ.get("FASTSSL_BACKEND") or "auto"


def register(op: str, **kernels: Kernel) -> None:
    """Declare the kernels of `op`, one keyword a backend."""
    _kernels[op] = kernels


def requested() -> str:
    """Return the backend in force: a name from `BACKENDS`, or "auto"."""
    return _requested


def _check_name(name: str, source: str) -> None:
    if name != "auto" and name not in BACKENDS:
        raise ValueError(f"{source}: got {name!r}, want one of 'auto', {', '.join(map(repr, BACKENDS))}")


class use_backend:
    """Force every fastssl op onto one backend: at once, and until the end of the block in a `with` statement.

    Args:
        name: "cuda" (CUDA C++), "triton", "cpp" (CPU C++), "torch" (streaming torch ops, any device), or
            "auto", the fastest that can run the call.

    Raises:
        ValueError: `name` is none of these.

    A forced backend that cannot run a call raises RuntimeError with its reason at that call; only "auto"
    falls back. The choice holds for the whole process, all threads included. A backward pass runs on the
    backend of its forward pass.

    >>> with fastssl.use_backend("torch"):
    ...     loss = fastssl.functional.ntxent(z0, z1)
    """

    def __init__(self, name: str) -> None:
        global _requested
        _check_name(name, "use_backend: name")
        self._previous = _requested
        _requested = self._name = name

    def __enter__(self) -> use_backend:
        global _requested
        _requested = self._name
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _requested
        _requested = self._previous


def interpreting() -> bool:
    """Tell whether Triton kernels run under its interpreter, where they take CPU tensors."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


@functools.cache
def unavailable(backend: str) -> str | None:
    """Return why `backend` cannot run on this machine at all, or None."""
    if backend == "cpp":
        return _extension("fastssl._C", "C++")
    if backend == "triton":
        try:
            importlib.import_module("triton")
        except ImportError as error:
            return f"triton does not import ({error})"
        return None if torch.cuda.is_available() or interpreting() else "no CUDA device is available"
    if backend == "cuda":
        reason = _extension("fastssl._CUDA", "CUDA")
        if reason is not None or not torch.cuda.is_available():
            return reason or "no CUDA device is available"
        refusal = torch.ops.fastssl_cuda.refuses()
        if refusal:
            device = "{}.{}".format(*torch.cuda.get_device_capability())
            return f"the CUDA extension was not built for a device of compute capability {device} ({refusal})"
    return None


def _extension(module: str, language: str) -> str | None:
    """Import a compiled extension; return why that fails, or None."""
    try:
        importlib.import_module(module)
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == module
        built = "was not built" if missing else f"does not load ({error})"
        return f"the {language} extension {built}; pip install --no-build-isolation . builds it"
    return None


def _cannot_take(kernel: Kernel, backend: str, x: torch.Tensor) -> str | None:
    """Return why `kernel` cannot take a tensor like `x`, or None."""
    devices = _DEVICES[backend]
    if backend == "triton" and interpreting():
        devices = ("cuda", "cpu")
    if devices is not None and x.device.type not in devices:
        return f"it runs on {' or '.join(devices)} tensors, got one on {x.device}"
    if x.dtype not in kernel.dtypes:
        names = ", ".join(str(d).removeprefix("torch.") for d in kernel.dtypes)
        return f"it takes {names}, got {str(x.dtype).removeprefix('torch.')}"
    if kernel.max_width is not None and x.shape[-1] > kernel.max_width:
        return f"it takes widths up to {kernel.max_width}, got {x.shape[-1]}"
    return None


def why_not(op: str, backend: str, x: torch.Tensor) -> str | None:
    """Return why `backend` cannot run `op` on a tensor like `x`, or None."""
    kernel = _kernels[op].get(backend)
    if kernel is None:
        return f"{op} has no {backend} kernel"
    return _cannot_take(kernel, backend, x) or unavailable(backend)


def select(op: str, x: torch.Tensor, name: str) -> Any:
    """Return the kernels of `op` for a tensor like `x` under the backend `name`.

    Raises:
        ValueError: `name` is not a backend.
        RuntimeError: `name` is a forced backend that cannot run this call.
    """
    if name == "auto":
        # The interpreter is for checking kernels: it never wins on its own.
        names = [b for b in BACKENDS if not (b == "triton" and x.device.type == "cpu")]
        name = next(b for b in names if why_not(op, b, x) is None)
    else:
        _check_name(name, "FASTSSL_BACKEND")
        reason = why_not(op, name, x)
        if reason is not None:
            raise RuntimeError(f"backend {name!r} cannot run {op}: {reason}")
    return _load(op, name)


@functools.cache
def _load(op: str, backend: str) -> Any:
    """Import the kernels of an op, or return a namespace of `torch.ops` for the compiled ones."""
    module = _HOLDERS[backend].format(op=op)
    if module.startswith("torch.ops."):
        return getattr(torch.ops, module.removeprefix("torch.ops."))
    return importlib.import_module(module)


def report() -> Iterator[tuple[str, str, bool, str]]:
    """Yield (op, backend, on, why) for every op and backend on this machine."""
    importlib.import_module("fastssl.functional")
    capability = torch.backends.cpu.get_cpu_capability()
    on = {
        "triton": "under the interpreter, when forced" if interpreting() else "CUDA tensors",
        "cuda": "CUDA tensors",
        "cpp": f"CPU tensors, {platform.machine()} {capability}",
        "torch": "any device",
    }
    for op, kernels in _kernels.items():
        for backend in BACKENDS:
            kernel = kernels.get(backend)
            reason = f"{op} has no {backend} kernel" if kernel is None else unavailable(backend)
            yield op, backend, reason is None, reason or on[backend]
