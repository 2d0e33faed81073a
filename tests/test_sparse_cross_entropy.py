"""Cross-entropy with sparse soft targets: every backend, layout and type against the definition; and as an op."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import DEVICES, runnable
from devices import no_synchronisation
from hypothesis import given, settings
from hypothesis import strategies as st
from masking_reference import TYPES, hold_to_the_rule, sum_type
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import fastssl
from fastssl import functional, reference
from fastssl.functional import sparse_cross_entropy

OP = "sparse_cross_entropy"
REDUCTIONS = ("mean", "sum", "none")
LAYOUTS = ("columns", "rows", "strided")
on_backends = pytest.mark.parametrize(("device", "backend"), runnable(OP))
on_types = pytest.mark.parametrize(
    ("dtype", "device", "backend"), [(dtype, *where) for dtype in TYPES for where in runnable(OP, dtype)]
)


def laid_out(x: Tensor, layout: str) -> Tensor:
    """The same [N, C, *] with its places side by side, its channels side by side, or neither."""
    if layout == "rows":
        return x.movedim(1, -1).contiguous().movedim(-1, 1)
    return x if layout == "columns" else torch.stack([x, x], -1)[..., 0]


def problem(
    shape: tuple[int, ...], count: int, dtype: torch.dtype = torch.float32, device: str = "cpu", scale: float = 4.0,
    layout: str = "columns", index_type: torch.dtype = torch.int32,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Logits [N, Q, *], indices of which some name nothing, weights of which some are 0 and some places have none."""
    n, classes, *places = shape
    logits = laid_out((scale * torch.randn(shape, device=device)).to(dtype), layout)
    index = torch.randint(-1, classes, (n, count, *places), dtype=index_type, device=device)
    weight = torch.rand(index.shape, dtype=sum_type(logits), device=device)
    weight = weight * (torch.rand_like(weight) > 0.2) * (torch.rand_like(weight[:, :1]) > 0.2)
    return logits, laid_out(index, layout), laid_out(weight, layout)


def spec(logits: Tensor, index: Tensor, weight: Tensor, reduction: str) -> Tensor:
    """The reference, which knows no index of -1."""
    return reference.sparse_cross_entropy(logits, index.clamp_min(0), weight * (index >= 0), reduction)


def evaluate(
    loss: Any, logits: Tensor, index: Tensor, weight: Tensor, reduction: str, upstream: Tensor
) -> dict[str, Tensor]:
    """The loss and its gradients by logits and weights."""
    leaves = [x.detach().requires_grad_() for x in (logits, weight)]
    found = loss(leaves[0], index, leaves[1], reduction)
    grads = torch.autograd.grad(found, leaves, upstream.to(found))
    return {"loss": found.detach(), "logits": grads[0], "weight": grads[1]}


def check(logits: Tensor, index: Tensor, weight: Tensor, reduction: str, where: object) -> dict[str, Tensor]:
    """Hold the loss and its gradients to the rule."""
    places = (logits.shape[0], *logits.shape[2:])
    upstream = 0.5 + torch.rand(places if reduction == "none" else (), device=logits.device)
    arguments = index, weight, reduction, upstream
    found = evaluate(sparse_cross_entropy, logits, *arguments)
    eager = evaluate(spec, logits.to(sum_type(logits)), *arguments)
    exact = evaluate(spec, logits.double(), index, weight.double(), *arguments[2:])
    share = upstream / (math.prod(places) if reduction == "mean" else 1)
    share = share.double() if share.ndim == 0 else share.double().unsqueeze(1)
    # What is rounded: logits and what is summed of them; probabilities; the weights.
    size = weight.double().abs().sum(1, keepdim=True)
    away = logits.double().abs().amax(1, keepdim=True) + math.log(logits.shape[1])
    each = (size * away).squeeze(1)
    terms = {
        "loss": each if reduction == "none" else each.mean() if reduction == "mean" else each.sum(),
        # The definition itself rounds its log-sum-exp, in float64 as much as what is held to it.
        "logits": (share * size * (1 + away if logits.dtype == torch.float64 else 1)).expand(logits.shape),
        "weight": (share * away).expand(weight.shape),
    }
    for name in exact:
        assert found[name].shape == exact[name].shape
        hold_to_the_rule(found[name], eager[name], exact[name], terms[name], (where, name))
    assert (found["loss"].dtype, found["logits"].dtype) == (sum_type(logits), logits.dtype)
    assert found["weight"].dtype == weight.dtype
    return found


def test_reference_equals_loops() -> None:
    logits, index, weight = problem((2, 5, 3, 2), 4, torch.float64)
    index = index.clamp_min(0)
    found = reference.sparse_cross_entropy(logits, index, weight, "none")
    for n, y, x in itertools.product(range(2), range(3), range(2)):
        z = logits[n, :, y, x].tolist()
        lse = math.log(sum(math.exp(v) for v in z))
        exact = sum(
            w * (lse - z[i]) for i, w in zip(index[n, :, y, x].tolist(), weight[n, :, y, x].tolist(), strict=True)
        )
        assert found[n, y, x].item() == pytest.approx(exact, rel=1e-12)
    for reduction, value in (("mean", found.mean()), ("sum", found.sum())):
        assert reference.sparse_cross_entropy(logits, index, weight, reduction).item() == pytest.approx(value.item())


@on_backends
def test_loss_at_chance(device: str, backend: str) -> None:
    """5.7462 = ln 313 where all bins are equally likely."""
    _, index, weight = functional.lab_bins(torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8, device=device))
    with fastssl.use_backend(backend):
        loss = sparse_cross_entropy(torch.full((2, 313, 8, 8), 3.25, device=device), index, weight)
    assert round(loss.item(), 4) == 5.7462


@on_types
def test_equals_the_dense_targets_of_torch(device: str, backend: str, dtype: torch.dtype) -> None:
    logits, index, weight = problem((3, 31, 4, 5), 6, dtype, device)
    index = index.clamp_min(0).long()
    exact = logits.double().requires_grad_()
    dense = torch.zeros(logits.shape, dtype=torch.float64, device=device).scatter_add(1, index, weight.double())
    with fastssl.use_backend(backend):
        for reduction in ("mean", "sum", "none"):
            leaf = logits.detach().requires_grad_()
            found = sparse_cross_entropy(leaf, index, weight, reduction)
            expected = F.cross_entropy(exact, dense, reduction="none")
            expected = expected if reduction == "none" else getattr(expected, reduction)()
            tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype != torch.float64 else {"rtol": 1e-12, "atol": 1e-12}
            torch.testing.assert_close(found.double(), expected, **tolerance)
            (grad,) = torch.autograd.grad(found.sum(), leaf)
            (of_dense,) = torch.autograd.grad(expected.sum(), exact)
            torch.testing.assert_close(grad, of_dense.to(dtype))


# Sizes of a vector and around it, of a tile, of more classes than a program keeps; single ones and primes.
SHAPES = (
    ((1, 1), 1), ((1, 2, 1), 2), ((7, 3), 1), ((3, 7, 5), 3), ((2, 313, 13, 5), 10), ((2, 313, 64), 10), ((129, 16), 2),
    ((1, 15, 129), 4), ((2, 100, 7, 3, 2), 5), ((5, 1025), 3), ((1, 2001, 18), 2), ((1000, 17), 3),
)  # fmt: skip


@on_types
@pytest.mark.parametrize("layout", LAYOUTS)
def test_shapes(device: str, backend: str, dtype: torch.dtype, layout: str, nan_filled: None) -> None:
    with fastssl.use_backend(backend):
        for i, (shape, count) in enumerate(SHAPES):
            index_type = (torch.int32, torch.int64)[i % 2]
            data = problem(shape, count, dtype, device, layout=layout, index_type=index_type)
            for reduction in REDUCTIONS if i % 3 == 1 else (REDUCTIONS[i % 3],):
                check(*data, reduction, (shape, layout, reduction))


@on_types
def test_scales(device: str, backend: str, dtype: torch.dtype) -> None:
    """Logits that are nearly equal, and those of which one has it all; weights of every size, and negative ones."""
    with fastssl.use_backend(backend):
        for scale, layout in itertools.product((1e-3, 30.0, 1000.0), ("columns", "rows")):
            logits, index, weight = problem((2, 50, 30), 4, dtype, device, scale, layout)
            check(logits, index, weight, "mean", (scale, layout))
            check(logits, index, 1e-12 * weight, "sum", (scale, layout, "small weights"))
            check(logits, index, (weight - 0.5) * 1e4, "none", (scale, layout, "negative weights"))
            check(logits + 3000, index, weight, "mean", (scale, layout, "offset"))


@on_backends
def test_weights_that_cancel(device: str, backend: str) -> None:
    """Of a sum of 0 there is no softmax in the gradient, but the targets."""
    logits = torch.randn(1, 20, 40, device=device)
    index = torch.randint(0, 20, (1, 2, 40), device=device)
    weight = torch.tensor([1.0, -1.0], device=device)[None, :, None].expand(1, 2, 40).contiguous()
    with fastssl.use_backend(backend):
        for layout in LAYOUTS:
            for reduction in ("sum", "none"):
                check(laid_out(logits, layout), index, weight, reduction, (layout, reduction))


@on_backends
def test_an_index_may_come_again_and_one_may_name_nothing(device: str, backend: str) -> None:
    logits = torch.randn(2, 9, 33, device=device)
    index = torch.full((2, 4, 33), 5, device=device)
    weight = torch.rand(2, 4, 33, device=device)
    with fastssl.use_backend(backend):
        check(logits, index, weight, "mean", "the same four times")
        index[:, 2:] = -1
        found = check(logits, index, weight, "none", "two of four")
        assert (found["weight"][:, 2:] == 0).all()
        ones = torch.ones(2, 33, device=device)
        fewer = evaluate(sparse_cross_entropy, logits, index[:, :2], weight[:, :2], "none", ones)
        every = evaluate(sparse_cross_entropy, logits, index, weight, "none", ones)
        torch.testing.assert_close(every["logits"], fewer["logits"])
        # Whatever the weight of what names nothing is.
        weight[:, 2:] = math.nan
        again = evaluate(sparse_cross_entropy, logits, index, weight, "none", ones)
        assert torch.equal(again["logits"], every["logits"])
        assert torch.equal(again["loss"], every["loss"])


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 4), classes=st.integers(1, 70), places=st.lists(st.integers(1, 9), max_size=3),
    count=st.integers(1, 12), layout=st.sampled_from(LAYOUTS), reduction=st.sampled_from(REDUCTIONS),
    wide=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
@pytest.mark.parametrize(("device", "backend"), runnable(OP))
def test_any_problem(
    device: str, backend: str, n: int, classes: int, places: list[int], count: int, layout: str, reduction: str,
    wide: bool, seed: int,
) -> None:  # fmt: skip
    torch.manual_seed(seed)
    kind = torch.int64 if wide else torch.int32
    with fastssl.use_backend(backend):
        data = problem((n, classes, *places), count, device=device, layout=layout, index_type=kind)
        check(*data, reduction, (n, classes, places, count, layout, seed))


@on_backends
@pytest.mark.parametrize("layout", ["columns", "rows"])
def test_nan_and_inf_reach_the_loss(device: str, backend: str, layout: str) -> None:
    logits, index, weight = problem((1, 40, 70), 3, device=device, layout=layout)
    index, weight = index.clamp_min(0), weight + 0.1
    with fastssl.use_backend(backend):
        clean = sparse_cross_entropy(logits, index, weight, "none")
        for place, bad in itertools.product((0, 31, 69), (math.nan, math.inf)):
            for q in (0, 17, 39):
                spoilt = logits.clone()
                spoilt[0, q, place] = bad
                leaf = spoilt.requires_grad_()
                found = sparse_cross_entropy(leaf, index, weight, "none")
                assert not found[0, place].isfinite()
                others = torch.arange(70, device=device) != place
                assert torch.equal(found[0, others], clean[0, others])
                (grad,) = torch.autograd.grad(found.sum(), leaf)
                assert grad[0, :, place].isnan().any()
                assert grad[0][:, others].isfinite().all()
                assert not sparse_cross_entropy(leaf, index, weight).isfinite()
        # A class that is ruled out costs nothing, unless it is a target.
        free = logits.clone()
        free[0, 7] = -math.inf
        never = torch.where(index == 7, 8, index)
        assert sparse_cross_entropy(free, never, weight, "none").isfinite().all()
        asked = torch.where(never == never[:, :1], 7, never)
        assert (sparse_cross_entropy(free, asked, weight, "none") == math.inf).all()
        spoilt = weight.clone()
        spoilt[0, 1, 4] = math.nan
        assert sparse_cross_entropy(logits, index, spoilt, "none").isnan().sum() == 1


def test_gradcheck() -> None:
    for layout, reduction in itertools.product(("columns", "rows"), REDUCTIONS):
        logits, index, weight = problem((2, 5, 3), 3, torch.float64, layout=layout)
        leaves = logits.requires_grad_(), weight.requires_grad_()
        assert torch.autograd.gradcheck(
            lambda z, w, index=index, reduction=reduction: sparse_cross_entropy(z, index, w, reduction), leaves
        )


@on_types
def test_opcheck(device: str, backend: str, dtype: torch.dtype) -> None:
    op = torch.ops.fastssl.sparse_cross_entropy.default
    for layout, early in itertools.product(("columns", "rows"), (False, True)):
        logits, index, weight = problem((2, 7, 5), 3, dtype, device, layout=layout)
        leaf = logits.requires_grad_()
        for reduction in (0, 1, 2) if not early else (0, 1):
            torch.library.opcheck(op, (leaf, index, weight.detach().requires_grad_(), reduction, early, backend))
        torch.library.opcheck(op, (leaf.detach(), index, weight.requires_grad_(), 0, False, backend))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", ["columns", "rows"])
def test_compiles_whole_with_a_dynamic_batch(device: str, layout: str) -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()

    def step(logits: Tensor, index: Tensor, weight: Tensor, reduction: str) -> Tensor:
        return sparse_cross_entropy(2 * logits, index, weight, reduction)

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager", dynamic=True)
    for n, reduction in itertools.product((2, 5, 7), ("mean", "none")):
        logits, index, weight = problem((n, 11, 4, 6), 3, device=device, layout=layout)
        upstream = torch.rand((n, 4, 6) if reduction == "none" else (), device=device)
        expected, found = (evaluate(f, logits, index, weight, reduction, upstream) for f in (step, compiled))
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2


@on_backends
def test_only_the_gradients_asked_for(device: str, backend: str) -> None:
    logits, index, weight = problem((2, 20, 9), 3, device=device)
    for reduction in REDUCTIONS:
        with fastssl.use_backend(backend):
            upstream = torch.ones((2, 9) if reduction == "none" else (), device=device)
            full = evaluate(sparse_cross_entropy, logits, index, weight, reduction, upstream)
            for name in ("logits", "weight"):
                leaf = (logits if name == "logits" else weight).detach().requires_grad_()
                given = (leaf, index, weight) if name == "logits" else (logits, index, leaf)
                sparse_cross_entropy(*given, reduction).sum().backward()
                torch.testing.assert_close(leaf.grad, full[name], rtol=0, atol=0)
            loss = sparse_cross_entropy(logits, index, weight, reduction)
            assert torch.equal(loss, full["loss"])
            assert not loss.requires_grad


@on_types
def test_backward_twice_gives_the_same(device: str, backend: str, dtype: torch.dtype) -> None:
    logits, index, weight = problem((2, 30, 9), 3, dtype, device)
    leaf = logits.requires_grad_()
    with fastssl.use_backend(backend):
        for factor in (1.0, 0.3):
            (expected,) = torch.autograd.grad(factor * sparse_cross_entropy(leaf, index, weight), leaf)
            loss = factor * sparse_cross_entropy(leaf, index, weight)
            for keep in (True, True, False):
                (grad,) = torch.autograd.grad(loss, leaf, retain_graph=keep)
                assert torch.equal(grad, expected)
                grad.zero_()  # a gradient is the caller's
        sparse_cross_entropy(leaf, index, weight).backward()
        first = leaf.grad.clone()
        sparse_cross_entropy(leaf, index, weight).backward()
        torch.testing.assert_close(leaf.grad, 2 * first)


@on_backends
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_second_derivatives_say_no(device: str, backend: str, reduction: str) -> None:
    logits, index, weight = problem((2, 20, 9), 3, device=device)
    leaf, of_weight = logits.requires_grad_(), weight.requires_grad_()
    with fastssl.use_backend(backend):
        for by in (leaf, of_weight):
            loss = sparse_cross_entropy(leaf, index, of_weight, reduction).sum()
            (grad,) = torch.autograd.grad(loss, by, create_graph=True)
            with pytest.raises(RuntimeError, match="sparse_cross_entropy has no second derivative; use create_graph"):
                torch.autograd.grad(grad.square().sum(), leaf)


@on_backends
def test_half_gradients_do_not_underflow_under_a_scaler(device: str, backend: str) -> None:
    logits, index, weight = problem((4, 30, 200), 3, torch.float16, device)
    with fastssl.use_backend(backend):
        leaf = logits.requires_grad_()
        (65536 * sparse_cross_entropy(leaf, index, 1e-3 * weight)).backward()
        exact = logits.detach().double().requires_grad_()
        (65536 * spec(exact, index, 1e-3 * weight.double(), "mean")).backward()
    torch.testing.assert_close(leaf.grad.double(), exact.grad, rtol=2e-3, atol=1e-7)


@on_backends
def test_bit_identical_for_any_number_of_threads(device: str, backend: str) -> None:
    torch.use_deterministic_algorithms(True)
    threads, runs = torch.get_num_threads(), []
    try:
        for layout in ("columns", "rows"):
            torch.manual_seed(1)
            data = problem((3, 50, 211), 4, device=device, layout=layout)
            runs = []
            for count in (1, 1, 2, 5):
                torch.set_num_threads(count)
                with fastssl.use_backend(backend):
                    runs.append(evaluate(sparse_cross_entropy, *data, "mean", torch.tensor(0.7)))
            same = runs[1:2] if backend == "torch" else runs[1:]  # PyTorch sums as it likes
            assert all(torch.equal(run[name], runs[0][name]) for run in same for name in run)
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(False)


@on_backends
def test_autocast_leaves_the_logits_as_they_are(device: str, backend: str) -> None:
    with fastssl.use_backend(backend):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            logits, index, weight = problem((2, 20, 9), 3, dtype, device)
            plain = evaluate(sparse_cross_entropy, logits, index, weight.to(dtype), "mean", torch.tensor(1.0))
            with torch.autocast(device, torch.bfloat16):
                found = evaluate(sparse_cross_entropy, logits, index, weight.to(dtype), "mean", torch.tensor(1.0))
            assert found["loss"].dtype == torch.float32
            assert (found["logits"].dtype, found["weight"].dtype) == (dtype, dtype)
            assert all(torch.equal(found[name], plain[name]) for name in plain)


@on_backends
def test_the_gradient_lies_as_the_logits_do(device: str, backend: str) -> None:
    logits, index, weight = problem((2, 20, 5, 4), 3, device=device)
    with fastssl.use_backend(backend):
        for form in (torch.contiguous_format, torch.channels_last):
            for reduction in ("mean", "none"):
                leaf = logits.contiguous(memory_format=form).requires_grad_()
                loss = sparse_cross_entropy(leaf, index, weight, reduction)
                (grad,) = torch.autograd.grad(loss.sum(), leaf)
                assert grad.is_contiguous(memory_format=form)


@on_backends
def test_what_is_kept_for_the_backward_pass(device: str, backend: str) -> None:
    """The gradient itself, or one number a place; neither softmax nor dense targets."""
    for dtype, reduction, kept in (
        (torch.float32, "mean", 4 * 50 * 18), (torch.bfloat16, "sum", 2 * 50 * 18), (torch.float16, "mean", 8 * 18),
        (torch.float32, "none", 8 * 18),
    ):  # fmt: skip
        logits, index, weight = problem((2, 50, 9), 3, dtype, device)
        found: dict[int, int] = {x.untyped_storage().data_ptr(): 0 for x in (logits, index, weight)}

        def pack(x: Tensor, found: dict[int, int] = found) -> Tensor:
            found.setdefault(x.untyped_storage().data_ptr(), x.untyped_storage().nbytes())
            return x

        with fastssl.use_backend(backend), torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            sparse_cross_entropy(logits.requires_grad_(), index, weight, reduction)
        assert sum(found.values()) == kept


@on_backends
def test_the_host_is_not_stalled(device: str, backend: str) -> None:
    logits, index, weight = problem((2, 20, 9), 3, device=device)
    leaf = logits.requires_grad_()
    with fastssl.use_backend(backend):
        sparse_cross_entropy(leaf, index, weight).backward()  # loads what is loaded once
        with no_synchronisation(device):
            for reduction in REDUCTIONS:
                sparse_cross_entropy(leaf, index, weight.requires_grad_(), reduction).sum().backward()


@pytest.mark.parametrize("dtype", TYPES)
def test_fake_tensors_for_cuda_need_no_cuda(dtype: torch.dtype) -> None:
    with FakeTensorMode():
        logits = torch.empty((2, 5, 9), dtype=dtype, device="cuda")
        index = torch.empty((2, 3, 9), dtype=torch.int32, device="cuda")
        weight = torch.empty((2, 3, 9), device="cuda")
        loss, lse, grad = torch.ops.fastssl.sparse_cross_entropy(logits, index, weight, 0, True, "auto")
    assert (loss.device.type, loss.shape, lse.dtype) == ("cuda", (), torch.float64)
    assert (grad.shape, grad.dtype) == (logits.shape, dtype)


GOOD = torch.zeros(2, 5, 3), torch.zeros(2, 4, 3, dtype=torch.int32), torch.zeros(2, 4, 3)


@pytest.mark.parametrize(
    ("change", "kind", "name", "got", "want"),
    [
        ({"logits": [[1.0]]}, TypeError, "logits", "list", "torch.Tensor"),
        ({"logits": GOOD[1]}, TypeError, "logits", "int32", "float"),
        ({"logits": torch.zeros(3)}, ValueError, "logits", r"\(3,\)", r"\[N, Q, \*\]"),
        ({"logits": torch.zeros(2, 0, 3)}, ValueError, "logits", r"\(2, 0, 3\)", "none empty"),
        ({"logits": torch.zeros(2, 5, 0)}, ValueError, "logits", r"\(2, 5, 0\)", "none empty"),
        ({"index": GOOD[2]}, TypeError, "index", "float32", "int32 or int64"),
        ({"index": GOOD[1].short()}, TypeError, "index", "int16", "int32 or int64"),
        ({"index": 3}, TypeError, "index", "int", "tensor"),
        ({"index": GOOD[1][0]}, ValueError, "index", r"\(4, 3\)", r"\[2, K, 3\]"),
        ({"index": GOOD[1][:, :0]}, ValueError, "index", r"\(2, 0, 3\)", "K >= 1"),
        ({"index": GOOD[1][..., :2]}, ValueError, "index", r"\(2, 4, 2\)", r"\[2, K, 3\]"),
        ({"index": GOOD[1] + 5}, ValueError, "index", "5", "from 0 to 4"),
        ({"index": GOOD[1] - 2}, ValueError, "index", "-2", "-1 for none"),
        ({"index": GOOD[1].to("meta")}, ValueError, "index", "meta", "cpu"),
        ({"weight": None}, TypeError, "weight", "NoneType", "torch.Tensor"),
        ({"weight": GOOD[1]}, TypeError, "weight", "int32", "float"),
        ({"weight": GOOD[2][:, :3]}, ValueError, "weight", r"\(2, 3, 3\)", r"\(2, 4, 3\)"),
        ({"weight": GOOD[2].double()}, TypeError, "weight", "float64", r"weight.float\(\)"),
        ({"weight": GOOD[2].to("meta")}, ValueError, "weight", "meta", "cpu"),
        ({"reduction": "median"}, ValueError, "reduction", "'median'", "'mean', 'sum', 'none'"),
    ],
)
def test_bad_input_is_refused(change: dict[str, Any], kind: type[Exception], name: str, got: str, want: str) -> None:
    arguments = dict(zip(("logits", "index", "weight"), GOOD, strict=True)) | change
    with pytest.raises(kind, match=rf"^{name}: got .*{got}.*, want .*{want}"):
        sparse_cross_entropy(**arguments)
