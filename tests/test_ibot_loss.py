"""iBOT's loss: the formula, and DINO's kernels under weights of patches."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from accuracy import ROUNDINGS, assert_close_to_exact
from conftest import DEVICES, runnable
from distillation import problem, sizes_of_terms
from torch import Tensor

import fastssl
from fastssl import reference
from fastssl.functional import dino_loss, ibot_loss

TYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
on_backends = pytest.mark.parametrize(("device", "backend"), runnable("dino_loss"))
on_types = pytest.mark.parametrize(
    ("dtype", "device", "backend"), [(dtype, *where) for dtype in TYPES for where in runnable("dino_loss", dtype)]
)


def patches(m: int, k: int, dtype: torch.dtype = torch.float32, device: str = "cpu") -> tuple[Tensor, Tensor]:
    student, teacher = problem(1, 1, m, k, dtype, device)
    return student[0], teacher[0]


def values(
    form: Callable[..., Tensor], student: Tensor, teacher: Tensor, center: Tensor | None, **options: Any
) -> dict[str, Tensor]:
    student = student.detach().requires_grad_()
    exact = torch.float64 if student.dtype == torch.float64 else torch.float32
    tau = torch.tensor(0.125, dtype=exact, device=student.device, requires_grad=True)
    loss = form(student, teacher, center, tau, 0.04, **options)
    grads = torch.autograd.grad(loss, (student, tau), torch.tensor(1.7).to(loss))
    found = zip(("loss", "student 0", "student_temp"), (loss, *grads), strict=True)
    return {name: x.detach().double().cpu() for name, x in found}


def test_reference_equals_the_formula() -> None:
    student, teacher = patches(3, 4, torch.float64)
    center, weights = torch.tensor([0.1, -0.2, 0.3, 0.0], dtype=torch.float64), [0.5, 0.25, 1.0]
    total = 0.0
    for s, t, w in zip(student.tolist(), teacher.tolist(), weights, strict=True):
        q = [math.exp((x - c) / 0.2) for x, c in zip(t, center.tolist(), strict=True)]
        p = [math.exp(x / 0.3) for x in s]
        total -= w * sum(a / sum(q) * math.log(b / sum(p)) for a, b in zip(q, p, strict=True)) / 2
    found = reference.ibot_loss(student, teacher, center, 0.3, 0.2, weights=torch.tensor(weights), samples=2)
    assert math.isclose(found, total, rel_tol=1e-12)


@on_backends
def test_uniform_patches_cost_log_k(device: str, backend: str) -> None:
    uniform = torch.zeros(5, 1000, device=device)
    with fastssl.use_backend(backend):
        assert math.isclose(ibot_loss(uniform, uniform), math.log(1000), rel_tol=1e-6)
        halves = torch.full((5,), 0.5, device=device)
        assert math.isclose(
            ibot_loss(uniform, uniform, weights=halves, samples=4), 0.625 * math.log(1000), rel_tol=1e-6
        )


@on_backends
def test_images_count_alike_whatever_their_masked_patches(device: str, backend: str) -> None:
    student, teacher = patches(7, 50, device=device)
    counts = torch.tensor([1, 4, 2])  # and a fourth image without any
    weights = (1 / counts.repeat_interleave(counts)).to(device)
    with fastssl.use_backend(backend):
        parts = [
            ibot_loss(s, t) for s, t in zip(student.split(counts.tolist()), teacher.split(counts.tolist()), strict=True)
        ]
        found = ibot_loss(student, teacher, weights=weights, samples=4)
    torch.testing.assert_close(found, sum(parts) / 4)


@on_types
@pytest.mark.parametrize(("m", "k"), [(1, 1), (1, 300), (3, 16), (7, 1000), (64, 127), (300, 33), (2, 65536)])
@pytest.mark.parametrize("kind", ["mean", "weights", "soft"])
def test_accuracy(
    dtype: torch.dtype, device: str, backend: str, m: int, k: int, kind: str, nan_filled: None
) -> None:  # fmt: skip
    student, teacher = patches(m, k, dtype, device)
    center = None if kind == "soft" else torch.randn(k, device=device)
    options: dict[str, Any] = {"soft_targets": kind == "soft"}
    if kind == "soft":
        teacher = teacher.softmax(-1)
    if kind == "weights":
        options |= {"weights": torch.rand(m, device=device), "samples": 3}
    doubles = (x if x is None else x.double() for x in (student, teacher, center))
    exact = values(reference.ibot_loss, *doubles, **options)
    eager = values(reference.ibot_loss, student, teacher, center, **options)
    with fastssl.use_backend(backend):
        kernel = values(ibot_loss, student, teacher, center, **options)
    rows = options["weights"] / 3 if kind == "weights" else None
    one = student[None], teacher[None], center, 0.125, 0.04, 1.7, ROUNDINGS[dtype], False, rows, kind == "soft"
    terms = {name: x.reshape(exact[name].shape) for name, x in sizes_of_terms(*one).items()}
    largest = 100.0 if dtype == torch.float64 else 0.0  # what float64 keeps log-sum-exps of
    assert_close_to_exact(kernel, eager, exact, terms, dtype, largest, f"{m} {k} {kind}")


@on_backends
def test_it_is_dino_loss_of_one_view(device: str, backend: str) -> None:
    student, teacher = patches(6, 40, device=device)
    with fastssl.use_backend(backend):
        same = dino_loss(student[None], teacher[None], skip_same_view=False)
        torch.testing.assert_close(ibot_loss(student, teacher), same, rtol=0, atol=0)


def test_samples_divide_the_mean_as_well() -> None:
    student, teacher = patches(6, 40)
    torch.testing.assert_close(ibot_loss(student, teacher, samples=4), reference.ibot_loss(student, teacher, samples=4))


def test_nothing_flows_to_the_teacher_or_the_weights() -> None:
    student, teacher = patches(6, 10)
    data = [teacher.requires_grad_(), torch.zeros(10, requires_grad=True), torch.ones(6, requires_grad=True)]
    ibot_loss(student.requires_grad_(), *data[:2], weights=data[2]).backward()
    assert student.grad is not None
    assert all(x.grad is None for x in data)


def test_gradcheck() -> None:
    student, teacher = patches(4, 5, torch.float64)
    tau = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda s, tau: ibot_loss(s, teacher, None, tau, 0.3, weights=torch.rand(4, generator=torch.manual_seed(0))),
        (student.requires_grad_(), tau),
    )


@on_backends
def test_nan_reaches_the_loss(device: str, backend: str) -> None:
    with fastssl.use_backend(backend):
        for side in (0, 1):
            both = patches(6, 10, device=device)
            both[side][4, 3] = math.nan
            assert ibot_loss(*both).isnan()
        assert ibot_loss(*patches(6, 10, device=device), weights=torch.full((6,), math.nan, device=device)).isnan()


@pytest.mark.parametrize("device", DEVICES)
def test_compile_fullgraph_with_any_number_of_patches(device: str) -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(ibot_loss, fullgraph=True, dynamic=True, backend="aot_eager")
    for m, samples, temp in ((4, 2, 0.04), (9, 3, 0.045), (30, 5, 0.05), (17, 6, 0.06)):
        student, teacher = patches(m, 12, device=device)
        options = {"weights": torch.rand(m, device=device), "samples": samples}
        losses = [f(student.requires_grad_(), teacher, None, 0.1, temp, **options) for f in (ibot_loss, compiled)]
        torch.testing.assert_close(*losses)
        torch.testing.assert_close(*(torch.autograd.grad(loss, student)[0] for loss in losses))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2


@pytest.mark.parametrize("device", DEVICES)
def test_autocast_leaves_the_logits_as_they_are(device: str) -> None:
    student, teacher = patches(6, 30, torch.bfloat16, device)
    weights = torch.rand(6, device=device)
    plain = ibot_loss(student, teacher.float(), weights=weights, samples=3)
    with torch.autocast(device, torch.bfloat16):
        torch.testing.assert_close(
            ibot_loss(student, teacher.float(), weights=weights, samples=3), plain, rtol=0, atol=0
        )


GOOD, META = torch.zeros(5, 3), torch.empty(5, 3, device="meta")

# call, error, argument, got, want
BAD: list[tuple[Callable[[], Any], type[Exception], str, str, str]] = [
    (lambda: ibot_loss([GOOD], GOOD), TypeError, "student_logits", "list", "torch.Tensor"),
    (lambda: ibot_loss(GOOD, GOOD.int()), TypeError, "teacher_logits", "int32", "float32"),
    (lambda: ibot_loss(GOOD[None], GOOD), ValueError, "student_logits", r"\(1, 5, 3\)", r"\[M, K\]"),
    (lambda: ibot_loss(GOOD[:0], GOOD[:0]), ValueError, "student_logits", r"\(0, 3\)", r"\[M, K\]"),
    (lambda: ibot_loss(GOOD, GOOD[:4]), ValueError, "teacher_logits", "4 patches", "5"),
    (lambda: ibot_loss(GOOD, GOOD[:, :2]), ValueError, "teacher_logits", "width 2", "3"),
    (lambda: ibot_loss(GOOD, META), ValueError, "teacher_logits", "meta", "cpu"),
    (lambda: ibot_loss(GOOD, GOOD.double()), TypeError, "teacher_logits", "float64", "float64 for both"),
    (lambda: ibot_loss(GOOD, GOOD, torch.zeros(1, 3)), ValueError, "center", r"\(1, 3\)", r"\[3\]"),
    (lambda: ibot_loss(GOOD, GOOD, torch.zeros(2)), ValueError, "center", r"\(2,\)", r"\[3\]"),
    (lambda: ibot_loss(GOOD, GOOD, torch.zeros(3), soft_targets=True), ValueError, "center", "soft_targets", "None"),
    (lambda: ibot_loss(GOOD, GOOD, None, 0), ValueError, "student_temp", "0", "> 0"),
    (lambda: ibot_loss(GOOD, GOOD, None, 0.1, -1), ValueError, "teacher_temp", "-1", "> 0"),
    (lambda: ibot_loss(GOOD, GOOD, weights=0.5), TypeError, "weights", "float", r"\[5\]"),
    (lambda: ibot_loss(GOOD, GOOD, weights=torch.ones(5).bool()), TypeError, "weights", "bool", r"\[5\]"),
    (lambda: ibot_loss(GOOD, GOOD, weights=torch.ones(4)), ValueError, "weights", r"\(4,\)", r"\[5\]"),
    (lambda: ibot_loss(GOOD, GOOD, weights=META[:, 0]), ValueError, "weights", "meta", "cpu"),
    (lambda: ibot_loss(GOOD, GOOD, samples=0), ValueError, "samples", "0", "int >= 1"),
    (lambda: ibot_loss(GOOD, GOOD, samples=2.0), ValueError, "samples", "2.0", "int >= 1"),
]


@pytest.mark.parametrize(("call", "error", "argument", "got", "want"), BAD)
def test_bad_input(call: Callable[[], Any], error: type[Exception], argument: str, got: str, want: str) -> None:
    with pytest.raises(error, match=rf"^{argument}: got .*{got}.*want .*{want}"):
        call()
