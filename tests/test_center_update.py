"""The teacher's centre: against the mean in float64, its types, what it does not wait for, and its compilation. What
several processes find is in test_dino_losses.py.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
from accuracy import assert_close_to_exact
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from fastssl.functional import center_update

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def eager(center: Tensor, logits: Tensor, m: float) -> Tensor:
    """The formula, in the type of the logits or float32, which is that of the centre."""
    kind = torch.promote_types(logits.dtype, torch.float32)
    return center.to(kind) * m + logits.to(kind).mean(tuple(range(logits.ndim - 1))) * (1 - m)


def as_they_are(x: Tensor) -> Tensor:
    return x


def strided(x: Tensor) -> Tensor:
    return torch.stack([x, x], -1)[..., 0]


def views(x: Tensor) -> list[Tensor]:
    return list(x)


@settings(deadline=None, max_examples=80)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 70), st.sampled_from([1, 3, 64, 257])),
    seed=st.integers(0, 2**32),
    m=st.one_of(st.sampled_from([0.0, 0.9, 1.0]), st.floats(0, 1)), as_tensor=st.booleans(),
    dtype=st.sampled_from(FLOATS), form=st.sampled_from([as_they_are, strided, views]),
)  # fmt: skip
def test_formula(
    shape: tuple[int, ...], seed: int, m: float, as_tensor: bool, dtype: torch.dtype, form: Callable[[Tensor], object]
) -> None:
    generator, m = torch.Generator().manual_seed(seed), torch.tensor(m).item()
    logits = (torch.randn(shape, generator=generator) * 5 + 20).to(dtype)
    kind = torch.promote_types(dtype, torch.float32)
    center = torch.randn(shape[-1], generator=generator).to(kind)
    exact = {"center": eager(center.double(), logits.double(), m)}
    found = {"center": eager(center, logits, m).double()}
    terms = {"center": logits.double().abs().flatten(0, -2).amax(0)}
    center_update(center, form(logits), torch.tensor(m) if as_tensor else m)
    assert_close_to_exact({"center": center.double()}, found, exact, terms, kind, 1.0, f"{shape}")


def test_centres_are_float32_or_float64() -> None:
    for dtype in (torch.float32, torch.float64):
        center = torch.zeros(3, dtype=dtype)
        center_update(center, torch.ones(2, 3, dtype=torch.float64), 0.75)
        assert torch.equal(center, torch.full((3,), 0.25, dtype=dtype))


def test_sixteen_bits_are_summed_in_float32() -> None:
    center = torch.zeros(2)
    center_update(center, torch.full((5000, 2), 100.0, dtype=torch.float16), 0.0)  # whose sum float16 has not
    assert torch.equal(center, torch.full((2,), 100.0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_parts_that_are_widened_make_a_whole(dtype: torch.dtype) -> None:
    """More than a CPU widens at a time, with a last part of another length, in one stack and in views."""
    logits = torch.randn(3, 700, 1000).to(dtype)
    mean = logits.double().mean((0, 1))
    for form in (logits, list(logits)):
        center = torch.zeros(1000)
        center_update(center, form, 0.0)
        torch.testing.assert_close(center, mean.float(), rtol=1e-5, atol=1e-6)


def test_it_is_in_place_and_without_gradient() -> None:
    center, logits = torch.zeros(3), torch.ones(2, 3, requires_grad=True)
    storage = center.data_ptr()
    center_update(center, logits * 2)
    assert center.data_ptr() == storage
    assert not center.requires_grad


def test_nan_stays_nan() -> None:
    center, logits = torch.zeros(3), torch.ones(2, 3)
    logits[1, 2] = torch.nan
    center_update(center, logits)
    assert center.isnan().tolist() == [False, False, True]


class Reads(TorchDispatchMode):
    """How many elements are read and made, of the operations on tensors of at least so many."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.touched = size, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        assert func is not torch.ops.aten._local_scalar_dense.default
        out = func(*args, **(kwargs or {}))
        large = [t for t in (*args, out) if isinstance(t, Tensor) and t.numel() >= self.size]
        self.touched += sum(t.numel() for t in large)
        return out


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("as_tensor", [False, True])
def test_logits_are_read_once_and_nothing_waits(dtype: torch.dtype, as_tensor: bool) -> None:
    with FakeTensorMode():
        logits = torch.empty(2, 64, 1000, dtype=dtype, device="cuda")
        center, m = torch.zeros(1000, device="cuda"), torch.full((), 0.9, device="cuda")
        with Reads(logits.numel()) as reads:
            center_update(center, logits, m if as_tensor else 0.9)
    assert reads.touched == logits.numel()


def test_it_compiles_once() -> None:
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(center_update, fullgraph=True, backend=counter, dynamic=True)
    center, wanted, frames = torch.zeros(5), torch.zeros(5), []
    for n, m in ((3, 0.9), (4, 0.91), (7, 0.92), (5, 0.93)):
        logits = torch.randn(2, n, 5)
        compiled(center, logits, m)
        center_update(wanted, logits, m)
        torch.testing.assert_close(center, wanted)
        compiled(center, logits, torch.tensor(m))
        center_update(wanted, logits, torch.tensor(m))
        torch.testing.assert_close(center, wanted)
        frames.append(counter.frame_count)
    assert len(set(frames[1:])) == 1


def test_a_group_of_one_process(tmp_path) -> None:  # type: ignore[no-untyped-def]
    dist.init_process_group("gloo", init_method=(tmp_path / "store").as_uri(), rank=0, world_size=1)
    try:
        center = torch.zeros(3)
        center_update(center, torch.ones(2, 3), 0.0)
        assert torch.equal(center, torch.ones(3))
    finally:
        dist.destroy_process_group()


C, T = torch.zeros(3), torch.ones(2, 3)


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: center_update([0.0], T), TypeError, "center: got list, want a torch.Tensor"),
        (lambda: center_update(C[None], T), ValueError, r"center: got shape \(1, 3\), want \[K\]"),
        (lambda: center_update(C.half(), T), TypeError, "center: got dtype torch.float16, want float32 or float64"),
        (lambda: center_update(C, None), TypeError, "teacher_logits: got NoneType, want a float tensor"),
        (lambda: center_update(C, T.long()), TypeError, "teacher_logits: got dtype torch.int64, want a float tensor"),
        (lambda: center_update(C, [T, T[:, :2]]), ValueError, r"teacher_logits\[1\]: got shape \(2, 2\), want .*K = 3"),
        (lambda: center_update(C, T[0]), ValueError, r"teacher_logits: got shape \(3,\), want \[..., B, K\]"),
        (lambda: center_update(C, T[:0]), ValueError, "teacher_logits: got no rows, want at least one"),
        (lambda: center_update(C, []), ValueError, "teacher_logits: got no rows, want at least one"),
        (lambda: center_update(C, T.to("meta")), ValueError, "teacher_logits: got device meta, want that of the"),
        (lambda: center_update(C, T, 1.5), ValueError, r"momentum: got 1.5, want a number in \[0, 1\]"),
        (lambda: center_update(C, T, None), TypeError, "momentum: got NoneType, want a number"),
        (lambda: center_update(C, T, torch.tensor(2.0)), ValueError, "momentum: got 2.0"),
        (lambda: center_update(C, T, torch.empty((), device="meta")), ValueError, "momentum: got a tensor on meta"),
    ],
)
def test_bad_input(call: Callable[[], None], error: type[Exception], said: str) -> None:
    before = C.clone()
    with pytest.raises(error, match=said):
        call()
    assert torch.equal(C, before)
