"""Peak memory that a call adds to its inputs, in bytes that the machine had to provide.

    python benchmarks/memory.py eager 8192        # provider, rows m = 2N; prints MiB

On a CPU this is the growth of the highest resident memory (VmHWM) during one call in a process of its own. That
counts what no hook of an allocator sees as well, such as workspaces of C++ code and of BLAS. It is exact, up to a
quarter of a MiB by which the kernel may round its counters on two cores, because

- VmHWM is the kernel's own mark of the highest value, not a sample, and is set back just before the call;
- the C library maps every block of 64 KiB or more afresh and gives it back when it is freed, as fastssl's kernels do
  their large results, so that memory kept from an earlier call can hide nothing, and no block is rounded up to a huge
  page;
- a call before it has loaded code, started threads and filled caches that stay.

Processes are forked from one server that has imported what is needed and has run nothing: a measurement starts in
milliseconds, and what one call leaves behind cannot reach the next. On CUDA the allocator of PyTorch counts exactly.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import gc
import importlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from environment import available_bytes
from providers import PROVIDERS, Loss

WARM_ROWS = 2048  # beyond this size the code that runs does not change, and a warm-up would only cost time
_MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "0",
    "MALLOC_TOP_PAD_": "0",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "1000000",
    "FASTSSL_CPU_CACHE_MIB": "0",
}
_PR_SET_THP_DISABLE = 41
_ERRORS = {"memory": MemoryError, "time": TimeoutError, "other": RuntimeError}


def peak_extra_bytes(
    provider: str, m: int, d: int = 128, dtype: torch.dtype | str = torch.float32, mode: str = "fwd_bwd",
    device: str = "cpu", timeout_s: float = 600,
) -> int:  # fmt: skip
    """Peak bytes that one call adds to its inputs: outputs, gradients, what is saved and every workspace.

    Args:
        provider: a name in `providers.PROVIDERS`.
        m: rows, 2N; even.
        d: width.
        dtype: of the embeddings.
        mode: "fwd" (with what its backward needs) or "fwd_bwd".
        device: "cpu" (Linux only) or "cuda".
        timeout_s: on a CPU, seconds before the call is given up.

    Raises:
        MemoryError: the call ran out of memory, or the system ended it for that.
        TimeoutError: on a CPU, it took longer than `timeout_s`.
        RuntimeError: the call failed, or this system does not tell a process's peak memory.
    """
    return measure(provider, m, d, dtype, mode, device, timeout_s)["peak_bytes"]


def measure(
    provider: str, m: int, d: int = 128, dtype: torch.dtype | str = torch.float32, mode: str = "fwd_bwd",
    device: str = "cpu", timeout_s: float = 600,
) -> dict[str, Any]:  # fmt: skip
    """As `peak_extra_bytes`; returns also the `loss` and the `seconds` of that one call."""
    name = str(dtype).removeprefix("torch.")
    if device.startswith("cuda"):
        return _on_cuda(provider, m, d, name, mode, device)
    request = {"provider": provider, "m": m, "d": d, "dtype": name, "mode": mode}
    answer = _server().ask(request, timeout_s)
    if "error" in answer:
        raise _ERRORS[answer["kind"]](f"{provider}, m = {m}, d = {d}: {answer['error']}")
    return answer


def measure_case(
    module: str, arguments: dict[str, Any], device: str = "cpu", timeout_s: float = 600
) -> dict[str, Any]:  # fmt: skip
    """The `peaks` in bytes, by name, of calls that a module of this folder makes, and the largest as `peak_bytes`.

    Args:
        module: its name. `preload(**arguments)` of it imports what the calls need, and runs nothing;
            `memory_case(**arguments, device=device)` makes inputs, and returns a call to run before the others, and the
            calls to measure, by name.
        arguments: what JSON can hold.
        device: "cpu" (Linux only) or "cuda".
        timeout_s: on a CPU, seconds before the calls are given up.

    Raises:
        MemoryError, TimeoutError, RuntimeError: as `peak_extra_bytes`.
    """
    if device.startswith("cuda"):
        warm_up, calls = importlib.import_module(module).memory_case(**arguments, device=device)
        return _largest({name: _peak_on_cuda(call, warm_up)[0]["peak_bytes"] for name, call in calls.items()})
    answer = _server().ask({"module": module, "arguments": arguments}, timeout_s)
    if "error" in answer:
        raise _ERRORS[answer["kind"]](f"{module} {arguments}: {answer['error']}")
    return answer


def inputs(m: int, d: int, dtype: str, device: str, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Random embeddings that require gradients: two of [m / 2, d]."""
    generator = torch.Generator().manual_seed(seed)
    z = [torch.randn(m // 2, d, generator=generator) for _ in range(2)]
    z0, z1 = (x.to(device, getattr(torch, dtype)).requires_grad_() for x in z)
    return z0, z1


def _call(loss: Loss, z: tuple[torch.Tensor, torch.Tensor], mode: str) -> torch.Tensor:
    value = loss(*z)
    if mode == "fwd":
        return value  # with its graph, as a training step holds it
    gradients = torch.autograd.grad(value, z)
    del gradients
    return value.detach()


def _on_cuda(provider: str, m: int, d: int, dtype: str, mode: str, device: str) -> dict[str, Any]:
    z = inputs(m, d, dtype, device)
    loss = PROVIDERS[provider].build()
    answer, value = _peak_on_cuda(*[lambda: _call(loss, z, mode)] * 2)
    return answer | {"loss": value.item()}


def _peak_on_cuda(call: Callable[[], Any], warm_up: Callable[[], Any]) -> tuple[dict[str, Any], Any]:
    try:
        warm_up()
        torch.cuda.synchronize()
        gc.collect()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        start = time.perf_counter()
        result = call()
        torch.cuda.synchronize()
    except torch.cuda.OutOfMemoryError as error:
        raise MemoryError(str(error)) from None
    seconds = time.perf_counter() - start
    return {"peak_bytes": torch.cuda.max_memory_allocated() - before, "seconds": seconds}, result


def resident_bytes(mark: str) -> int:
    """VmRSS (now), VmHWM (highest) or VmSize (with what was never touched) of this process."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(mark))


def peak_of(call: Callable[[], Any]) -> tuple[int, Any]:
    """Growth of the highest resident memory during the call, and its result; for a process set up as `_serve`'s."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/clear_refs", "w") as marks:
        marks.write("5")  # VmHWM starts again from the present
    before = resident_bytes("VmRSS")
    result = call()
    return max(0, resident_bytes("VmHWM") - before), result


def _limit_memory() -> None:
    """Beyond what is free, a call shall fail by itself rather than have the system end some process."""
    limit = int(resident_bytes("VmSize") + 0.95 * (available_bytes("cpu") or 2**50))
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _largest(peaks: dict[str, int]) -> dict[str, Any]:
    return {"peaks": peaks, "peak_bytes": max(peaks.values())}


def _case_in_child(module: str, arguments: dict[str, Any]) -> dict[str, Any]:
    _limit_memory()
    warm_up, calls = importlib.import_module(module).memory_case(**arguments, device="cpu")
    warm_up()
    return _largest({name: peak_of(call)[0] for name, call in calls.items()})


def _in_child(request: dict[str, Any]) -> dict[str, Any]:
    if "module" in request:
        return _case_in_child(**request)
    m, d, dtype, mode = (request[key] for key in ("m", "d", "dtype", "mode"))
    provider = request["provider"]
    if provider == "allocation":  # the helper's own check: m * d bytes, written to
        peak_of(lambda: torch.ones(1 << 20, dtype=torch.uint8))  # starts the threads as well
        peak, _ = peak_of(lambda: torch.ones(m * d, dtype=torch.uint8))
        return {"peak_bytes": peak, "loss": 0.0, "seconds": 0.0}
    _limit_memory()
    loss = PROVIDERS[provider].build()
    # A compiled loss is compiled for one size: its warm-up must be of that size.
    warm_rows = m if provider == "compile" else min(m, WARM_ROWS)
    _call(loss, inputs(warm_rows, d, dtype, "cpu"), mode)
    z = inputs(m, d, dtype, "cpu")
    start = time.perf_counter()
    peak, value = peak_of(lambda: _call(loss, z, mode))
    return {"peak_bytes": peak, "loss": value.item(), "seconds": time.perf_counter() - start}


def _fork_and_measure(request: dict[str, Any]) -> dict[str, Any]:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            try:
                answer = _in_child(request)
            except Exception as error:
                exhausted = isinstance(error, MemoryError) or "allocate memory" in str(error)
                answer = {
                    "error": f"{type(error).__name__}: {str(error)[:500]}",
                    "kind": "memory" if exhausted else "other",
                }
            with os.fdopen(write, "w") as pipe:
                json.dump(answer, pipe)
            code = 0
        finally:
            os._exit(code)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    if text:
        return json.loads(text)
    return {"error": f"the process ended with status {status}", "kind": "memory" if os.WIFSIGNALED(status) else "other"}


def _serve() -> None:
    """Answer requests, one JSON line each. This process imports, and runs no operation: its forks start clean."""
    ctypes.CDLL(None).prctl(_PR_SET_THP_DISABLE, 1, 0, 0, 0)
    importlib.import_module("fastssl.functional")
    # Whatever a library prints must not mix with the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        with contextlib.suppress(ImportError):  # the fork reports it
            if "module" in request:
                importlib.import_module(request["module"]).preload(**request["arguments"])
            elif (provider := PROVIDERS.get(request["provider"])) is not None:
                for module in provider.preload:
                    importlib.import_module(module)
                provider.build()
        print(json.dumps(_fork_and_measure(request)), file=answers, flush=True)


class _Server:
    """The client's side: one server process, ended with this one."""

    def __init__(self) -> None:
        env = os.environ | _MALLOC | {"OMP_NUM_THREADS": str(torch.get_num_threads()), "CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, __file__, "--serve"]
        # A process group of its own, so that a fork that hangs is ended with its server.
        self.process = subprocess.Popen(
            command, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        atexit.register(self.close)

    def ask(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        if not select.select([self.process.stdout], [], [], timeout_s)[0]:
            self.close()
            return {"error": f"no answer within {timeout_s:.0f} s", "kind": "time"}
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"error": "the measuring process ended", "kind": "other"}

    def close(self) -> None:
        _server.cache_clear()
        atexit.unregister(self.close)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@functools.cache
def _server() -> _Server:
    if not os.path.exists("/proc/self/clear_refs"):
        raise RuntimeError("this system does not tell a process's peak memory (/proc/self/clear_refs is missing)")
    return _Server()


def main(arguments: list[str]) -> None:
    """Print the peak of one call, or serve."""
    if arguments == ["--serve"]:
        _serve()
        return
    provider, m, *rest = arguments
    d = int(rest[0]) if rest else 128
    print(f"{peak_extra_bytes(provider, int(m), d) / 2**20:.1f} MiB")


if __name__ == "__main__":
    main(sys.argv[1:])
