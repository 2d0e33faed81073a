"""Teachers as moving averages: against float64 over many steps, of every type, and what is kept of 16-bit ones."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from fastssl.functional import ema_update

HALVES, WIDE = (torch.float16, torch.bfloat16), (torch.float32, torch.float64)


def network(dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Module:
    """Nested, with batch statistics, an integer buffer, one weight under two names and an empty one."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 5)))
    net[2][1].weight = net[2][0].weight
    net.register_parameter("empty", nn.Parameter(torch.empty(0)))
    net.register_buffer("mask", torch.rand(4) < 0.5)
    for t in net.buffers():
        t.copy_(torch.rand(t.shape) * 9)
    return net.to(dtype)


def tensors(net: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, without those that an average keeps."""
    found = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    return {name: t.detach().clone() for name, t in found.items() if not name.startswith("float32_values.")}


def formula(teacher: nn.Module, student: nn.Module, m: float) -> dict[str, Tensor]:
    """What a teacher comes to, in float64."""
    mine, theirs = tensors(teacher), tensors(student)
    return {
        name: m * t.double() + (1 - m) * theirs[name].double() if t.is_floating_point() else theirs[name]
        for name, t in mine.items()
    }


@settings(deadline=None, max_examples=40)
@given(
    m=st.one_of(st.sampled_from([0.0, 1.0, 0.5, 0.9995]), st.floats(0, 1)), as_tensor=st.booleans(),
    dtype=st.sampled_from(WIDE), other=st.sampled_from([*WIDE, *HALVES]),
)  # fmt: skip
def test_formula(m: float, as_tensor: bool, dtype: torch.dtype, other: torch.dtype) -> None:
    teacher, student = network(dtype), network(other, seed=1)
    m = torch.tensor(m).item()  # one value for every type
    wanted = formula(teacher, student, m)
    ema_update(teacher, student, torch.tensor(m) if as_tensor else m)
    for name, t in tensors(teacher).items():
        eps = torch.finfo(t.dtype).eps if t.is_floating_point() else 0
        torch.testing.assert_close(t.double(), wanted[name].double(), rtol=2 * eps, atol=9 * eps)
        assert t.dtype in (dtype, torch.int64, torch.bool)


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize("m", [0.9995, torch.tensor(0.9995)], ids=str)
def test_a_long_average(dtype: torch.dtype, m: float | Tensor) -> None:
    """1500 small steps are those of float64, though none of them would move 16 bits."""
    teacher, student = network(dtype), network(dtype, seed=1)
    exact = copy.deepcopy(teacher).double()
    for _ in range(1500):
        with torch.no_grad():
            for p in student.parameters():
                p.add_(0.05)
        ema_update(teacher, student, m)
        ema_update(exact, student, float(m))
    for name, t in tensors(exact).items():
        found = tensors(teacher)[name]
        # One rounding to the type, on the float32 average, to which 1500 roundings were added that cancel in part.
        eps = torch.finfo(dtype).eps / 2 + 100 * torch.finfo(torch.float32).eps
        torch.testing.assert_close(found.double(), t.double(), rtol=eps, atol=eps)


def test_teachers_of_32_bits_get_nothing() -> None:
    teacher = network()
    names = list(teacher.state_dict())
    ema_update(teacher, network(torch.bfloat16, seed=1), 0.9)
    assert list(teacher.state_dict()) == names


@pytest.mark.parametrize("dtype", HALVES)
def test_values_are_in_the_state_dict_and_are_no_parameters(dtype: torch.dtype) -> None:
    teacher = network(dtype)
    parameters = dict(teacher.named_parameters())
    ema_update(teacher, network(dtype, seed=1), 0.9)
    assert dict(teacher.named_parameters()).keys() == parameters.keys()
    kept = {name: t for name, t in teacher.state_dict().items() if name.startswith("float32_values.")}
    floats = {name for name, t in tensors(teacher).items() if t.is_floating_point()}
    assert {name.removeprefix("float32_values.") for name in kept} == floats
    assert all(t.dtype == torch.float32 for t in kept.values())


CASTS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "half": nn.Module.half, "bfloat16": nn.Module.bfloat16, "to": lambda net: net.to(torch.float16),
    "to device": lambda net: net.to("cpu", torch.bfloat16), "deepcopy": copy.deepcopy,
    "reloaded": lambda net: net.load_state_dict(net.state_dict()) and net,
}  # fmt: skip


@pytest.mark.parametrize("cast", CASTS)
def test_values_survive(cast: str) -> None:
    teacher, student = network(torch.bfloat16), network(torch.bfloat16, seed=1)
    ema_update(teacher, student, 0.9)
    kept = {name: t.clone() for name, t in teacher.float32_values.named_buffers()}
    teacher = CASTS[cast](teacher)
    for name, t in teacher.float32_values.named_buffers():
        assert t.dtype == torch.float32
        assert torch.equal(t, kept[name])


def test_a_cast_up_takes_the_values_over() -> None:
    teacher, student = network(torch.bfloat16), network(torch.bfloat16, seed=1)
    ema_update(teacher, student, 0.9)
    kept = dict(teacher.float32_values.named_buffers())
    ema_update(teacher.float(), student, 1.0)
    assert not hasattr(teacher, "float32_values")
    assert all(torch.equal(t, kept[name]) for name, t in tensors(teacher).items() if name in kept)


def train(teacher: nn.Module, student: nn.Module, steps: range) -> None:
    for step in steps:
        torch.manual_seed(step)
        with torch.no_grad():
            for p in student.parameters():
                p.add_(torch.randn(p.shape) * 0.1)
        ema_update(teacher, student, 0.999)


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
def test_resuming_is_exact(dtype: torch.dtype) -> None:
    whole, student = network(dtype), network(dtype)
    train(whole, student, range(20))
    first, student = network(dtype), network(dtype)
    train(first, student, range(10))
    second, again = network(dtype, seed=2), network(dtype, seed=3)
    ema_update(second, again, 1.0)
    second.load_state_dict(first.state_dict())
    again.load_state_dict(student.state_dict())
    train(second, again, range(10, 20))
    assert all(torch.equal(t, second.state_dict()[name]) for name, t in whole.state_dict().items())


def test_momentum_one_changes_nothing_but_integers() -> None:
    teacher, student = network(torch.float16), network(torch.float16, seed=1)
    before = tensors(teacher)
    ema_update(teacher, student, 1.0)
    for name, t in tensors(teacher).items():
        assert torch.equal(t, before[name] if t.is_floating_point() else tensors(student)[name])


def test_weights_that_are_loaded_without_values_are_where_the_average_goes_on() -> None:
    teacher, student = network(torch.bfloat16), network(torch.bfloat16, seed=1)
    ema_update(teacher, student, 0.9)
    storage = {name: t.data_ptr() for name, t in teacher.named_buffers()}
    teacher.load_state_dict(student.state_dict())
    for _ in range(2):
        ema_update(teacher, student, 0.5)
        assert all(torch.equal(t, tensors(student)[name]) for name, t in tensors(teacher).items())
    assert storage == {name: t.data_ptr() for name, t in teacher.named_buffers()}


class NoReads(TorchDispatchMode):
    """Refuses what would wait for a device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        assert func is not torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize("as_tensor", [False, True])
def test_nothing_waits_for_the_device(dtype: torch.dtype, as_tensor: bool) -> None:
    there = {"device": "cuda", "dtype": dtype}
    with FakeTensorMode(), NoReads():
        teacher, student = (nn.Sequential(nn.Linear(3, 4, **there), nn.BatchNorm1d(4, **there)) for _ in range(2))
        for _ in range(2):
            ema_update(teacher, student, torch.full((), 0.9, device="cuda") if as_tensor else 0.9)
    assert teacher[0].weight.device.type == "cuda"


def test_a_tensor_that_is_changed_in_place_is_taken_as_it_is() -> None:
    teacher, student, m = network(), network(seed=1), torch.tensor(1.0)
    before = teacher[0].weight.detach().clone()
    ema_update(teacher, student, m)
    assert torch.equal(teacher[0].weight, before)
    m.fill_(0)
    ema_update(teacher, student, m)
    assert torch.equal(teacher[0].weight, student[0].weight)


def test_the_graph_of_a_student_stays() -> None:
    """Updated between forward and backward, with parameters that require gradients on both sides."""
    student = network()
    teacher = copy.deepcopy(student)
    x = torch.randn(2, 5, requires_grad=True)
    loss = student[2](x).sum()
    ema_update(teacher, student, 0.9)
    loss.backward()
    assert x.grad is not None
    assert all(p.requires_grad and p.grad is None for p in teacher.parameters())


WRAPPED: dict[str, Callable[[nn.Module], nn.Module]] = {
    "compiled": lambda net: torch.compile(net, backend="eager"),
    "in parallel": nn.DataParallel, "both": lambda net: nn.DataParallel(torch.compile(net, backend="eager")),
    "a part compiled": lambda net: nn.Sequential(net[0], net[1], torch.compile(net[2], backend="eager")),
}  # fmt: skip


@pytest.mark.parametrize("wrapper", WRAPPED)
@pytest.mark.parametrize("side", ["student", "teacher"])
def test_wrapped_modules(wrapper: str, side: str) -> None:
    teacher, student = (nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Sequential(nn.Linear(5, 5)))
                        for _ in range(2))  # fmt: skip
    wanted = formula(teacher, student, 0.9)
    pair = {"teacher": teacher, "student": student}
    ema_update(**{**pair, side: WRAPPED[wrapper](pair[side])}, momentum=0.9)
    for name, t in tensors(teacher).items():
        torch.testing.assert_close(t.double(), wanted[name].double(), rtol=1e-6, atol=1e-6)


def linear(*shape: int, dtype: torch.dtype = torch.float32) -> nn.Module:
    return nn.Linear(*shape, dtype=dtype)


def shared() -> tuple[nn.Module, nn.Module]:
    net, other = linear(2, 2), linear(2, 2)
    other.bias = net.bias
    return net, other


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: ema_update(None, linear(2, 2), 0.9), TypeError, "teacher: got NoneType, want an nn.Module"),
        (lambda: ema_update(linear(2, 2), [], 0.9), TypeError, "student: got list, want an nn.Module"),
        (lambda: ema_update(linear(2, 2), linear(2, 3), 0.9), ValueError,
         r"student: got 'weight' of shape \(3, 2\), want the teacher's, \(2, 2\)"),
        (lambda: ema_update(nn.BatchNorm1d(2), linear(2, 2), 0.9), ValueError,
         "student: got no tensor 'num_batches_tracked', want the parameters and buffers of the teacher"),
        (lambda: ema_update(nn.Identity(), linear(2, 2), 0.9), ValueError,
         "teacher: got no tensor 'bias', want the parameters and buffers of the student"),
        (lambda: ema_update(*shared(), 0.9), ValueError, "teacher: got 'bias', which is the student's own"),
        (lambda: ema_update(linear(2, 2), linear(2, 2), 1.1), ValueError, r"momentum: got 1.1, want a number in \[0"),
        (lambda: ema_update(linear(2, 2), linear(2, 2), float("nan")), ValueError, "momentum: got nan"),
        (lambda: ema_update(linear(2, 2), linear(2, 2), "slow"), TypeError, "momentum: got str, want a number"),
        (lambda: ema_update(linear(2, 2), linear(2, 2), torch.tensor(-0.5)), ValueError, "momentum: got -0.5"),
        (lambda: ema_update(linear(2, 2), linear(2, 2), torch.ones(1)), ValueError,
         r"momentum: got a torch.float32 tensor of shape \(1,\), want a number or a 0-d float tensor"),
        (lambda: ema_update(linear(2, 2), linear(2, 2), torch.tensor(1)), ValueError, "momentum: got a torch.int64"),
        (lambda: ema_update(linear(2, 2), linear(2, 2), torch.empty((), device="meta")), ValueError,
         "momentum: got a tensor on meta, want the teacher's device, cpu"),
    ],
)  # fmt: skip
def test_bad_input(call: Callable[[], None], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        call()


def test_bad_input_changes_nothing() -> None:
    teacher, student = network(torch.float16), linear(2, 2)
    before = teacher.state_dict()
    with pytest.raises(ValueError):
        ema_update(teacher, student, 0.9)
    assert teacher.state_dict().keys() == before.keys()
