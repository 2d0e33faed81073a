"""The op of DINO's loss: gradients, compilation, memory, types, threads."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import DEVICES, runnable
from devices import no_synchronisation
from distillation import assert_accurate, each, evaluate, logits, problem
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import fastssl
from fastssl.functional import center_update, dino_loss
from fastssl.kernels.torch import dino_loss as streaming

HALVES = (torch.float16, torch.bfloat16)
TYPES = (torch.float64, torch.float32, *HALVES)
OP = "dino_loss"
on_backends = pytest.mark.parametrize(("device", "backend"), runnable(OP))
on_types = pytest.mark.parametrize(
    ("dtype", "device", "backend"), [(dtype, *where) for dtype in TYPES for where in runnable(OP, dtype)]
)
on_devices = pytest.mark.parametrize("device", DEVICES)


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
        loss, *norms, _ = torch.ops.fastssl.dino_loss(*args, True, kind == "soft", backend)
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


def test_compile_a_step_that_moves_the_center() -> None:
    """By inductor, which drops a copy that it sees, although the backward pass needs what the center was."""
    torch._dynamo.reset()

    def step(student: torch.Tensor, teacher: torch.Tensor, center: torch.Tensor, *args: Any, **options: Any) -> Any:
        loss = dino_loss(student, teacher, center, *args, **options)
        center_update(center, teacher, 0.5)
        return loss

    student, teacher = problem(3, 2, 4, 20)
    expected, found = (
        evaluate(f, student, teacher, torch.ones(20), 0.1, 0.04, 1.7, {})
        for f in (step, torch.compile(step, fullgraph=True))
    )
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


@pytest.mark.parametrize("dtype", TYPES)
def test_fake_tensors_for_cuda_need_no_cuda(dtype: torch.dtype) -> None:
    with FakeTensorMode():
        students, teachers = ([torch.empty(v, b, 9, dtype=dtype, device="cuda")] for v, b in ((10, 4), (2, 6)))
        tau = torch.empty(())
        loss, lse, norm, _ = torch.ops.fastssl.dino_loss(students, teachers, None, tau, tau, None, True, False, "auto")
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
