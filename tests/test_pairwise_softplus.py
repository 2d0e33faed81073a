"""The engine of the sigmoid losses on every backend: accuracy, the op contract, determinism."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from accuracy import assert_close_to_exact
from conftest import DEVICES, runnable
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import fastssl
from fastssl import reference
from fastssl.functional import pairwise_softplus

ROWS = (1, 2, 3, 7, 64, 127, 129, 600)
WIDTHS = (1, 3, 16, 64, 96, 128, 257, 512, 1024)
TYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
LOGITS = ((10.0, -10.0), (1.0, 0.0), (117.0, -12.9), (0.0, 2.0), (-5.0, 30.0), (3.0, -200.0))  # scale, bias
OP = "pairwise_softplus"
on_backends = pytest.mark.parametrize(("device", "backend"), runnable(OP))


def evaluate(form: Any, x: Tensor, y: Tensor, scale: float, bias: float | Tensor, kwargs: Any) -> dict[str, Tensor]:
    """Return the loss and all gradients under an upstream gradient of 1.7, in float64 on the CPU."""
    kind = torch.float64 if x.dtype == torch.float64 else torch.float32
    scalars = {"scale": torch.tensor(scale), "bias": torch.as_tensor(bias)}
    given = {"x": x, "y": y, **{name: t.to(x.device, kind) for name, t in scalars.items()}}
    leaves = {name: t.detach().clone().requires_grad_() for name, t in given.items()}
    loss = form(*leaves.values(), **kwargs)
    grads = torch.autograd.grad(loss, tuple(leaves.values()), torch.tensor(1.7).to(loss))
    found = {"loss": loss, **dict(zip(leaves, grads, strict=True))}
    return {name: t.detach().double().cpu() for name, t in found.items()}


def assert_accurate(x: Tensor, y: Tensor, scale: float = 1.0, bias: float | Tensor = 0.0, **kwargs: Any) -> None:
    """Hold the op to the rule on one problem."""
    spec = reference.pairwise_softplus
    exact = evaluate(spec, x.double(), y.double(), scale, bias, kwargs)
    eager, kernel = (evaluate(form, x, y, scale, bias, kwargs) for form in (spec, pairwise_softplus))
    x_norm, y_norm = (t.double().cpu().norm(dim=1, keepdim=True) for t in (x, y))
    normalize = kwargs.get("normalize", False)
    reach = 1.0 if normalize else (x_norm.max() * y_norm.max()).item()
    one, pairs = torch.ones((), dtype=torch.float64), len(x) * len(y)
    # What is summed for a gradient of many cancelling pairs is about the root of their number.
    terms = {
        "loss": one * (1 + reach * abs(scale)) * pairs**0.5,
        "x": 2 * abs(scale) * len(y) ** 0.5 * (1 / x_norm if normalize else y_norm.max()),
        "y": 2 * abs(scale) * len(x) ** 0.5 * (1 / y_norm if normalize else x_norm.max()),
        "scale": one * 2 * reach * pairs**0.5,
        "bias": one * 2 * pairs**0.5,
    }
    largest = abs(scale) * reach + torch.as_tensor(bias).abs().max().item()
    where = f"{tuple(x.shape)} {tuple(y.shape)} scale {scale:g} {kwargs.keys()}"
    assert_close_to_exact(kernel, eager, exact, terms, x.dtype, largest, where)


def problem(m: int, n: int, d: int, dtype: torch.dtype = torch.float32, device: str = "cpu") -> tuple[Tensor, Tensor]:
    x, y = torch.randn(m, d), torch.randn(n, d)
    y[: min(m, n)] += x[: min(m, n)]
    return x.to(device, dtype), y.to(device, dtype)


def labels(count: int, m: int, n: int, device: str = "cpu") -> tuple[Tensor, Tensor]:
    return tuple((torch.randint(-count, count, (k,)) * 2**37).to(device) for k in (m, n))  # type: ignore[return-value]


@on_backends
@pytest.mark.parametrize("d", WIDTHS)
def test_accuracy_over_shapes(device: str, backend: str, d: int, nan_filled: None) -> None:
    with fastssl.use_backend(backend):
        for m, n in itertools.pairwise((*(ROWS if d <= 257 else ROWS[:-1]), 1)):
            assert_accurate(*problem(m, n, d, device=device), 10.0, -10.0, normalize=True)


@pytest.mark.parametrize(("dtype", "device", "backend"), [(t, *where) for t in TYPES for where in runnable(OP)
                                                          if t != torch.float64 or where[1] == "torch"])  # fmt: skip
@pytest.mark.parametrize(("scale", "bias"), LOGITS)
def test_accuracy_over_types_and_logits(
    device: str, backend: str, dtype: torch.dtype, scale: float, bias: float, nan_filled: None
) -> None:
    with fastssl.use_backend(backend):
        for m, n, d in ((1, 5, 16), (70, 3, 3), (64, 64, 64), (129, 200, 96)):
            x, y = problem(m, n, d, dtype, device)
            for more in ({}, {"same": labels(3, m, n, device)}, {"same": labels(3, m, n, device), "only_same": True}):
                for normalize in (True, False):
                    assert_accurate(x, y, scale, bias, normalize=normalize, **more)


@on_backends
def test_a_bias_for_each_row(device: str, backend: str, nan_filled: None) -> None:
    with fastssl.use_backend(backend):
        for m, n in ((1, 9), (33, 70), (130, 40)):
            bias = 20 * torch.randn(m)
            for only_same in (True, False):
                x, y = problem(m, n, 24, device=device)
                assert_accurate(x, y, 5.0, bias, same=labels(2, m, n, device), only_same=only_same, normalize=True)


@on_backends
def test_small_terms_keep_their_digits(device: str, backend: str) -> None:
    x, y = problem(300, 400, 32, device=device)
    with fastssl.use_backend(backend):
        different = torch.arange(300, device=device), -torch.arange(1, 401, device=device)
        for bias in (-20.0, -60.0):
            loss = pairwise_softplus(x, y, 1.0, bias, different, normalize=True)
            exact = reference.pairwise_softplus(x.double(), y.double(), 1.0, bias, different, normalize=True)
            torch.testing.assert_close(loss.double(), exact, rtol=1e-5, atol=0)


@pytest.mark.parametrize("backend", ["cpp", "torch"])
@settings(max_examples=60, deadline=None)
@given(
    m=st.integers(1, 90),
    n=st.integers(1, 140),
    d=st.integers(1, 140),
    dtype=st.sampled_from(TYPES[1:]),
    scale=st.floats(-60, 60, allow_subnormal=False),
    bias=st.floats(-60, 60, allow_subnormal=False),
    kinds=st.integers(0, 6),
    only_same=st.booleans(),
    normalize=st.booleans(),
)
def test_any_problem(
    backend: str, m: int, n: int, d: int, dtype: torch.dtype, scale: float, bias: float, kinds: int, only_same: bool,
    normalize: bool,
) -> None:  # fmt: skip
    same: Any = labels(kinds, m, n) if kinds else "diagonal"
    with fastssl.use_backend(backend):
        assert_accurate(*problem(m, n, d, dtype), scale, bias, same=same, only_same=only_same, normalize=normalize)


@on_backends
@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_nan_and_inf_reach_the_loss(device: str, backend: str, poison: float) -> None:
    x, y = problem(70, 90, 24, device=device)
    y[41, 3] = poison
    with fastssl.use_backend(backend):
        assert not pairwise_softplus(x, y, 2.0).isfinite()
        assert pairwise_softplus(x, y, 2.0, normalize=True).isnan()


@on_backends
def test_bit_identical_from_run_to_run(device: str, backend: str) -> None:
    torch.use_deterministic_algorithms(True)
    x, y = problem(700, 500, 64, device=device)
    with fastssl.use_backend(backend):
        runs = [evaluate(pairwise_softplus, x, y, 9.0, -9.0, {"normalize": True}) for _ in range(2)]
    torch.use_deterministic_algorithms(False)
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


@pytest.mark.parametrize("threads", [1, 2, 3, 5, 16])
def test_any_number_of_threads(threads: int, nan_filled: None) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for m, n in ((1, 17), (17, 1), (130, 333), (333, 40)):
            assert_accurate(*problem(m, n, 40), 5.0, -3.0)
    finally:
        torch.set_num_threads(before)


@on_backends
def test_only_the_gradients_asked_for(device: str, backend: str) -> None:
    x, y = problem(6, 9, 4, device=device)
    with fastssl.use_backend(backend):
        full = evaluate(pairwise_softplus, x, y, 2.0, -1.0, {})
        for wanted in itertools.product((True, False), repeat=2):
            scale = torch.tensor(2.0, device=device, requires_grad=True)
            leaves = [t.clone().requires_grad_(w) for t, w in zip((x, y), wanted, strict=True)]
            (1.7 * pairwise_softplus(*leaves, scale, -1.0)).backward()
            assert [leaf.grad is not None for leaf in leaves] == list(wanted)
            assert scale.grad is not None
            torch.testing.assert_close(scale.grad.double().cpu(), full["scale"], rtol=1e-5, atol=1e-5)


def test_gradcheck() -> None:
    x, y = (torch.randn(n, 4, dtype=torch.float64, requires_grad=True) for n in (5, 7))
    scale, bias = torch.tensor(0.7, dtype=torch.float64, requires_grad=True), torch.randn(5, dtype=torch.float64)
    for only_same in (True, False):
        ids = torch.arange(5) % 3, torch.arange(7) % 3
        assert torch.autograd.gradcheck(
            lambda *a, o=only_same, i=ids: pairwise_softplus(*a, i, only_same=o), (x, y, scale, bias.requires_grad_())
        )


def test_second_derivatives_say_no() -> None:
    x, y = problem(5, 6, 4)
    (first,) = torch.autograd.grad(pairwise_softplus(x.requires_grad_(), y), x, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        first.sum().backward()


@pytest.mark.parametrize(
    ("dtype", "device", "backend"), [(t, *where) for t in (torch.float64, torch.float32) for where in runnable(OP, t)]
)
def test_opcheck(device: str, backend: str, dtype: torch.dtype) -> None:
    x, y = (t.requires_grad_() for t in problem(6, 9, 5, dtype, device))
    scale, bias = (torch.full(s, 1.5, device=device, dtype=dtype, requires_grad=True) for s in ((), (6,)))
    ids = [torch.arange(k, dtype=torch.int32, device=device) for k in (6, 9)]
    args = (x, y, scale, bias, *ids, dtype, False, True, True, backend)
    torch.library.opcheck(torch.ops.fastssl.pairwise_softplus.default, args)


@pytest.mark.parametrize("device", DEVICES)
def test_compile_fullgraph_with_dynamic_batch(device: str) -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(pairwise_softplus, fullgraph=True, dynamic=True)
    for n, scale in ((4, 2.0), (7, 2.5), (12, 3.0), (5, 3.5)):
        x, y = (t.requires_grad_() for t in problem(n, n + 1, 8, device=device))
        expected, found = (torch.autograd.grad(f(x, y, scale, -scale), (x, y)) for f in (pairwise_softplus, compiled))
        for a, b in zip(expected, found, strict=True):
            torch.testing.assert_close(a, b)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"x": torch.zeros(3)}, ValueError, "x: got shape"),
        ({"y": torch.zeros(3, 5)}, ValueError, "y: got width 5"),
        ({"scale": math.nan}, ValueError, "scale: got nan"),
        ({"bias": "0"}, TypeError, "bias: got str"),
        ({"bias": torch.zeros(2)}, ValueError, r"bias: got shape \(2,\)"),
        ({"same": "all"}, ValueError, "same: got 'all'"),
        ({"same": (torch.zeros(3), torch.zeros(3))}, TypeError, "same: got dtype torch.float32"),
    ],
)
def test_bad_input(kwargs: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        pairwise_softplus(**{"x": torch.zeros(3, 4), "y": torch.zeros(3, 4), **kwargs})
