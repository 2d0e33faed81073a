"""The engine of the softmax losses on every backend: accuracy, the op contract, determinism, memory of y."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from accuracy import assert_close_to_exact
from conftest import DEVICES, runnable
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import fastssl
from fastssl import reference
from fastssl.functional import pairwise_logsumexp

ROWS = (1, 2, 3, 7, 64, 127, 129, 1000)
WIDTHS = (1, 3, 16, 64, 96, 128, 257, 512, 1024)
SCALES = (1.0, 2.0, 14.3, 100.0, 200.0, 0.0, -3.0, -150.0)
TYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
OP = "pairwise_logsumexp"
on_backends = pytest.mark.parametrize(("device", "backend"), runnable(OP))
on_devices = pytest.mark.parametrize("device", DEVICES)
Values = dict[str, Tensor]


def problem(m: int, n: int | None, d: int, dtype: torch.dtype = torch.float32, device: str = "cpu") -> list[Any]:
    """Rows x, and rows y unless n is None."""
    x = torch.randn(m, d).to(device, dtype)
    if n is None:
        return [x, None]
    return [x, (torch.randn(n, d) + x[:1].cpu().float() * 0.3).to(device, dtype)]


def groups(count: int, n: int, device: str = "cpu") -> Tensor:
    """Ids of any size."""
    return (torch.randint(-count, count, (n,)) * 2**37).to(device)


def evaluate(form: Any, x: Tensor, y: Tensor | None, scale: float, y_fixed: bool, kwargs: dict[str, Any]) -> Values:
    """Return the finite outputs and all gradients under a random upstream gradient, in float64 on the CPU."""
    kind = torch.float64 if x.dtype == torch.float64 else torch.float32
    x = x.detach().requires_grad_()
    y = None if y is None else y.detach().requires_grad_(not y_fixed)
    s = torch.tensor(scale, dtype=kind, device=x.device, requires_grad=True)
    out = form(x, y, s, **kwargs)
    found = dict(zip(("rows", "columns"), out if isinstance(out, tuple) else (out,), strict=False))
    total = torch.zeros((), dtype=torch.float64, device=x.device)
    for o in found.values():
        upstream = torch.randn(len(o), generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(x.device)
        total = total + (torch.where(o.isfinite(), o, 0.0).double() * upstream).sum()
    wanted = {"x": x, "y": y, "scale": s}
    wanted = {name: t for name, t in wanted.items() if t is not None and t.requires_grad}
    grads = torch.autograd.grad(total, tuple(wanted.values()), allow_unused=True)
    zeros = {k: torch.zeros_like(t) if g is None else g for (k, t), g in zip(wanted.items(), grads, strict=True)}
    return {name: t.detach().double().cpu() for name, t in (found | zeros).items()}


def assert_accurate(x: Tensor, y: Tensor | None, scale: float = 1.0, y_fixed: bool = False, **kwargs: Any) -> None:
    """Hold the op to the rule on one problem."""
    spec = reference.pairwise_logsumexp
    exact = evaluate(spec, x.double(), None if y is None else y.double(), scale, y_fixed, kwargs)
    eager, kernel = (evaluate(form, x, y, scale, y_fixed, kwargs) for form in (spec, pairwise_logsumexp))
    for name in {"rows", "columns"} & exact.keys():
        empty = exact[name] == -math.inf
        for values in (exact, eager, kernel):
            assert torch.equal(values[name] == -math.inf, empty)
            values[name] = torch.where(empty, 0, values[name])
    normalize = kwargs.get("normalize", False)
    x_norm, y_norm = (t.double().cpu().norm(dim=1, keepdim=True) for t in (x, x if y is None else y))
    reach = 1.0 if normalize else (x_norm.max() * y_norm.max()).item()
    one = torch.ones((), dtype=torch.float64)
    often = max(1.0, len(x) / (1 if y is None else len(y)))  # a column is in as many rows' sums
    terms = {
        "rows": one * max(1, reach * abs(scale)),
        "columns": one * max(1, reach * abs(scale)),
        "x": 4 * abs(scale) * (1 / x_norm.clamp_min(1e-12) if normalize else y_norm.max()),
        "y": 4 * abs(scale) * often * (1 / y_norm.clamp_min(1e-12) if normalize else x_norm.max()),
        "scale": one * reach * len(x) ** 0.5 * 4,
    }
    where = f"{tuple(x.shape)} {None if y is None else tuple(y.shape)} scale {scale:g} {kwargs.keys()}"
    assert_close_to_exact(kernel, eager, exact, terms, x.dtype, abs(scale) * reach, where)


@on_backends
@pytest.mark.parametrize("d", WIDTHS)
def test_accuracy_over_shapes(device: str, backend: str, d: int, nan_filled: None) -> None:
    with fastssl.use_backend(backend):
        for m, n in itertools.pairwise((*(ROWS if d <= 257 else ROWS[:-1]), 1)):
            x, y = problem(m, n, d, device=device)
            assert_accurate(x, y, normalize=True, columns=True)
            assert_accurate(x, y, 3.0, y_fixed=True, normalize=True)
            assert_accurate(x, None, 2.0, exclude="diagonal", normalize=True)


@pytest.mark.parametrize(("dtype", "device", "backend"), [(t, *where) for t in TYPES for where in runnable(OP)
                                                          if t != torch.float64 or where[1] == "torch"])  # fmt: skip
@pytest.mark.parametrize("scale", SCALES)
def test_accuracy_over_types_and_scales(
    device: str, backend: str, dtype: torch.dtype, scale: float, nan_filled: None
) -> None:
    with fastssl.use_backend(backend):
        for m, n, d in ((1, 5, 16), (70, 3, 3), (64, 64, 64), (129, 200, 96)):
            x, y = problem(m, n, d, dtype, device)
            for normalize in (True, False):
                assert_accurate(x, y, scale, normalize=normalize, columns=True)
                assert_accurate(x, y, scale, y_fixed=True, normalize=normalize)
                assert_accurate(x, None, scale, normalize=normalize)


@on_backends
@pytest.mark.parametrize("scale", [1.0, 50.0, -2.0])
def test_accuracy_of_exclusions(device: str, backend: str, scale: float, nan_filled: None) -> None:
    with fastssl.use_backend(backend):
        for m, n in ((7, 7), (130, 61), (61, 130), (200, 200)):
            x, y = problem(m, n, 24, device=device)
            several = groups(4, m, device), groups(4, n, device)
            everything = (
                torch.zeros(m, dtype=torch.int64, device=device),
                torch.zeros(n, dtype=torch.int32, device=device),
            )
            for exclude in (None, "diagonal", several, everything):
                for more in ({"columns": True}, {"y_fixed": True}, {}):
                    assert_accurate(x, y, scale, exclude=exclude, normalize=True, **more)
            for exclude in (None, "diagonal", several[0], everything[0]):
                assert_accurate(x, None, scale, exclude=exclude, normalize=True)


@on_backends
@pytest.mark.parametrize("case", ["duplicates", "zero rows", "tiny norms", "huge norms", "mixed norms", "huge scores"])
def test_accuracy_on_hard_rows(device: str, backend: str, case: str, nan_filled: None) -> None:
    x, y = problem(67, 81, 48, device=device)
    normalize = True
    if case == "duplicates":
        x[1::2], y[::3] = x[0].clone(), x[0].clone()
    elif case == "zero rows":
        x[3], y[5], y[3] = 0, 0, 0
    elif case == "tiny norms":
        x, y = x * 1e-20, y * 1e-20
    elif case == "huge norms":
        x, y = x * 1e20, y * 1e20
    elif case == "mixed norms":
        x, y = x * torch.logspace(-20, 20, 67, device=device)[:, None], y * 1e-6
    else:
        normalize, x, y = False, x * 30, y * 30
    with fastssl.use_backend(backend):
        for scale in (1.0, 14.3, 200.0):
            assert_accurate(x, y, scale, normalize=normalize, columns=True)
            assert_accurate(x, y, scale, y_fixed=True, normalize=normalize)
            assert_accurate(x, None, scale, exclude="diagonal", normalize=normalize)


@on_backends
def test_strides(device: str, backend: str, nan_filled: None) -> None:
    x, y = problem(33, 20, 40, device=device)
    with fastssl.use_backend(backend):
        assert_accurate(x.T.contiguous().T, y[:, ::1], columns=True)
        assert_accurate(x[::3, ::2], y[7:, 1::2], columns=True)
        assert_accurate(x[:1].expand(33, 40), y, normalize=True)


@pytest.mark.parametrize("backend", ["cpp", "torch"])
@settings(max_examples=80, deadline=None)
@given(
    m=st.integers(1, 90),
    n=st.integers(1, 140),
    d=st.integers(1, 140),
    dtype=st.sampled_from(TYPES[1:]),
    scale=st.floats(-60, 60, allow_subnormal=False),
    kinds=st.integers(0, 6),
    y_fixed=st.booleans(),
    normalize=st.booleans(),
)
@example(m=1, n=2, d=1, dtype=torch.float32, scale=1e-45, kinds=0, y_fixed=False, normalize=False)
@example(m=9, n=20, d=5, dtype=torch.float16, scale=-1e-37, kinds=3, y_fixed=False, normalize=True)
def test_any_problem(
    backend: str, m: int, n: int, d: int, dtype: torch.dtype, scale: float, kinds: int, y_fixed: bool, normalize: bool
) -> None:
    x, y = problem(m, n, d, dtype)
    exclude = (groups(kinds, m), groups(kinds, n)) if kinds else None
    with fastssl.use_backend(backend):
        assert_accurate(x, y, scale, y_fixed, exclude=exclude, normalize=normalize, columns=not y_fixed)


@on_backends
@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("scale", [2.0, 100.0])
def test_nan_and_inf_reach_the_result(device: str, backend: str, poison: float, scale: float) -> None:
    x, y = problem(70, 90, 24, device=device)
    y[41, 3] = poison
    with fastssl.use_backend(backend):
        # Scores of -inf are like any others: their exponential is 0.
        assert torch.equal(
            pairwise_logsumexp(x, y, scale).isfinite(), reference.pairwise_logsumexp(x, y, scale).isfinite()
        )
        assert pairwise_logsumexp(x, y, scale, normalize=True).isnan().all()
        y[41, 3], x[5, 2] = 1, poison
        rows, columns = pairwise_logsumexp(x, y, scale, normalize=True, columns=True)
        assert rows[5].isnan()
        assert rows[torch.arange(70) != 5].isfinite().all()
        assert columns.isnan().all()
        assert pairwise_logsumexp(x, None, scale, normalize=True).isnan().all()


@on_backends
def test_upstream_gradients_of_any_size(device: str, backend: str, nan_filled: None) -> None:
    x, y = problem(40, 50, 16, device=device)
    with fastssl.use_backend(backend):
        for dtype in (torch.float32, torch.bfloat16):
            leaves = [t.to(dtype).requires_grad_() for t in (x, y)]
            plain = torch.autograd.grad(pairwise_logsumexp(*leaves, 5.0, normalize=True).sum(), leaves)
            for size in (2.0**-30, 2.0**40):
                scaled = torch.autograd.grad(pairwise_logsumexp(*leaves, 5.0, normalize=True).sum() * size, leaves)
                for a, b in zip(plain, scaled, strict=True):
                    torch.testing.assert_close(
                        b.double() / size, a.double(), rtol=2e-2, atol=1e-3 * a.abs().max().item()
                    )


@on_backends
def test_a_fixed_y_may_change_before_the_backward_pass(device: str, backend: str) -> None:
    """As a queue does, which takes its new keys in: the forward pass has made the gradient."""
    x, y = problem(9, 20, 8, device=device)
    with fastssl.use_backend(backend):
        want = torch.autograd.grad(pairwise_logsumexp(x.requires_grad_(), y.clone(), 3.0).sum(), x)
        lse = pairwise_logsumexp(x, y, 3.0)
        y.zero_()
        torch.testing.assert_close(torch.autograd.grad(lse.sum(), x), want)


@on_backends
def test_bit_identical_from_run_to_run(device: str, backend: str) -> None:
    torch.use_deterministic_algorithms(True)
    x, y = problem(700, 500, 64, device=device)
    with fastssl.use_backend(backend):
        runs = [evaluate(pairwise_logsumexp, x, y, 9.0, False, {"columns": True, "normalize": True}) for _ in range(2)]
    torch.use_deterministic_algorithms(False)
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


@pytest.mark.parametrize("threads", [1, 2, 3, 5, 16])
def test_any_number_of_threads(threads: int, nan_filled: None) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for m, n in ((1, 17), (17, 1), (130, 333), (333, 40)):
            x, y = problem(m, n, 40)
            assert_accurate(x, y, 2.0, columns=True)
            assert_accurate(x, y, 2.0, y_fixed=True)
            assert_accurate(x, None, 2.0, exclude="diagonal")
    finally:
        torch.set_num_threads(before)


@on_backends
def test_only_the_gradients_asked_for(device: str, backend: str) -> None:
    x, y = problem(6, 9, 4, device=device)
    with fastssl.use_backend(backend):
        for wanted in ((True, False), (False, True), (True, True)):
            leaves = [t.clone().requires_grad_(w) for t, w in zip((x, y), wanted, strict=True)]
            pairwise_logsumexp(*leaves, 2.0).sum().backward()
            assert [leaf.grad is not None for leaf in leaves] == list(wanted)
        scale = torch.tensor(2.0, device=device, requires_grad=True)
        (alone,) = torch.autograd.grad(pairwise_logsumexp(x, y, scale).sum(), scale)
        (beside, *_) = torch.autograd.grad(
            pairwise_logsumexp(x.requires_grad_(), y.requires_grad_(), scale).sum(), scale
        )
        torch.testing.assert_close(alone, beside)


def test_gradcheck() -> None:
    x, y = (torch.randn(n, 4, dtype=torch.float64, requires_grad=True) for n in (5, 7))
    scale = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    for exclude in (None, "diagonal"):
        assert torch.autograd.gradcheck(lambda *a, e=exclude: pairwise_logsumexp(*a, e, columns=True), (x, y, scale))
        assert torch.autograd.gradcheck(lambda x, s, e=exclude: pairwise_logsumexp(x, None, s, e), (x, scale))
        assert torch.autograd.gradcheck(lambda x, s, e=exclude: pairwise_logsumexp(x, y.detach(), s, e), (x, scale))


@pytest.mark.parametrize("fixed", [True, False])
def test_second_derivatives_say_no(fixed: bool) -> None:
    x, y = problem(5, 6, 4)
    y.requires_grad_(not fixed)
    (first,) = torch.autograd.grad(pairwise_logsumexp(x.requires_grad_(), y).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        first.sum().backward()


@pytest.mark.parametrize(
    ("dtype", "device", "backend"), [(t, *where) for t in (torch.float64, torch.float32) for where in runnable(OP, t)]
)
def test_opcheck(device: str, backend: str, dtype: torch.dtype) -> None:
    op, backward = torch.ops.fastssl.pairwise_logsumexp.default, torch.ops.fastssl.pairwise_logsumexp_backward.default
    x, y = (t.requires_grad_() for t in problem(6, 9, 5, dtype, device))
    scale = torch.tensor(1.5, device=device, requires_grad=True)
    ids = [torch.arange(k, dtype=torch.int32, device=device) for k in (6, 9)]
    torch.library.opcheck(op, (x, y, scale, *ids, dtype, False, True, False, backend))
    torch.library.opcheck(op, (x, y.detach(), scale, None, None, dtype, False, False, True, backend))
    torch.library.opcheck(op, (x, None, scale, ids[0], ids[0], dtype, True, False, False, backend))
    row_lse, col_lse, _ = (t.detach() for t in op(x, y, scale, *ids, dtype, False, True, False, backend))
    rest = (row_lse, col_lse, dtype, False, True, True, backend)
    grads = torch.ones(6, device=device), torch.ones(9, device=device)
    torch.library.opcheck(backward, (*grads, x.detach(), y.detach(), scale.detach(), *ids, *rest))


@on_devices
@pytest.mark.parametrize("y_fixed", [True, False])
def test_compile_fullgraph_with_dynamic_batch(device: str, y_fixed: bool) -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()

    def form(x: Tensor, y: Tensor, scale: float) -> Tensor:
        return pairwise_logsumexp(x, y, scale, "diagonal", normalize=True)

    compiled = torch.compile(form, fullgraph=True, dynamic=True)
    for n, scale in ((4, 2.0), (7, 2.5), (12, 3.0), (5, 3.5)):
        x, y = problem(n, n + 1, 8, device=device)
        x.requires_grad_(), y.requires_grad_(not y_fixed)
        wanted = (x,) if y_fixed else (x, y)
        expected, found = (torch.autograd.grad(f(x, y, scale).sum(), wanted) for f in (form, compiled))
        for a, b in zip(expected, found, strict=True):
            torch.testing.assert_close(a, b)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2


def test_fake_tensors_for_cuda_need_no_cuda() -> None:
    with FakeTensorMode():
        x, y = torch.empty(6, 4, device="cuda"), torch.empty(9, 4, device="cuda")
        out = torch.ops.fastssl.pairwise_logsumexp(
            x, y, torch.empty(()), None, None, torch.bfloat16, False, True, False, "auto"
        )
    assert [t.device.type for t in out] == ["cuda"] * 3
    assert [tuple(t.shape) for t in out] == [(6,), (9,), (0, 4)]


@on_devices
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(device: str, dtype: torch.dtype) -> None:
    x, y = (t.requires_grad_() for t in problem(12, 9, 8, device=device))
    with torch.autocast(device, dtype):
        lse = pairwise_logsumexp(x, y.to(dtype), 5.0, normalize=True)
    assert lse.dtype == torch.float32
    lse.sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.float32
    torch.testing.assert_close(lse, pairwise_logsumexp(x.to(dtype), y.to(dtype), 5.0, normalize=True), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"x": torch.zeros(3)}, ValueError, r"x: got shape \(3,\), want \[m, d\]"),
        ({"x": torch.zeros(0, 4)}, ValueError, "x: got shape"),
        ({"x": torch.zeros(3, 4, dtype=torch.int64)}, TypeError, "x: got dtype torch.int64"),
        ({"x": 1.0}, TypeError, "x: got float"),
        ({"y": torch.zeros(3, 5)}, ValueError, "y: got width 5, want that of x, 4"),
        ({"y": torch.zeros(3, 4, dtype=torch.float64)}, TypeError, "y: got dtype torch.float64"),
        ({"scale": math.inf}, ValueError, "scale: got inf, want a finite number"),
        ({"scale": "1"}, TypeError, "scale: got str"),
        ({"scale": torch.ones(2)}, ValueError, "scale: got a torch.float32 tensor of shape"),
        ({"exclude": "self"}, ValueError, "exclude: got 'self'"),
        ({"exclude": torch.zeros(3)}, TypeError, "exclude: got dtype torch.float32, want an int tensor"),
        ({"exclude": torch.zeros(2, dtype=torch.int64)}, ValueError, r"exclude: got shape \(2,\), want \[3\]"),
    ],
)
def test_bad_input(kwargs: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        pairwise_logsumexp(**{"x": torch.zeros(3, 4), "y": torch.zeros(3, 4), **kwargs})
