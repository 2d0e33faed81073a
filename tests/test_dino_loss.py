"""DINO's loss on every backend: worked numbers, accuracy, the op contract, memory, bad input."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from conftest import DEVICES, runnable
from distillation import assert_accurate, convert, each, evaluate, logits, problem
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import fastssl
from fastssl import reference
from fastssl.functional import dino_loss
from fastssl.kernels.torch import dino_loss as streaming

BATCHES = (1, 2, 3, 7, 64)
WIDTHS = (1, 3, 16, 127, 257, 1000, 4096, 65536)
VIEWS = ((2, 2), (10, 2), (12, 12), (1, 12), (12, 1), (3, 5))
HALVES = (torch.float16, torch.bfloat16)
TYPES = (torch.float64, torch.float32, *HALVES)
OP = "dino_loss"
on_backends = pytest.mark.parametrize(("device", "backend"), runnable(OP))
on_types = pytest.mark.parametrize(
    ("dtype", "device", "backend"), [(dtype, *where) for dtype in TYPES for where in runnable(OP, dtype)]
)
on_devices = pytest.mark.parametrize("device", DEVICES)


def by_hand(student: Tensor, teacher: Tensor, center: list[float], student_temp: float, teacher_temp: float,
            skip: bool) -> float:  # fmt: skip
    """The formula of the docstring in Python floats."""
    rows, width = range(student.shape[1]), range(student.shape[2])
    s, t = student.tolist(), teacher.tolist()
    pairs = [(i, v) for i in range(len(t)) for v in range(len(s)) if i != v or not skip]
    total = 0.0
    for i, v in pairs:
        for b in rows:
            q = [math.exp((t[i][b][k] - center[k]) / teacher_temp) for k in width]
            p = [math.exp(s[v][b][k] / student_temp) for k in width]
            total += sum(-q[k] / sum(q) * math.log(p[k] / sum(p)) for k in width) / len(rows) / len(pairs)
    return total


@pytest.mark.parametrize(("s", "t", "skip"), [(1, 1, False), (2, 2, True), (4, 2, True), (2, 3, True), (3, 2, False)])
def test_reference_equals_the_formula(s: int, t: int, skip: bool) -> None:
    student, teacher = problem(s, t, 3, 5, torch.float64)
    center = torch.randn(5, dtype=torch.float64)
    found = reference.dino_loss(student, teacher, center, 0.3, 0.2, skip)
    assert math.isclose(found, by_hand(student, teacher, center.tolist(), 0.3, 0.2, skip), rel_tol=1e-12)


def test_reference_of_views_of_different_batches() -> None:
    student, teacher = logits(2, (2, 5), 4, torch.float64), logits(2, (3, 4), 4, torch.float64, seed=1)
    pairs = ((teacher[0][:3], student[1][:3]), (teacher[1][:2], student[0]))  # rows in both, different views
    parts = [reference.dino_loss(s[None], t[None], skip_same_view=False) for t, s in pairs]
    torch.testing.assert_close(reference.dino_loss(student, teacher), sum(parts) / 2)


def test_reference_with_row_weights() -> None:
    student, teacher = problem(1, 1, 3, 4, torch.float64)
    rows = torch.stack([reference.dino_loss(student[:, [b]], teacher[:, [b]], skip_same_view=False) for b in range(3)])
    weights = torch.tensor([0.5, 0.0, -2.0], dtype=torch.float64)
    found = reference.dino_loss(student, teacher, skip_same_view=False, row_weights=weights)
    torch.testing.assert_close(found, (weights * rows).sum())


def test_reference_with_a_center_for_each_view() -> None:
    student, teacher = problem(3, 2, 3, 4, torch.float64)
    centers = torch.randn(2, 4, dtype=torch.float64)
    found = reference.dino_loss(student, teacher, centers)
    torch.testing.assert_close(found, reference.dino_loss(student, teacher - centers[:, None]))


@on_backends
@pytest.mark.parametrize("k", [1, 2, 1000, 65536])
def test_uniform_rows_cost_log_k(device: str, backend: str, k: int) -> None:
    student = torch.full((3, 2, k), 2.5, device=device, requires_grad=True)
    with fastssl.use_backend(backend):
        loss = dino_loss(student, torch.full((2, 2, k), -7.0, device=device))
        loss.backward()
    torch.testing.assert_close(loss.item(), math.log(k), rtol=1e-7, atol=1e-7)
    assert k != 65536 or abs(loss.item() - 11.090355) < 1e-6
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-7


@on_backends
def test_a_certain_teacher_costs_the_students_surprise(device: str, backend: str) -> None:
    student = torch.tensor([[[0.0, 0.1 * math.log(3)]]], device=device, requires_grad=True)  # p = 1/4, 3/4
    teacher = torch.tensor([[[0.0, 100.0]]], device=device)  # q = 0, 1
    with fastssl.use_backend(backend):
        loss = dino_loss(student, teacher, skip_same_view=False)
        loss.backward()
    assert math.isclose(loss.item(), math.log(4 / 3), rel_tol=1e-6)
    torch.testing.assert_close(student.grad, torch.tensor([[[2.5, -2.5]]], device=device))  # (p - q) / 0.1


@on_backends
@pytest.mark.parametrize("k", WIDTHS)
def test_accuracy_over_shapes(device: str, backend: str, k: int, nan_filled: None) -> None:
    with fastssl.use_backend(backend):
        for b in BATCHES if k <= 4096 else BATCHES[:3]:
            assert_accurate(*problem(3, 2, b, k, device=device), torch.randn(k, device=device))


@on_backends
@pytest.mark.parametrize(("s", "t"), VIEWS)
@pytest.mark.parametrize("skip", [True, False])
def test_accuracy_over_views(device: str, backend: str, s: int, t: int, skip: bool, nan_filled: None) -> None:
    with fastssl.use_backend(backend):
        for b, k in ((1, 5), (5, 100), (3, 1025)):
            student, teacher = problem(s, t, b, k, device=device)
            assert_accurate(student, teacher, torch.randn(t, k, device=device), skip_same_view=skip)


@on_types
@pytest.mark.parametrize("size", [1.0, 30.0, 1000.0])
@pytest.mark.parametrize("student_temp", [0.1, 1.0])
@pytest.mark.parametrize("teacher_temp", [0.04, 0.07, 1.0])
def test_accuracy_over_types_and_temperatures(
    dtype: torch.dtype, device: str, backend: str, size: float, student_temp: float, teacher_temp: float,
    nan_filled: None,
) -> None:  # fmt: skip
    with fastssl.use_backend(backend):
        for b, k in ((1, 16), (7, 3), (5, 257), (2, 4096)):
            student, teacher = problem(4, 2, b, k, dtype, device, size)
            center = (size * torch.randn(k)).to(device, dtype)
            assert_accurate(student, teacher, center, student_temp, teacher_temp)
            assert_accurate(student, teacher, None, student_temp, teacher_temp)


@on_backends
@pytest.mark.parametrize("dtypes", itertools.permutations(TYPES[1:], 2), ids=str)
def test_accuracy_of_a_teacher_of_another_type(
    device: str, backend: str, dtypes: tuple[torch.dtype, torch.dtype], nan_filled: None
) -> None:
    student, teacher = problem(5, 2, 4, 300, dtypes[0], device, teacher_dtype=dtypes[1])
    with fastssl.use_backend(backend):
        assert_accurate(student, teacher, torch.randn(300, device=device))


@on_backends
@pytest.mark.parametrize(
    ("student_rows", "teacher_rows"),
    [((6, 3), (4, 7)), ((5, 5, 2), (5, 5)), ((1, 8, 3, 8), (2,)), ((2,), (9, 1, 4)), ((3, 70), (70, 5))],
)
@pytest.mark.parametrize("weighted", [True, False])
def test_accuracy_of_views_of_different_batches(
    device: str, backend: str, student_rows: tuple[int, ...], teacher_rows: tuple[int, ...], weighted: bool,
    nan_filled: None,
) -> None:  # fmt: skip
    student = logits(0, student_rows, 130, device=device)
    teacher = logits(0, teacher_rows, 130, device=device, seed=1)
    rows = max(student_rows + teacher_rows)
    options = {"row_weights": torch.randn(rows, device=device)} if weighted else {}
    with fastssl.use_backend(backend):
        assert_accurate(student, teacher, torch.randn(130, device=device), **options)


@on_backends
def test_accuracy_of_stacks_in_a_list(device: str, backend: str, nan_filled: None) -> None:
    # 2 views of one size and 8 of another, as a multi-crop encoder gives them.
    student = [logits(2, 6, 200, device=device), logits(8, 4, 200, device=device, seed=1)]
    teacher = [logits(2, 6, 200, device=device, seed=2)]
    with fastssl.use_backend(backend):
        assert_accurate(student, teacher, torch.randn(200, device=device))


@on_backends
def test_accuracy_of_soft_targets(device: str, backend: str, nan_filled: None) -> None:
    student, teacher = problem(4, 2, 5, 90, device=device)
    for q in (teacher.softmax(-1), teacher.sigmoid(), teacher, torch.zeros_like(teacher)):  # of sum 1, or any other
        with fastssl.use_backend(backend):
            assert_accurate(student, q, soft_targets=True)
            assert_accurate(student, q, soft_targets=True, row_weights=torch.rand(5, device=device))


@on_backends
def test_accuracy_with_row_weights(device: str, backend: str, nan_filled: None) -> None:
    weights = torch.tensor([1.0, 0.0, -0.5, 1e-6, 1e4, 0.25, 3.0], device=device)
    with fastssl.use_backend(backend):
        assert_accurate(*problem(3, 2, 7, 60, device=device), row_weights=weights)


LAYOUTS: dict[str, Callable[[Tensor], Any]] = {
    "prototypes first": lambda x: x.permute(2, 0, 1).contiguous().permute(1, 2, 0),
    "images first": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "every second prototype": lambda x: x.repeat_interleave(2, 2)[..., ::2],
    "every second image": lambda x: x.repeat_interleave(2, 1)[:, ::2],
    "part of wider rows": lambda x: torch.nn.functional.pad(x, (3, 2))[..., 3:-2],
    "one image": lambda x: x[:, :1].expand_as(x),
    "one prototype": lambda x: x[..., :1].expand_as(x),
    "a list of chunks": lambda x: x.flatten(0, 1).chunk(len(x)),
    "a list of columns": lambda x: [view.T.contiguous().T for view in x],
}


@on_backends
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", TYPES[1:])
def test_accuracy_over_strides(device: str, backend: str, layout: str, dtype: torch.dtype, nan_filled: None) -> None:
    student, teacher = (LAYOUTS[layout](x) for x in problem(4, 2, 6, 37, dtype, device))
    with fastssl.use_backend(backend):
        assert_accurate(student, teacher, torch.randn(37, device=device))


@pytest.mark.parametrize("backend", sorted({backend for device, backend in runnable(OP) if device == "cpu"}))
@settings(max_examples=60, deadline=None)
@given(
    student_rows=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    teacher_rows=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    k=st.integers(1, 700),
    dtypes=st.tuples(st.sampled_from(TYPES[1:]), st.sampled_from(TYPES[1:])),
    temps=st.tuples(st.floats(0.02, 3), st.floats(0.02, 3)),
    size=st.floats(-3, 3),
    layout=st.sampled_from(("rows", "columns", "gaps")),
    weighted=st.booleans(),
    kind=st.sampled_from(("plain", "center", "centers", "soft")),
    skip=st.booleans(),
)
def test_any_problem(
    backend: str, student_rows: list[int], teacher_rows: list[int], k: int, dtypes: tuple[torch.dtype, torch.dtype],
    temps: tuple[float, float], size: float, layout: str, weighted: bool, kind: str, skip: bool,
) -> None:  # fmt: skip
    change = {"rows": lambda x: x, "columns": lambda x: x.T.contiguous().T, "gaps": lambda x: x.repeat(1, 2)[:, :k]}
    sides = zip((student_rows, teacher_rows), dtypes, (0, 1), strict=True)
    student, teacher = (
        convert(logits(0, tuple(rows), k, dtype, size=10**size, seed=seed), change[layout])
        for rows, dtype, seed in sides
    )
    center = {"center": torch.randn(k), "centers": torch.randn(len(teacher), k)}.get(kind)
    options: dict[str, Any] = {"skip_same_view": skip and len(student) + len(teacher) > 2}
    if weighted:
        options["row_weights"] = torch.randn(max(student_rows + teacher_rows))
    if kind == "soft":
        teacher, options["soft_targets"] = convert(teacher, lambda x: x.softmax(-1)), True
    with fastssl.use_backend(backend):
        assert_accurate(student, teacher, center, *temps, **options)


@on_types
def test_kept_norms(dtype: torch.dtype, device: str, backend: str, nan_filled: None) -> None:
    students, teachers = logits(0, (6, 3), 300, dtype, device), logits(0, (6, 5), 300, dtype, device, seed=1)
    center, tau, temp = (torch.tensor(x, dtype=torch.float64) for x in ([0.3] * 300, 0.1, 0.04))
    center = center.to(device, dtype if dtype == torch.float64 else torch.float32)[None]
    for soft in (False, True):
        args = [x[None] for x in students], [x[None] for x in teachers], None if soft else center, tau, temp, None
        _, lse, norm = torch.ops.fastssl.dino_loss(*args, True, soft, backend)
        q = [x.double() if soft else (x.double() - center[0]) / temp.item() for x in teachers]
        for found, rows in ((lse, [(x.double() / tau.item()).logsumexp(1) for x in students]),
                            (norm, [x.sum(1) if soft else x.logsumexp(1) for x in q])):  # fmt: skip
            assert found.dtype == torch.float64
            exact = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)  # rows that a view lacks are 0
            torch.testing.assert_close(found, exact, rtol=1e-6, atol=1e-5)


@on_backends
@pytest.mark.parametrize("side", ["student", "teacher"])
def test_a_constant_on_a_row_changes_nothing(device: str, backend: str, side: str) -> None:
    student, teacher = ((x * 256).round() / 256 for x in problem(4, 2, 5, 300, device=device))  # sums are exact
    shift = torch.tensor([-512.0, 64.0, 0.0, 1024.0, 2048.0], device=device)[:, None]
    moved = (student + shift, teacher) if side == "student" else (student, teacher + shift)
    with fastssl.use_backend(backend):
        plain, shifted = (
            evaluate(dino_loss, *views, None, 0.1, 0.04, 1.0, {}) for views in ((student, teacher), moved)
        )
    for name, value in plain.items():
        torch.testing.assert_close(shifted[name], value, rtol=3e-5, atol=3e-6)


@on_backends
def test_gradients_of_a_row_sum_to_0(device: str, backend: str) -> None:
    student, teacher = problem(10, 2, 6, 4096, device=device)
    with fastssl.use_backend(backend):
        grad = evaluate(dino_loss, student, teacher, torch.randn(4096, device=device), 0.1, 0.04, 1.0, {})["student 0"]
    assert (grad.sum(-1).abs() < 1e-6 * grad.abs().sum(-1)).all()


@on_backends
@pytest.mark.parametrize(("k", "peak"), [(50, 501.3125), (40000, 502.0)])
def test_small_losses_of_large_logits_keep_their_digits(device: str, backend: str, k: int, peak: float) -> None:
    student, teacher = (torch.full((2, 3, k), 500.0, device=device) for _ in range(2))
    student[..., 7], teacher[..., 7] = peak, 503.0
    exact = reference.dino_loss(student.double(), teacher.double())
    with fastssl.use_backend(backend):
        loss = dino_loss(student, teacher)
    assert 0 < exact < 1e-4
    torch.testing.assert_close(loss.double(), exact, rtol=3e-3, atol=0)  # lse - dot in float32 would be off by 5e-4


@on_backends
@pytest.mark.parametrize("poison", [math.nan, math.inf])
@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("k", [40, 40000])
def test_nan_and_inf_reach_the_loss(device: str, backend: str, poison: float, side: int, k: int) -> None:
    views = problem(3, 2, 3, k, device=device)
    views[side][1, 2, 3] = poison
    with fastssl.use_backend(backend):
        assert dino_loss(*views).isnan()
        assert side == 0 or not dino_loss(views[0], views[1], soft_targets=True).isfinite()


@on_backends
def test_nan_in_center_and_weights_reaches_the_loss(device: str, backend: str) -> None:
    views = problem(3, 2, 3, 20, device=device)
    center, weights = torch.zeros(20, device=device), torch.ones(3, device=device)
    center[4] = weights[1] = math.nan
    with fastssl.use_backend(backend):
        assert dino_loss(*views, center).isnan()
        assert dino_loss(*views, row_weights=weights).isnan()


@on_backends
def test_masked_prototypes_of_a_teacher_have_no_probability(device: str, backend: str) -> None:
    student, teacher = problem(3, 2, 4, 40000, device=device)
    masked = teacher.clone()
    masked[..., 5:39000] = -math.inf
    with fastssl.use_backend(backend):
        values = [evaluate(dino_loss, student, x, None, 0.1, 0.04, 1.0, {}) for x in (masked, teacher.masked_fill(
            masked == -math.inf, -1e6))]  # fmt: skip
    for name, value in values[1].items():
        torch.testing.assert_close(values[0][name], value)


@on_backends
def test_rows_of_no_pair_do_not_matter(device: str, backend: str) -> None:
    student, teacher = logits(0, (6, 4), 30, device=device), logits(0, (4, 3), 30, device=device, seed=1)
    with fastssl.use_backend(backend):
        found = evaluate(dino_loss, student, teacher, None, 0.1, 0.04, 1.0, {})
        student[0][3:] = math.nan  # view 0 meets the 3 images of the teacher's view 1 alone
        assert dino_loss(student, teacher) == found["loss"].float()
    assert (found["student 0"][3:] == 0).all()


@on_backends
def test_output_types(device: str, backend: str) -> None:
    with fastssl.use_backend(backend):
        for dtype in TYPES[1:]:
            student, teacher = problem(3, 2, 5, 8, dtype, device)
            loss = dino_loss(student.requires_grad_(), teacher)
            assert (loss.dtype, loss.shape) == (torch.float32, ())
            loss.backward()
            assert student.grad is not None
            assert (student.grad.dtype, student.grad.shape) == (dtype, student.shape)


@on_backends
def test_bit_identical_from_run_to_run(device: str, backend: str) -> None:
    torch.use_deterministic_algorithms(True)
    views = problem(10, 2, 33, 3000, device=device)
    with fastssl.use_backend(backend):
        first, second = (evaluate(dino_loss, *views, None, 0.1, 0.04, 1.0, {}) for _ in range(2))
    torch.use_deterministic_algorithms(False)
    assert all(torch.equal(first[name], second[name]) for name in first)


@on_backends
@pytest.mark.parametrize("threads", [1, 2, 3, 5, 16])
def test_any_number_of_threads(device: str, backend: str, threads: int, nan_filled: None) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with fastssl.use_backend(backend):
            for b, k in ((1, 3000), (17, 100), (130, 33)):
                assert_accurate(*problem(4, 2, b, k, device=device))
    finally:
        torch.set_num_threads(before)


@on_backends
def test_only_the_gradients_asked_for(device: str, backend: str) -> None:
    student, teacher = logits(0, (4, 4, 3), 20, device=device), logits(2, 4, 20, device=device, seed=1)
    full = evaluate(dino_loss, student, teacher, None, 0.1, 0.04, 1.0, {})
    with fastssl.use_backend(backend):
        for wanted in itertools.product((True, False), repeat=3):
            leaves = [x.clone().requires_grad_(w) for x, w in zip(student, wanted, strict=True)]
            tau = torch.tensor(0.1, device=device, requires_grad=True)
            dino_loss(leaves, teacher, None, tau).backward()
            assert [x.grad is not None for x in leaves] == list(wanted)
            for i, x in enumerate(leaves):
                if x.grad is not None:
                    torch.testing.assert_close(x.grad.double().cpu(), full[f"student {i}"], rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(tau.grad.double().cpu(), full["student_temp"], rtol=1e-4, atol=1e-5)


def test_nothing_flows_to_the_teacher() -> None:
    student, teacher = problem(3, 2, 4, 6)
    center, temp, weights = torch.zeros(6), torch.tensor(0.04), torch.ones(4)
    data = [x.requires_grad_() for x in (teacher, center, temp, weights)]
    assert not dino_loss(student, teacher, center, 0.1, temp, row_weights=weights).requires_grad
    dino_loss(student.requires_grad_(), teacher, center, 0.1, temp, row_weights=weights).backward()
    assert all(x.grad is None for x in data)


def test_a_center_may_be_updated_before_the_backward_pass() -> None:
    student, teacher = problem(3, 2, 4, 6)
    center = torch.randn(6)
    (expected,) = torch.autograd.grad(dino_loss(student.requires_grad_(), teacher, center), student)
    loss = dino_loss(student, teacher, center)
    center.mul_(0.9).add_(1.0)
    torch.testing.assert_close(torch.autograd.grad(loss, student)[0], expected, rtol=0, atol=0)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_gradcheck(soft: bool, weighted: bool) -> None:
    student, teacher = [x.double().requires_grad_() for x in logits(0, (4, 2, 3), 5)], logits(2, 4, 5).double()
    tau = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    options: dict[str, Any] = {"soft_targets": soft, "row_weights": torch.randn(4) if weighted else None}
    center = None if soft else torch.randn(5)
    assert torch.autograd.gradcheck(
        lambda tau, *views: dino_loss(views, teacher, center, tau, 0.3, **options), (tau, *student)
    )


def test_second_derivatives_say_no() -> None:
    student, teacher = problem(3, 2, 4, 6)
    (first,) = torch.autograd.grad(dino_loss(student.requires_grad_(), teacher), student, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative; use create_graph=False"):
        first.sum().backward()


@on_types
@pytest.mark.parametrize("kind", ["stacks", "list", "soft"])
def test_opcheck(dtype: torch.dtype, device: str, backend: str, kind: str) -> None:
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    if kind == "list":
        students, teachers = ([x[None] for x in logits(0, rows, 7, dtype, device)] for rows in ((4, 3), (2, 5)))
    else:
        students, teachers = ([x] for x in problem(3, 2, 4, 7, dtype, device))
    center = None if kind == "soft" else torch.randn(1, 7, dtype=exact, device=device)
    weights = torch.rand(5, dtype=exact, device=device) if kind == "list" else None
    tau = torch.tensor(0.5, dtype=exact, device=device)
    data = students, teachers, center, tau, torch.tensor(0.04), weights
    args = [x.requires_grad_() for x in students], teachers, center, tau.requires_grad_(), *data[4:]
    torch.library.opcheck(torch.ops.fastssl.dino_loss.default, (*args, True, kind == "soft", backend))
    with torch.no_grad():
        loss, *norms = torch.ops.fastssl.dino_loss(*args, True, kind == "soft", backend)
    detached = [x.detach() for x in students], teachers, center, tau.detach(), *data[4:]
    call = (torch.ones_like(loss), *detached, *norms, True, kind == "soft", backend)
    torch.library.opcheck(torch.ops.fastssl.dino_loss_backward.default, call)


@on_devices
def test_compile_fullgraph_with_dynamic_batch(device: str) -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(dino_loss, fullgraph=True, dynamic=True, backend="aot_eager")
    for b, teacher_temp in ((4, 0.04), (7, 0.045), (12, 0.05), (5, 0.06), (30, 0.07)):  # a schedule of floats
        student, teacher = problem(10, 2, b, 24, device=device)
        center = torch.randn(24, device=device)
        expected, found = (
            evaluate(f, student, teacher, center, 0.1, teacher_temp, 1.7, {}) for f in (dino_loss, compiled)
        )
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2


@on_devices
def test_compile_of_lists_of_views(device: str) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(dino_loss, fullgraph=True, dynamic=True, backend="aot_eager")
    for b in (4, 9):
        student = [logits(2, b, 24, device=device), *logits(0, (b, b - 2), 24, device=device, seed=1)]
        teacher = logits(0, (b, b), 24, device=device, seed=2)
        options = {"row_weights": torch.rand(b, device=device)}
        expected, found = (evaluate(f, student, teacher, None, 0.1, 0.04, 1.7, options) for f in (dino_loss, compiled))
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value)


def test_compile_with_inductor() -> None:
    torch._dynamo.reset()
    student, teacher = problem(3, 2, 4, 20)
    expected, found = (
        evaluate(f, student, teacher, torch.ones(20), 0.1, 0.04, 1.7, {})
        for f in (dino_loss, torch.compile(dino_loss, fullgraph=True))
    )
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


@pytest.mark.parametrize("dtype", TYPES)
def test_fake_tensors_for_cuda_need_no_cuda(dtype: torch.dtype) -> None:
    with FakeTensorMode():
        students, teachers = ([torch.empty(v, b, 9, dtype=dtype, device="cuda")] for v, b in ((10, 4), (2, 6)))
        tau = torch.empty(())
        loss, lse, norm = torch.ops.fastssl.dino_loss(students, teachers, None, tau, tau, None, True, False, "auto")
    assert (loss.device.type, loss.shape) == ("cuda", ())
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert (lse.shape, norm.shape) == ((10, 4), (2, 6))
    assert lse.dtype == norm.dtype == torch.float64


@on_devices
@pytest.mark.parametrize("dtype", HALVES)
def test_autocast_leaves_the_logits_as_they_are(device: str, dtype: torch.dtype) -> None:
    student, teacher = problem(3, 2, 4, 30, dtype, device, teacher_dtype=torch.float32)
    plain = evaluate(dino_loss, student, teacher, None, 0.1, 0.04, 1.0, {})
    with torch.autocast(device, dtype):
        found = evaluate(dino_loss, student, teacher, None, 0.1, 0.04, 1.0, {})
    assert all(torch.equal(found[name], plain[name]) for name in plain)


def saved_bytes(call: Callable[[], Tensor], inputs: list[Tensor]) -> int:
    """Bytes that a forward pass keeps for the backward pass, its inputs apart."""
    known = {x.untyped_storage().data_ptr() for x in inputs}
    kept: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        if x.untyped_storage().data_ptr() not in known:
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loss = call()
    loss.backward()
    return sum(kept.values())


@on_backends
def test_two_numbers_a_row_are_saved(device: str, backend: str) -> None:
    student, teacher = (x.bfloat16() for x in problem(10, 2, 8, 5000, device=device))
    with fastssl.use_backend(backend):
        kept = saved_bytes(lambda: dino_loss(student.requires_grad_(), teacher), [student, teacher])
    assert kept <= 8 * (10 + 2) * 8 + 16  # and both temperatures


class _Largest(TorchDispatchMode):
    """The largest number of elements of a result that does not share an input's memory."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and not func.is_view:
            self.elements = max(self.elements, out.numel())
        return out


@pytest.mark.parametrize(
    ("s", "t", "b", "k"), [(10, 2, 4, 65536), (12, 12, 2, 65536), (2, 1, 1, 2**20), (2, 2, 5000, 64)]
)
def test_streaming_takes_blocks(s: int, t: int, b: int, k: int) -> None:
    students, teachers = ([x] for x in problem(s, t, b, k, torch.bfloat16))
    data = students, teachers, torch.zeros(1, k), torch.tensor(0.1), torch.tensor(0.04), None
    with _Largest() as forward:
        _, *norms = streaming.dino_loss_fwd(*data, True, False)
    assert forward.elements <= streaming.BLOCK["cpu"]
    grads = sum(x.numel() for x in students)
    with _Largest() as backward:
        streaming.dino_loss_bwd(torch.ones(()), *data, *norms, True, False)
    assert backward.elements in (grads, streaming.BLOCK["cpu"]) or backward.elements < streaming.BLOCK["cpu"]


@contextlib.contextmanager
def no_synchronisation(device: str) -> Iterator[None]:
    if device == "cpu":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@on_backends
def test_the_host_is_not_stalled(device: str, backend: str) -> None:
    student, teacher = problem(4, 2, 5, 60, device=device)
    student.requires_grad_()
    center, weights = torch.zeros(60, device=device), torch.ones(5, device=device)
    tau, temp = (torch.tensor(x, device=device, requires_grad=True) for x in (0.1, 0.04))
    with fastssl.use_backend(backend):
        dino_loss(student, teacher).backward()  # loads what is loaded once
        with no_synchronisation(device):
            dino_loss(student, teacher, center, 0.1, 0.05, row_weights=weights).backward()
            dino_loss(student, teacher, center, tau, temp, row_weights=weights).backward()
    assert tau.grad is not None


GOOD, OTHER = torch.zeros(2, 4, 3), torch.zeros(2, 4, 3)
ONE = torch.zeros(1, 4, 3)
META = torch.empty(2, 4, 3, device="meta")
VIEW = torch.zeros(4, 3)

# call, error, argument, got, want
BAD: list[tuple[Callable[[], Any], type[Exception], str, str, str]] = [
    (lambda: dino_loss(None, GOOD), TypeError, "student_logits", "NoneType", r"\[V, B, K\] or a list"),
    (lambda: dino_loss(GOOD, "x"), TypeError, "teacher_logits", "str", r"\[V, B, K\] or a list"),
    (lambda: dino_loss(GOOD.long(), GOOD), TypeError, "student_logits", "int64", "float32"),
    (lambda: dino_loss(GOOD, GOOD.bool()), TypeError, "teacher_logits", "bool", "float32"),
    (lambda: dino_loss(VIEW, GOOD), ValueError, "student_logits", r"\(4, 3\)", r"\[V, B, K\]"),
    (lambda: dino_loss(GOOD, GOOD[None]), ValueError, "teacher_logits", r"\(1, 2, 4, 3\)", r"\[V, B, K\]"),
    (lambda: dino_loss(GOOD[:, :0], GOOD), ValueError, "student_logits", r"\(2, 0, 3\)", r"\[V, B, K\]"),
    (lambda: dino_loss(GOOD[:0], GOOD), ValueError, "student_logits", r"\(0, 4, 3\)", r"\[V, B, K\]"),
    (lambda: dino_loss(GOOD, GOOD[..., :0]), ValueError, "teacher_logits", r"\(2, 4, 0\)", r"\[V, B, K\]"),
    (lambda: dino_loss([], GOOD), ValueError, "student_logits", "empty list", "at least one view"),
    (lambda: dino_loss([VIEW, None], GOOD), TypeError, r"student_logits\[1\]", "NoneType", "torch.Tensor"),
    (lambda: dino_loss([VIEW, VIEW[0]], GOOD), ValueError, r"student_logits\[1\]", r"\(3,\)", r"\[B, K\]"),
    (lambda: dino_loss([VIEW, VIEW[:0]], GOOD), ValueError, r"student_logits\[1\]", r"\(0, 3\)", r"\[B, K\]"),
    (lambda: dino_loss([VIEW, VIEW[:, :2]], GOOD), ValueError, r"student_logits\[1\]", "2", "student_logits"),
    (lambda: dino_loss([VIEW, VIEW.half()], GOOD), TypeError, r"student_logits\[1\]", "float16", "float32"),
    (lambda: dino_loss(GOOD, [VIEW, META[0]]), ValueError, r"teacher_logits\[1\]", "meta", "cpu"),
    (lambda: dino_loss(GOOD, GOOD[..., :2]), ValueError, "teacher_logits", "width 2", "student_logits, 3"),
    (lambda: dino_loss(GOOD, META), ValueError, "teacher_logits", "meta", "cpu"),
    (lambda: dino_loss(GOOD, GOOD.double()), TypeError, "teacher_logits", "float64", "float64 for both"),
    (lambda: dino_loss(GOOD.double(), GOOD), TypeError, "teacher_logits", "float32", "float64 for both"),
    (lambda: dino_loss(ONE, ONE), ValueError, "skip_same_view", "one view on each side", "False"),
    (lambda: dino_loss([VIEW], ONE), ValueError, "skip_same_view", "one view on each side", "False"),
    (lambda: dino_loss(GOOD, OTHER, 0.5), TypeError, "center", "float", r"\[3\] or \[2, 3\]"),
    (lambda: dino_loss(GOOD, OTHER, torch.zeros(3).int()), TypeError, "center", "int32", r"\[3\] or \[2, 3\]"),
    (lambda: dino_loss(GOOD, OTHER, torch.zeros(4)), ValueError, "center", r"\(4,\)", r"\[3\] or \[2, 3\]"),
    (lambda: dino_loss(GOOD, OTHER, torch.zeros(1, 3)), ValueError, "center", r"\(1, 3\)", r"\[3\] or \[2, 3\]"),
    (lambda: dino_loss(GOOD, OTHER, META[0, 0]), ValueError, "center", "meta", "cpu"),
    (
        lambda: dino_loss(GOOD, OTHER, torch.zeros(3), soft_targets=True),
        ValueError, "center", "soft_targets", "None",
    ),
    (lambda: dino_loss(GOOD, OTHER, row_weights=[1.0] * 4), TypeError, "row_weights", "list", r"\[4\]"),
    (lambda: dino_loss(GOOD, OTHER, row_weights=torch.ones(4).long()), TypeError, "row_weights", "int64", r"\[4\]"),
    (lambda: dino_loss(GOOD, OTHER, row_weights=torch.ones(3)), ValueError, "row_weights", r"\(3,\)", r"\[4\]"),
    (lambda: dino_loss(GOOD, OTHER, row_weights=META[0, :, 0]), ValueError, "row_weights", "meta", "cpu"),
    (lambda: dino_loss(GOOD, [*OTHER, torch.zeros(6, 3)], row_weights=torch.ones(4)), ValueError, "row_weights",
     r"\(4,\)", r"\[6\]"),
    (lambda: dino_loss(GOOD, OTHER, None, 0), ValueError, "student_temp", "0", "> 0"),
    (lambda: dino_loss(GOOD, OTHER, None, math.nan), ValueError, "student_temp", "nan", "finite"),
    (lambda: dino_loss(GOOD, OTHER, None, "hot"), TypeError, "student_temp", "str", "number"),
    (lambda: dino_loss(GOOD, OTHER, None, 0.1, -0.04), ValueError, "teacher_temp", "-0.04", "> 0"),
    (lambda: dino_loss(GOOD, OTHER, None, 0.1, math.inf), ValueError, "teacher_temp", "inf", "finite"),
    (lambda: dino_loss(GOOD, OTHER, None, 0.1, torch.ones(1)), ValueError, "teacher_temp", r"\(1,\)", "0-d"),
    (lambda: dino_loss(GOOD, OTHER, None, 0.1, META[0, 0, 0]), ValueError, "teacher_temp", "meta", "cpu"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "argument", "got", "want"), BAD)
def test_bad_input(call: Callable[[], Any], error: type[Exception], argument: str, got: str, want: str) -> None:
    with pytest.raises(error, match=rf"{argument}: got .*{got}.*want .*{want}"):
        call()


def test_a_forced_backend_that_cannot_run_says_why() -> None:
    student, teacher = problem(2, 2, 3, 4, torch.float64)
    with fastssl.use_backend("cuda"), pytest.raises(RuntimeError, match="'cuda' cannot run dino_loss"):
        dino_loss(student, teacher)


@on_devices
def test_an_unchecked_temperature_that_is_not_positive_gives_no_number(device: str) -> None:
    students, teachers = ([x] for x in problem(2, 2, 3, 4, device=device))
    good = torch.tensor(0.1, device=device)
    for backend in (backend for where, backend in runnable(OP) if where == device):
        for bad in (torch.zeros_like(good), -good):
            for temps in ((bad, good), (good, bad)):
                args = students, teachers, None, *temps, None, True, False, backend
                assert not torch.ops.fastssl.dino_loss(*args)[0].isfinite()


def test_each_item_of_a_stack_is_a_view() -> None:
    student, teacher = problem(5, 2, 3, 8)
    whole = dino_loss(student, teacher)
    torch.testing.assert_close(dino_loss([student[:2], student[2], student[3:]], list(teacher)), whole)
    assert len(each([student[:2], student[2], student[3:]])) == 5
