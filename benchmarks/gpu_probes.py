"""What `gpu_check.py` asks of NT-Xent, and of the ops of `masking_probes.py`, on a CUDA device; a process of its own.

    python benchmarks/gpu_probes.py OUT.json

Each probe returns a dictionary with "ok"; OUT.json is written anew after each, so that a crash loses nothing.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import masking_probes
import torch
from memory import inputs
from probe_tools import DEVICE, DTYPES, FLOORS, error, kernels, median_ms

from fastssl import _backend, functional, reference, use_backend
from fastssl._bench import time_call

MOST_LAUNCHES = {"forward": 3, "backward": 2}


def backends(dtype: str = "float32") -> list[str]:
    """Backends that run CUDA tensors of that dtype here."""
    like = torch.empty(1, 1, dtype=getattr(torch, dtype), device=DEVICE)
    return [b for b in _backend.BACKENDS if _backend.why_not("ntxent", b, like) is None]


def _step(form: Callable[..., torch.Tensor], z: Any, tau: Any) -> list[torch.Tensor]:
    loss = form(*z, tau)
    return [loss.detach(), *torch.autograd.grad(loss, z)]


def ceilings() -> dict[str, Any]:
    """Rates of a large copy, bytes read plus written, and of matrix products, on random data."""
    source = torch.randn(2**29, device=DEVICE)
    target = torch.empty_like(source)
    rates: dict[str, Any] = {"copy_gbs": 2 * 4 * 2**29 / median_ms(lambda: target.copy_(source)) / 1e6}
    for dtype in ("bfloat16", "float32"):
        a, b = (torch.randn(8192, 8192, device=DEVICE).to(getattr(torch, dtype)) for _ in range(2))
        rates[f"matmul_{dtype}_tflops"] = 2 * 8192**3 / median_ms(lambda a=a, b=b: a @ b) / 1e9
    return {"ok": True, **rates}


def accuracy() -> dict[str, Any]:
    """Every backend and dtype against float64: within twice the eager form's error, or the dtype's rounding."""
    cases, worst, bad = 0, 0.0, []
    # A single pair has loss 0 and no relative error: the tests have that one.
    for n, d in ((7, 3), (64, 128), (129, 257), (500, 64), (1000, 128), (300, 512)):
        for dtype in DTYPES:
            z = inputs(2 * n, d, dtype, DEVICE.type, seed=n)
            exact = [x.detach().double().requires_grad_() for x in z]
            for tau in (0.5, 0.07, 0.01):
                want = _step(reference.ntxent, exact, tau)
                allowed = 2 * error(_step(reference.ntxent, z, tau), want) + FLOORS[dtype]
                for backend in backends(dtype):
                    with use_backend(backend):
                        found = error(_step(functional.ntxent, z, tau), want)
                    cases += 1
                    worst = max(worst, found / allowed)
                    if not found <= allowed:
                        bad.append(f"{backend} {dtype} N={n} d={d} tau={tau}: {found:.2e}, allowed {allowed:.2e}")
    return {"ok": not bad, "cases": cases, "worst_over_allowed": worst, "bad": bad[:20]}


def launches() -> dict[str, Any]:
    """Kernels that one forward and one backward launch; the Triton backend promises three and two of its own."""
    counts: dict[str, Any] = {}
    ok = True
    for dtype in DTYPES[:2]:
        z = inputs(8192, 128, dtype, DEVICE.type)
        tau = torch.tensor(0.5, device=DEVICE)
        _step(functional.ntxent, z, tau)
        forward, loss = kernels(lambda z=z, tau=tau: functional.ntxent(*z, tau))
        backward, _ = kernels(lambda z=z, loss=loss: torch.autograd.grad(loss, z))
        for name, launched in (("forward", forward), ("backward", backward)):
            own = [k for k in launched if "ntxent" in k]
            others = [k[:80] for k in launched if "ntxent" not in k]
            ok &= 0 < len(own) <= MOST_LAUNCHES[name] or "triton" not in backends(dtype)
            counts[f"{name}_{dtype}"] = {"own": own, "others": others}
    return {"ok": ok, **counts}


def no_sync() -> dict[str, Any]:
    """No call waits for the device, with temperature as a number and as a tensor."""
    z = inputs(1024, 128, "float32", DEVICE.type)
    tau = torch.tensor(0.1, device=DEVICE, requires_grad=True)
    for temperature in (0.1, tau):
        _step(functional.ntxent, z, temperature)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for temperature in (0.1, tau):
            _step(functional.ntxent, z, temperature)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return {"ok": True}


def _captured(form: Callable[..., torch.Tensor], z: Any, tau: torch.Tensor) -> tuple[Any, list[torch.Tensor]]:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            _step(form, z, tau)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = _step(form, z, tau)
    return graph, out


def graph_replay() -> dict[str, Any]:
    """Forward and backward captured, fed fresh embeddings and another temperature, and compared with a plain call."""
    found = {}
    for dtype in DTYPES[:2]:
        z = inputs(1000, 128, dtype, DEVICE.type)
        tau = torch.tensor(0.5, device=DEVICE)
        graph, out = _captured(functional.ntxent, z, tau)
        fresh = inputs(1000, 128, dtype, DEVICE.type, seed=9)
        with torch.no_grad():
            for static, new in zip(z, fresh, strict=True):
                static.copy_(new)
            tau.fill_(0.1)
        for tensor in out:
            tensor.fill_(float("nan"))  # an element that the replay does not write cannot pass
        graph.replay()
        torch.cuda.synchronize()
        found[dtype] = error(out, [t.double() for t in _step(functional.ntxent, fresh, 0.1)])
    return {"ok": all(e <= FLOORS[t] for t, e in found.items()), "error": found}


def graph_times() -> dict[str, Any]:
    """Milliseconds of a captured step, without the host's launches: fastssl and the eager form, in turns."""
    found: dict[str, Any] = {}
    for m, dtype in ((512, "float32"), (512, "bfloat16"), (8192, "bfloat16"), (16384, "bfloat16")):
        z, tau = inputs(m, 128, dtype, DEVICE.type), torch.tensor(0.5, device=DEVICE)
        graphs = {n: _captured(f, z, tau)[0] for n, f in (("fastssl", functional.ntxent), ("eager", reference.ntxent))}
        times: dict[str, list[float]] = {name: [] for name in graphs}
        for turn in range(25):
            for name, graph in graphs.items():
                taken_ms = time_call(graph.replay, DEVICE)
                if turn >= 5:
                    times[name].append(taken_ms)
        found[f"m{m}_{dtype}"] = {f"{name}_ms": statistics.median(t) for name, t in times.items()}
    return {"ok": True, **found}


def determinism() -> dict[str, Any]:
    """Bit-identical results under `torch.use_deterministic_algorithms(True)`; how often without it is only told."""
    found: dict[str, Any] = {}
    for dtype in DTYPES:
        z = inputs(4096, 128, dtype, DEVICE.type)
        for strict in (True, False):
            torch.use_deterministic_algorithms(strict)
            first, *more = [_step(functional.ntxent, z, 0.1) for _ in range(6)]
            torch.use_deterministic_algorithms(False)
            same = all(torch.equal(a, b) for other in more for a, b in zip(first, other, strict=True))
            found[f"{dtype}_{'deterministic' if strict else 'default'}"] = same
    return {"ok": all(same for name, same in found.items() if name.endswith("_deterministic")), **found}


PROBES = (ceilings, accuracy, launches, no_sync, graph_replay, determinism, graph_times, *masking_probes.PROBES)


def main(out: Path) -> None:
    """Run all probes; one that fails does not keep the next from running."""
    found: dict[str, Any] = {"backends": {dtype: backends(dtype) for dtype in DTYPES}}
    for probe in PROBES:
        start = time.perf_counter()
        try:
            answer = probe()
        except Exception as failure:
            answer = {"ok": False, "error": f"{type(failure).__name__}: {str(failure)[:1000]}"}
        answer["seconds"] = round(time.perf_counter() - start, 1)
        found[probe.__name__] = answer
        out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
