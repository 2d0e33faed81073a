"""KoLeo: against loops, the reference in float64 and what it is made of; rows that are the same or zero; memory. What
several processes find is in test_dino_losses.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from accuracy import assert_close_to_exact
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn import PairwiseDistance
from torch.utils._python_dispatch import TorchDispatchMode

from fastssl import reference
from fastssl.functional import _koleo, koleo

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_koleo, "_ROWS", 3)
    monkeypatch.setattr(_koleo, "_COLUMNS", 5)


def by_loops(rows: list[list[float]], eps: float) -> float:
    """The formula, number by number."""
    units = [[v / max(math.hypot(*row), eps) for v in row] for row in rows]
    total = 0.0
    for i, u in enumerate(units):
        products = [-2 if j == i else sum(a * b for a, b in zip(u, v, strict=True)) for j, v in enumerate(units)]
        other = units[products.index(max(products))]
        total += math.log(math.hypot(*(a - b + eps for a, b in zip(u, other, strict=True))) + eps)
    return -total / len(units)


@pytest.mark.parametrize("eps", [1e-8, 0.1, 2.0])
def test_the_reference_by_loops(eps: float) -> None:
    x = torch.randn(9, 4, dtype=torch.float64)
    assert reference.koleo(x, eps).item() == pytest.approx(by_loops(x.tolist(), eps), rel=1e-12)


def test_by_hand() -> None:
    """Three rows of the plane, of which the first two are at 60 degrees, and the third at 90 from the second."""
    angles = torch.tensor([0, 60, 150]).double().deg2rad()
    x = torch.stack([angles.cos(), angles.sin()], 1) * torch.tensor([[1.0], [5.0], [0.1]])
    torch.testing.assert_close(koleo(x).item(), -math.log(2) / 6)  # distances 1, 1 and the root of 2


def values(loss: Callable[..., Tensor], x: Tensor, dtype: torch.dtype, eps: float) -> dict[str, Tensor]:
    leaf = x.to(dtype).requires_grad_()
    out = loss(leaf, eps)
    (grad,) = torch.autograd.grad(out, leaf, torch.tensor(1.7).to(out))
    return {"loss": out.detach().double(), "x": grad.double()}


@settings(deadline=None, max_examples=100)
@given(
    n=st.sampled_from([2, 3, 7, 16, 64, 129]), d=st.sampled_from([2, 3, 16, 65, 128]), seed=st.integers(0, 2**32),
    dtype=st.sampled_from(FLOATS), size=st.sampled_from([1.0, 1e-3, 100.0]), eps=st.sampled_from([1e-8, 1e-3]),
)  # fmt: skip
def test_accuracy(n: int, d: int, seed: int, dtype: torch.dtype, size: float, eps: float) -> None:
    x = (torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) * size).to(dtype).double()
    kernel, eager = values(koleo, x, dtype, eps), values(reference.koleo, x, dtype, eps)
    exact = values(reference.koleo, x, torch.float64, eps)
    assume(exact["x"].abs().max() < torch.finfo(dtype).max / 2)  # which float16 may not have
    u = torch.nn.functional.normalize(x)
    first, *second = (u @ u.T).fill_diagonal_(-2).topk(min(2, n - 1)).values.T
    assume(not second or (first - second[0]).min() > 1e-6)  # float32 tells which is the nearest
    near = torch.cdist(u, u, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(4).amin(1)
    # What is a difference of unit rows is divided by the square of its length, and by that of the row.
    terms = {"loss": (1 / near).mean(), "x": 3.4 / n / near.min() ** 2 / x.norm(dim=1, keepdim=True)}
    assert_close_to_exact(kernel, eager, exact, terms, dtype, 1.0, f"{n} x {d}")


@pytest.mark.parametrize("dtype", FLOATS)
def test_types(dtype: torch.dtype) -> None:
    x = torch.randn(6, 4).to(dtype).requires_grad_()
    loss = koleo(x)
    assert loss.dtype == torch.promote_types(dtype, torch.float32)
    assert torch.autograd.grad(loss, x)[0].dtype == dtype


def test_autocast_is_left_aside() -> None:
    x = torch.randn(50, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert koleo(x) == koleo(x.clone())
        found = koleo(x)
    assert found == koleo(x)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("n", [2, 3, 4, 5, 6, 15, 17])
def test_blocks(n: int) -> None:
    x = torch.randn(n, 3, dtype=torch.float64)
    found, exact = values(koleo, x, torch.float64, 1e-8), values(reference.koleo, x, torch.float64, 1e-8)
    torch.testing.assert_close(found, exact, rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("small_blocks")
def test_the_first_of_equals_is_the_nearest() -> None:
    """A row between four others, whose products with it are all the same, and the same row a second time."""
    x = torch.tensor([[0.0, 1], [0, -1], [1, 0], [0, 1], [0, -1], [0, 1], [1, 0]])
    assert torch.ops.fastssl.nearest_rows(x).tolist() == [3, 4, 6, 0, 1, 0, 2]
    assert torch.ops.fastssl.nearest_rows(x[:3]).tolist() == [2, 2, 0]


def test_the_distance_is_that_of_the_original() -> None:
    """As torch computes it, which adds eps to each of the differences."""
    x = torch.randn(2, 30, dtype=torch.float64)
    u = torch.nn.functional.normalize(x, eps=0.1)
    wanted = -(PairwiseDistance(2, eps=0.1)(u, u.flip(0)) + 0.1).log().mean()
    torch.testing.assert_close(koleo(x, 0.1), wanted)


def test_derivatives() -> None:
    x = torch.randn(7, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(koleo, x)
    assert torch.autograd.gradgradcheck(koleo, x)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("rows", [[0, 0], [0, 0, 0, 1, 1], [0, 0, 1, 2]], ids=str)
def test_rows_that_are_the_same(dtype: torch.dtype, rows: list[int]) -> None:
    """Their loss is large and finite; they have no gradient of their own, only that of whose neighbours they are."""
    kinds = torch.randn(3, 16).to(dtype)
    x = kinds[rows].requires_grad_()
    loss = koleo(x)
    (grad,) = torch.autograd.grad(loss, x)
    exact = torch.tensor(by_loops(x.tolist(), 1e-8)).to(loss.dtype)
    torch.testing.assert_close(loss, exact, rtol=1e-6, atol=0)
    assert grad.isfinite().all()
    same = [i for i, row in enumerate(rows) if rows.count(row) > 1]
    alone = [i for i, row in enumerate(rows) if rows.count(row) == 1]
    near = torch.ops.fastssl.nearest_rows(torch.nn.functional.normalize(x.detach().double(), dim=1))
    assert not grad[[i for i in same if i not in near[alone]]].any()
    assert all(grad[i].any() for i in alone)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_rows_of_one_direction(dtype: torch.dtype) -> None:
    """What is between their unit vectors is rounding, and so would be its direction."""
    row = torch.randn(1, 65, dtype=dtype)
    x = (row * torch.tensor([1.0, 3.0, 0.7, 1e6, 1e-3], dtype=dtype)[:, None]).requires_grad_()
    loss = koleo(x)
    assert loss.isfinite()
    assert not torch.autograd.grad(loss, x)[0].any()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("zeros", [1, 2, 5])
def test_rows_of_zeros(dtype: torch.dtype, zeros: int) -> None:
    x = torch.randn(5, 16).to(dtype)
    x[:zeros] = 0
    x.requires_grad_()
    loss = koleo(x)
    (grad,) = torch.autograd.grad(loss, x)
    torch.testing.assert_close(loss, torch.tensor(by_loops(x.tolist(), 1e-8)).to(loss.dtype), rtol=1e-5, atol=0)
    assert grad.isfinite().all()
    assert not grad[:zeros].any()


@pytest.mark.parametrize("size", [1e-30, 1e-9, 1e30])
def test_rows_of_any_length(size: float) -> None:
    x = torch.randn(6, 4)
    wanted = reference.koleo(x.double() * size)
    found = koleo(x * size)
    assert found.isfinite()
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=0)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_nan_stays_nan(bad: float) -> None:
    x = torch.randn(6, 4)
    x[3, 1] = bad
    assert koleo(x).isnan()


class Largest(TorchDispatchMode):
    """The most elements that a tensor made meanwhile has."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        assert func is not torch.ops.aten._local_scalar_dense.default
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            self.size = max(self.size, out.numel())
        return out


@pytest.mark.usefixtures("small_blocks")
def test_no_matrix_of_all_rows_is_made() -> None:
    u = torch.nn.functional.normalize(torch.randn(40, 2), dim=1)
    with Largest() as largest:
        found = _koleo._nearest_rows(u)
    assert largest.size <= u.numel()
    assert torch.equal(found, (u @ u.T).fill_diagonal_(-1).argmax(1))


def test_large_batches() -> None:
    """Over the bounds of blocks as they are."""
    x = torch.randn(4500, 8, dtype=torch.float64)
    torch.testing.assert_close(koleo(x), reference.koleo(x))


def test_strides() -> None:
    x = torch.randn(10, 12)
    for view in (x[::2, ::3], x.T):
        torch.testing.assert_close(koleo(view), koleo(view.contiguous()))


def test_it_compiles_once() -> None:
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(koleo, fullgraph=True, backend=counter, dynamic=True)
    frames = []
    for n in (4, 9, 1100):
        x = torch.randn(n, 6, requires_grad=True)
        found, wanted = (torch.autograd.grad(f(x), x)[0] for f in (compiled, koleo))
        torch.testing.assert_close(found, wanted)
        frames.append(counter.frame_count)
    assert len(set(frames)) == 1


def test_opcheck() -> None:
    torch.library.opcheck(torch.ops.fastssl.nearest_rows.default, (torch.randn(7, 3),))


@pytest.mark.usefixtures("nan_filled")
def test_deterministic() -> None:
    x = torch.randn(300, 4, requires_grad=True)
    grads = [torch.autograd.grad(koleo(x), x)[0] for _ in range(3)]
    assert all(torch.equal(grad, grads[0]) for grad in grads)
    assert grads[0].isfinite().all()


X = torch.randn(4, 3)


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: koleo([1.0]), TypeError, "x: got list, want a torch.Tensor"),
        (lambda: koleo(X.long()), TypeError, "x: got dtype torch.int64, want float64, float32"),
        (lambda: koleo(X[0]), ValueError, r"x: got shape \(3,\), want \[N, d\]"),
        (lambda: koleo(X[:, :0]), ValueError, r"x: got shape \(4, 0\), want \[N, d\]"),
        (lambda: koleo(X[:0]), ValueError, r"x: got shape \(0, 3\), want \[N, d\]"),
        (lambda: koleo(X[:1]), ValueError, "x: got 1 row, want at least 2: one row has no neighbour"),
        (lambda: koleo(X, 0), ValueError, "eps: got 0, want a finite number > 0"),
        (lambda: koleo(X, math.nan), ValueError, "eps: got nan, want a finite number > 0"),
        (lambda: koleo(X, True), ValueError, "eps: got True, want a finite number > 0"),
        (lambda: koleo(X, gather_distributed="star"), ValueError, "gather_distributed: got 'star', want False, True"),
    ],
)
def test_bad_input(call: Callable[[], Tensor], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        call()
