"""DINO's loss on every backend: worked numbers and accuracy."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import runnable
from distillation import assert_accurate, convert, evaluate, logits, problem
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import fastssl
from fastssl import reference
from fastssl.functional import dino_loss

BATCHES = (1, 2, 3, 7, 64)
WIDTHS = (1, 3, 16, 127, 257, 1000, 4096, 65536)
VIEWS = ((2, 2), (10, 2), (12, 12), (1, 12), (12, 1), (3, 5))
TYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
OP = "dino_loss"
on_backends = pytest.mark.parametrize(("device", "backend"), runnable(OP))
on_types = pytest.mark.parametrize(
    ("dtype", "device", "backend"), [(dtype, *where) for dtype in TYPES for where in runnable(OP, dtype)]
)


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
        _, lse, norm, _ = torch.ops.fastssl.dino_loss(*args, True, soft, backend)
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
