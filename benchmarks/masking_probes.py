"""What `gpu_probes.py` asks of the ops of masked training on a CUDA device, in the same form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import masking_floors
import masking_providers
import torch
from masking_providers import CASES, Inputs, Problem
from probe_tools import DEVICE, DTYPES, FLOORS, error, kernels, median_ms

from fastssl import _bench_masking as eager
from fastssl import functional, use_backend

BATCH = 256
# Kernels of the Triton backend: forward, and backward where the upstream gradient is 1 or dense.
MOST_LAUNCHES = {"tokens": (2, 1), "restore": (1, 3), "loss": (3, 1), "loss-masked": (3, 1)}
DETERMINATE = ("restore", "loss", "loss-masked", "simmim")  # cases whose values depend on nothing drawn


def _problem(case: str, n: int, dtype: str) -> Problem:
    return Problem(case, n, dim=512 if case == "restore" else 768, dtype=dtype)


def _pass(problem: Problem, provider: str, inputs: Inputs) -> list[torch.Tensor]:
    """The output and the gradients."""
    out = masking_providers.build(problem, provider)(inputs)
    gradient = masking_providers.upstream_of(out)
    assert isinstance(out, torch.Tensor)
    return [out.detach(), *masking_providers.backward(problem, out, inputs, gradient)]


def _gather_pass(problem: Problem, provider: str, inputs: Inputs) -> list[torch.Tensor]:
    """Gathering the same tokens by both, some of them several times."""
    x = inputs["x"]
    ids = torch.randint(0, problem.length, (problem.n, problem.kept), generator=torch.Generator().manual_seed(1))
    gather = eager.eager_gather if provider == "eager" else functional.gather_tokens
    out = gather(x, ids.to(x.device))
    gradient = masking_providers.upstream_of(out)
    return [out.detach(), *torch.autograd.grad(out, x, gradient)]


def _as_float64(inputs: Inputs, leaves: tuple[str, ...]) -> Inputs:
    exact = {name: x.detach().double() if x.is_floating_point() else x for name, x in inputs.items()}
    return {name: x.requires_grad_() if name in leaves else x for name, x in exact.items()}


def masking_accuracy() -> dict[str, Any]:
    """Every backend and dtype against float64: within twice the eager form's error, or the dtype's rounding."""
    cases, worst, bad = 0, 0.0, []
    passes: dict[str, Callable[..., list[torch.Tensor]]] = {**dict.fromkeys(DETERMINATE, _pass), "tokens": _gather_pass}
    for case, run in passes.items():
        for n, dtype in ((n, t) for n in (1, 7) for t in DTYPES):
            problem = _problem(case, n, dtype)
            inputs = masking_providers.make_inputs(problem, DEVICE.type, seed=n)
            want = run(problem, "eager", _as_float64(inputs, CASES[case].leaves))
            allowed = 2 * error(run(problem, "eager", inputs), want) + FLOORS[dtype]
            for backend in masking_providers.backends(problem, DEVICE.type):
                with use_backend(backend):
                    found = error(run(problem, "fastssl", inputs), want)
                cases += 1
                worst = max(worst, found / allowed)
                if not found <= allowed:
                    bad.append(f"{backend} {problem.label}: {found:.2e}, allowed {allowed:.2e}")
    return {"ok": not bad, "cases": cases, "worst_over_allowed": worst, "bad": bad[:20]}


def masking_draws() -> dict[str, Any]:
    """The masks of a seed are those that the CPU draws, bit for bit."""
    tokens = torch.randint(1000, (8, 512))
    forms: dict[str, Callable[[str], tuple[torch.Tensor, ...]]] = {
        "random": lambda on: tuple(functional.random_masking(64, 196, seed=3, device=on)),
        "random_video": lambda on: tuple(functional.random_masking(4, 16384, 0.9, seed=4, device=on)),
        "multiblock": lambda on: (functional.multiblock_masking(64, (14, 14), seed=5, device=on),),
        "blockwise": lambda on: (functional.blockwise_masking(64, (14, 14), 75, seed=6, device=on),),
        "text": lambda on: functional.text_masking(tokens.to(on), 103, 1000, seed=7),
    }
    found = {
        name: all(torch.equal(a, b.cpu()) for a, b in zip(form("cpu"), form(DEVICE.type), strict=True))
        for name, form in forms.items()
    }
    return {"ok": all(found.values()), **found}


def masking_launches() -> dict[str, Any]:
    """Kernels that a forward and a backward pass launch; the Triton backend promises as many of its own at most."""
    told: dict[str, Any] = {}
    ok = True
    for case, most in MOST_LAUNCHES.items():
        problem = _problem(case, BATCH, "bfloat16")
        inputs, form = masking_providers.make_inputs(problem, DEVICE.type), masking_providers.build(problem, "fastssl")
        gradient = masking_providers.upstream_of(form(inputs))
        masking_providers.backward(problem, form(inputs), inputs, gradient)
        forward, out = kernels(lambda form=form, inputs=inputs: form(inputs))
        back, _ = kernels(
            lambda p=problem, out=out, inputs=inputs, g=gradient: masking_providers.backward(p, out, inputs, g)
        )
        triton = masking_providers.backends(problem, DEVICE.type)[0] == "triton"
        for name, launched, limit in (("forward", forward, most[0]), ("backward", back, most[1])):
            own = [k for k in launched if k.endswith("_kernel") and "::" not in k]
            ok &= not triton or 0 < len(own) <= limit
            told[f"{case}_{name}"] = {"own": own, "others": [k[:80] for k in launched if k not in own]}
    return {"ok": ok, **told}


def masking_no_sync() -> dict[str, Any]:
    """No call waits for the device."""
    problems = [_problem(case, 8, "float32") for case in ("tokens", *DETERMINATE)]
    passes = [
        (p, masking_providers.make_inputs(p, DEVICE.type), masking_providers.build(p, "fastssl")) for p in problems
    ]
    gradients = [masking_providers.upstream_of(form(inputs)) for _, inputs, form in passes]

    def run() -> None:
        for (problem, inputs, form), gradient in zip(passes, gradients, strict=True):
            masking_providers.backward(problem, form(inputs), inputs, gradient)

    run()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return {"ok": True}


def masking_rates() -> dict[str, Any]:
    """GB/s of a forward and a whole pass, counted as in `masking_floors.py`, and the share of a copy's rate."""
    source = torch.randn(2**27, device=DEVICE)
    target = torch.empty_like(source)
    copy_gbs = 8 * 2**27 / median_ms(lambda: target.copy_(source)) / 1e6
    told: dict[str, Any] = {"copy_gbs": copy_gbs}
    for case, dtype in ((c, t) for c in MOST_LAUNCHES for t in DTYPES[:2]):
        problem = _problem(case, BATCH, dtype)
        inputs, form = masking_providers.make_inputs(problem, DEVICE.type), masking_providers.build(problem, "fastssl")
        gradient = masking_providers.upstream_of(form(inputs))
        whole_ms = median_ms(
            lambda p=problem, form=form, x=inputs, g=gradient: masking_providers.backward(p, form(x), x, g)
        )
        gbs = masking_floors.work(problem, "fwd_bwd").moved / whole_ms / 1e6
        told[f"{case}_{dtype}"] = {"ms": whole_ms, "gbs": gbs, "of_copy": gbs / copy_gbs}
    return {"ok": True, **told}


PROBES = (masking_accuracy, masking_draws, masking_launches, masking_no_sync, masking_rates)
