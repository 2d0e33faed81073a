"""NT-Xent on every backend: accuracy, the op contract, determinism."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from accuracy import assert_accurate, loss_and_grads
from conftest import DEVICES, runnable
from hypothesis import given, settings
from hypothesis import strategies as st
from lightly.loss import NTXentLoss as LightlyNTXentLoss
from torch._subclasses.fake_tensor import FakeTensorMode

import fastssl
from fastssl import reference
from fastssl.functional import ntxent

ROWS = (1, 2, 3, 7, 64, 127, 129, 1000)
WIDTHS = (1, 3, 16, 64, 96, 128, 257, 512, 1024)
TEMPERATURES = (1.0, 0.5, 0.07, 0.01, 0.005)
TYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
on_backends = pytest.mark.parametrize(("device", "backend"), runnable("ntxent"))
on_devices = pytest.mark.parametrize("device", DEVICES)


def pairs(n: int, d: int, dtype: torch.dtype = torch.float32, device: str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
    z0 = torch.randn(n, d)
    return z0.to(device, dtype), (z0 + torch.randn(n, d)).to(device, dtype)


@on_backends
@pytest.mark.parametrize("d", WIDTHS)
def test_accuracy_over_shapes(device: str, backend: str, d: int, nan_filled: None) -> None:
    with fastssl.use_backend(backend):
        for n in ROWS if d <= 257 else ROWS[:-1]:
            assert_accurate(ntxent, *pairs(n, d, device=device), tau=0.5)


@pytest.mark.parametrize(
    ("dtype", "device", "backend"), [(t, *where) for t in TYPES for where in runnable("ntxent", t)]
)
@pytest.mark.parametrize("tau", TEMPERATURES)
def test_accuracy_over_types_and_temperatures(
    device: str, backend: str, dtype: torch.dtype, tau: float, nan_filled: None
) -> None:
    with fastssl.use_backend(backend):
        for n, d in ((1, 16), (7, 3), (64, 64), (129, 96), (300, 128)):
            assert_accurate(ntxent, *pairs(n, d, dtype, device), tau=tau)


@on_backends
@pytest.mark.parametrize("tau", TEMPERATURES)
@pytest.mark.parametrize("case", ["duplicates", "zero rows", "tiny norms", "huge norms", "mixed norms", "equal views"])
def test_accuracy_on_hard_rows(device: str, backend: str, tau: float, case: str, nan_filled: None) -> None:
    z0, z1 = pairs(67, 48, device=device)
    if case == "duplicates":
        z0[1::2], z1[::3] = z0[0].clone(), z0[0].clone()
    elif case == "zero rows":
        z0[3], z1[5], z1[3] = 0, 0, 0
    elif case == "tiny norms":
        z0, z1 = z0 * 1e-20, z1 * 1e-20
    elif case == "huge norms":
        z0, z1 = z0 * 1e20, z1 * 1e20
    elif case == "mixed norms":
        z0, z1 = z0 * torch.logspace(-20, 20, 67, device=device)[:, None], z1 * 1e-6
    else:
        z1 = z0.clone()  # tau 0.005: a loss far below float32's eps, whose gradient still has a direction
    with fastssl.use_backend(backend):
        assert_accurate(ntxent, z0, z1, tau)


@on_backends
def test_small_losses_keep_their_digits(device: str, backend: str) -> None:
    z = torch.randn(40, 64, device=device)
    exact = loss_and_grads(reference.ntxent, z.double(), z.double(), 0.0625, 1.0)
    with fastssl.use_backend(backend):
        kernel = loss_and_grads(ntxent, z, z, 0.0625, 1.0)
    assert 0 < exact[0] < 1e-2
    torch.testing.assert_close(kernel[0], exact[0], rtol=1e-4, atol=0)  # eager in float32 has no such digits to give


@on_backends
def test_strides(device: str, backend: str, nan_filled: None) -> None:
    z0, z1 = pairs(33, 20, device=device)
    views = {
        "transposed": (z0.T.contiguous().T, z1),
        "every second column": (torch.randn(33, 40, device=device)[:, ::2], z1),
        "row slice": (torch.randn(99, 20, device=device)[::3], torch.randn(40, 20, device=device)[7:]),
        "expanded": (z0[:1].expand(33, 20), z1),
    }
    with fastssl.use_backend(backend):
        for a, b in views.values():
            assert_accurate(ntxent, a, b, 0.2)


@pytest.mark.parametrize("backend", ["cpp", "torch"])
@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 90),
    d=st.integers(1, 140),
    dtype=st.sampled_from(TYPES[1:]),
    tau=st.floats(0.004, 3),
    transpose=st.booleans(),
    scale=st.floats(-3, 3),
)
def test_any_size_type_and_stride(
    backend: str, n: int, d: int, dtype: torch.dtype, tau: float, transpose: bool, scale: float
) -> None:
    z0, z1 = (z * 10**scale for z in pairs(n, d, dtype))
    if transpose:
        z0 = z0.T.contiguous().T
    with fastssl.use_backend(backend):
        assert_accurate(ntxent, z0, z1, tau)


@on_backends
@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("tau", [0.5, 0.01])
def test_nan_and_inf_reach_the_loss(device: str, backend: str, poison: float, tau: float) -> None:
    z0, z1 = pairs(70, 24, device=device)
    z1[41, 3] = poison
    with fastssl.use_backend(backend):
        assert ntxent(z0, z1, tau).isnan()


@on_backends
def test_output_type(device: str, backend: str) -> None:
    with fastssl.use_backend(backend):
        for dtype in TYPES[1:]:
            z0, z1 = (z.requires_grad_() for z in pairs(5, 8, dtype, device))
            loss = ntxent(z0, z1)
            assert loss.dtype == torch.float32
            assert loss.shape == ()
            loss.backward()
            assert z0.grad is not None
            assert z0.grad.dtype == dtype


@on_backends
def test_bit_identical_from_run_to_run(device: str, backend: str) -> None:
    torch.use_deterministic_algorithms(True)
    z0, z1 = pairs(700, 64, device=device)
    with fastssl.use_backend(backend):
        first, second = (loss_and_grads(ntxent, z0, z1, 0.1, 1.0) for _ in range(2))
    torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("threads", [1, 2, 3, 5, 16])
def test_any_number_of_threads(threads: int, nan_filled: None) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for n in (1, 17, 130, 333):
            assert_accurate(ntxent, *pairs(n, 40), tau=0.1)
    finally:
        torch.set_num_threads(before)


@on_backends
def test_only_the_gradients_asked_for(device: str, backend: str) -> None:
    z0, z1 = pairs(6, 4, device=device)
    with fastssl.use_backend(backend):
        full = loss_and_grads(ntxent, z0, z1, 0.5, 1.0)
        ntxent(z0.requires_grad_(), z1, 0.5).backward()
    assert z0.grad is not None
    assert z1.grad is None
    torch.testing.assert_close(z0.grad.double().cpu(), full[1])


def test_gradcheck() -> None:
    z0, z1 = (z.requires_grad_() for z in pairs(5, 4, torch.float64))
    tau = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(ntxent, (z0, z1, tau))
    assert torch.autograd.gradgradcheck(ntxent, (z0, z1, tau))


@on_backends
def test_second_derivatives(device: str, backend: str) -> None:
    def curvature(loss: object, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
        torch.manual_seed(1)
        z0, z1 = (z.to(dtype).requires_grad_() for z in pairs(20, 12, device=device))
        grads = torch.autograd.grad(loss(z0, z1, 0.4), (z0, z1), create_graph=True)  # type: ignore[operator]
        penalty = sum(g.square().sum() for g in grads)
        return torch.autograd.grad(penalty, (z0, z1))

    with fastssl.use_backend(backend):
        kernel = curvature(ntxent, torch.float32)
    for k, x in zip(kernel, curvature(reference.ntxent, torch.float64), strict=True):
        torch.testing.assert_close(k.double(), x, rtol=1e-4, atol=1e-7)


def test_third_derivatives_say_no() -> None:
    z0, z1 = (z.requires_grad_() for z in pairs(4, 3, torch.float64))
    (first,) = torch.autograd.grad(ntxent(z0, z1), z0, create_graph=True)
    with pytest.raises(RuntimeError, match="no third derivative"):
        torch.autograd.grad(first.sum(), z0, create_graph=True)


@pytest.mark.parametrize(
    ("dtype", "device", "backend"), [(t, *where) for t in TYPES for where in runnable("ntxent", t)]
)
def test_opcheck(device: str, backend: str, dtype: torch.dtype) -> None:
    z0, z1 = (z.requires_grad_() for z in pairs(6, 5, dtype, device))
    tau = torch.tensor(0.5, device=device, requires_grad=True)
    args = (z0, z1, tau, backend)
    torch.library.opcheck(torch.ops.fastssl.ntxent.default, args)
    outputs = [x.detach() for x in torch.ops.fastssl.ntxent(*args)]
    grad = torch.ones_like(outputs[0])
    detached = [x.detach() for x in args[:3]]
    torch.library.opcheck(torch.ops.fastssl.ntxent_backward.default, (grad, *detached, *outputs[1:], backend))


@on_devices
def test_compile_fullgraph_with_dynamic_batch(device: str) -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(ntxent, fullgraph=True, dynamic=True)
    temperatures = itertools.cycle((0.5, 0.4, 0.3, 0.2))  # a schedule of floats
    for n in (4, 7, 12, 5, 30):
        tau = next(temperatures)
        z0, z1 = pairs(n, 8, device=device)
        expected, found = (loss_and_grads(lambda a, b, _, f=f, t=tau: f(a, b, t) + 0 * _, z0, z1, 1.0, 1.7)
                           for f in (ntxent, compiled))  # fmt: skip
        for a, b in zip(expected, found, strict=True):
            torch.testing.assert_close(a, b)
    # One graph for the first temperature, one for every other: a schedule must not recompile at each value.
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2


@on_devices
def test_compile_with_a_learnt_temperature(device: str) -> None:
    z0, z1 = pairs(9, 6, device=device)
    expected = loss_and_grads(ntxent, z0, z1, 0.3, 1.0)
    found = loss_and_grads(torch.compile(ntxent, fullgraph=True), z0, z1, 0.3, 1.0)
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", TYPES)
def test_fake_tensors_for_cuda_need_no_cuda(dtype: torch.dtype) -> None:
    with FakeTensorMode():
        z = torch.empty(6, 4, dtype=dtype, device="cuda")
        loss, zn, *rows = torch.ops.fastssl.ntxent(z, z, torch.empty(()), "auto")
    assert loss.device.type == "cuda"
    assert zn.shape == (12, 4)
    assert zn.dtype == dtype
    assert all(row.shape == (12,) for row in rows)


@on_devices
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(device: str, dtype: torch.dtype) -> None:
    z0, z1 = (z.requires_grad_() for z in pairs(12, 8, device=device))
    temperature = torch.tensor(0.07, device=device, requires_grad=True)
    with torch.autocast(device, dtype):
        loss = ntxent(z0, z1.to(dtype), temperature)  # a mix of types, as projection heads give under autocast
    assert loss.dtype == torch.float32
    loss.backward()
    assert z0.grad is not None
    assert z0.grad.dtype == torch.float32
    by_hand = ntxent(z0.to(dtype), z1.to(dtype), temperature)  # the temperature keeps its digits
    torch.testing.assert_close(loss, by_hand, rtol=0, atol=0)


def test_autocast_leaves_float64_alone() -> None:
    z0, z1 = pairs(4, 3, torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(ntxent(z0, z1), ntxent(z0, z1), rtol=0, atol=0)
        assert ntxent(z0, z1).dtype == torch.float64


@on_devices
def test_module_equals_lightly(device: str) -> None:
    for n, d, tau in ((2, 3, 0.1), (7, 16, 0.5), (65, 32, 0.07)):
        z0, z1 = pairs(n, d, device=device)
        ours, theirs = (
            loss_and_grads(lambda a, b, t, c=criterion: c(a, b) + 0 * t, z0, z1, 1.0, 1.3)
            for criterion in (fastssl.NTXentLoss(tau), LightlyNTXentLoss(tau))
        )
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_module_learns_its_temperature() -> None:
    criterion = fastssl.NTXentLoss(torch.nn.Parameter(torch.tensor(0.2)))
    assert [name for name, _ in criterion.named_parameters()] == ["temperature"]
    criterion(*pairs(8, 4)).backward()
    assert criterion.temperature.grad is not None
