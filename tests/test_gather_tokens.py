"""Gathering tokens: every backend, type, width and layout against the definition."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import DEVICES, runnable
from hypothesis import given, settings
from hypothesis import strategies as st
from masking_reference import TYPES, WIDTHS, hold_linear_op, some_ids, token_layouts, values_and_gradients

import fastssl
from fastssl import reference
from fastssl.functional import gather_tokens, random_masking

on_backends = pytest.mark.parametrize(("device", "backend"), runnable("gather_tokens"))
on_types = pytest.mark.parametrize(
    ("dtype", "device", "backend"), [(t, *where) for t in TYPES for where in runnable("gather_tokens", t)]
)


def check(x: torch.Tensor, ids: torch.Tensor, prefix: int, where: object) -> None:
    ids = ids.to(x.device)
    found = hold_linear_op(
        lambda x: gather_tokens(x, ids, prefix_tokens=prefix),
        lambda x: reference.gather_tokens(x, ids, prefix), [x], where,
    )  # fmt: skip
    assert found[0].is_contiguous(), where
    assert torch.equal(found[0], reference.gather_tokens(x, ids, prefix)), where  # copies are exact


def test_reference_equals_loops() -> None:
    x, prefix = torch.randn(3, 9, 4, dtype=torch.float64), 2
    ids = torch.tensor([[0, 6, -1], [3, 3, 3], [-1, 5, 1]])
    rows = [
        [*x[n, :prefix].tolist(), *(x[n, prefix + i].tolist() if i >= 0 else [0.0] * 4 for i in ids[n].tolist())]
        for n in range(3)
    ]
    assert reference.gather_tokens(x, ids, prefix).tolist() == rows
    assert gather_tokens(x, ids, prefix_tokens=prefix).tolist() == rows


@on_types
@pytest.mark.parametrize("width", WIDTHS)
def test_shapes(device: str, backend: str, dtype: torch.dtype, width: int, nan_filled: None) -> None:
    cases = (
        (1, 1, 1, 0, "distinct"), (3, 7, 4, 1, "none"), (2, 50, 50, 0, "distinct"), (2, 33, 0, 2, "distinct"),
        (4, 19, 28, 4, "duplicates"), (2, 5, 300, 0, "duplicates"), (2, 9, 6, 1, "nothing"),
    )  # fmt: skip
    with fastssl.use_backend(backend):
        for n, length, kept, prefix, kind in cases:
            x = torch.randn(n, prefix + length, width, device=device).to(dtype)
            check(x, some_ids(n, kept, length, kind), prefix, (width, n, length, kept, prefix))


@on_backends
def test_layouts(device: str, backend: str, nan_filled: None) -> None:
    with fastssl.use_backend(backend):
        for width in (1, 24):
            for layout, x in token_layouts(4, 11, width, torch.float32, device).items():
                ids = some_ids(4, 5, 10, "none")
                strided = torch.stack([ids, -ids], 2)[..., 0]
                for same in (ids, strided, ids.T.contiguous().T, ids[:1].expand(4, 5)):
                    check(x, same, 1, (width, layout))


@on_backends
@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 5),
    length=st.integers(1, 60),
    kept=st.integers(0, 70),
    width=st.integers(1, 80),
    prefix=st.integers(0, 3),
    dtype=st.sampled_from(TYPES[1:]),
    layout=st.sampled_from(["contiguous", "transposed", "sequence first", "every other", "one token", "unaligned"]),
)
def test_any_size_type_and_layout(
    device: str, backend: str, n: int, length: int, kept: int, width: int, prefix: int, dtype: torch.dtype, layout: str
) -> None:
    x = token_layouts(n, prefix + length, width, dtype, device)[layout]
    with fastssl.use_backend(backend):
        check(x, torch.randint(-1, length, (n, kept)), prefix, layout)


@on_backends
def test_upstream_gradient_of_any_layout(device: str, backend: str) -> None:
    ids = some_ids(4, 6, 10).to(device)
    x = torch.randn(4, 11, 24, device=device, requires_grad=True)
    with fastssl.use_backend(backend):
        for layout, grad in token_layouts(4, 7, 24, torch.float32, device).items():
            (found,) = torch.autograd.grad(gather_tokens(x, ids, prefix_tokens=1), x, grad)
            (exact,) = torch.autograd.grad(reference.gather_tokens(x, ids, 1), x, grad)
            assert torch.equal(found, exact), layout


@on_backends
def test_ids_of_random_masks(device: str, backend: str) -> None:
    masks = random_masking(4, 50, [0.5, 0.75, 0.9, 0.6], seed=1, prefix_tokens=1, device=device)
    x = torch.randn(4, 50, 16, device=device)
    with fastssl.use_backend(backend):
        for ids in (masks.ids_keep, masks.ids_masked):  # slices, padded with -1
            check(x, ids, 0, "slices")


@on_backends
def test_nan_and_inf_are_copied(device: str, backend: str) -> None:
    x = torch.randn(2, 6, 5, device=device)
    x[0, 1], x[1, 2], x[0, 5] = math.nan, math.inf, math.nan
    with fastssl.use_backend(backend):
        out = gather_tokens(x, torch.tensor([[1, 0, -1], [2, -1, 3]], device=device))
    assert out[0, 0].isnan().all()
    assert (out[1, 0] == math.inf).all()
    assert not out[0, 2].any()  # nothing is nothing, whatever is around
    assert torch.equal(out[0, 1], x[0, 0])


@on_backends
def test_ids_out_of_range_name_nothing(device: str, backend: str) -> None:
    x = torch.randn(2, 6, 5, device=device, requires_grad=True)
    wild = torch.tensor([[5, 6, -2, 2**40, 0], [-(2**63), 2**63 - 1, 4, 1, 2**32]], device=device)
    tame = torch.where((wild >= 0) & (wild < 5), wild, -1)
    outputs = [torch.ops.fastssl.gather_tokens(x, ids, 1, backend) for ids in (wild, tame)]
    assert torch.equal(*outputs)
    grads = [torch.autograd.grad(out, x, torch.ones_like(out))[0] for out in outputs]
    assert torch.equal(*grads)


@on_types
def test_gradients_add_in_float32(device: str, backend: str, dtype: torch.dtype) -> None:
    ids = torch.zeros(1, 4096, dtype=torch.int64, device=device)
    x = torch.randn(1, 2, 3, device=device).to(dtype)
    with fastssl.use_backend(backend):
        _, grad = values_and_gradients(lambda x: gather_tokens(x, ids), [x], [torch.ones(1, 4096, 3, device=device)])
    assert (grad[0, 0] == 4096).all()  # in a half type it would stop at 256 or 2048
    assert not grad[0, 1].any()


@on_backends
def test_bit_identical_for_any_number_of_threads(device: str, backend: str) -> None:
    torch.use_deterministic_algorithms(True)
    ids = torch.randint(-1, 60, (7, 200), device=device)
    x, upstream = torch.randn(7, 60, 33, device=device), torch.randn(7, 200, 33, device=device)
    threads, runs = torch.get_num_threads(), []
    try:
        for count in (1, 2, 2, 5):
            torch.set_num_threads(count)
            with fastssl.use_backend(backend):
                runs.append(values_and_gradients(lambda x: gather_tokens(x, ids), [x], [upstream]))
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(False)
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(run, runs[0], strict=True))


def test_gradcheck() -> None:
    x = torch.randn(2, 7, 3, dtype=torch.float64, requires_grad=True)
    ids = torch.tensor([[0, 4, 4, -1], [2, 1, 0, 5]])
    assert torch.autograd.gradcheck(lambda x: gather_tokens(x, ids, prefix_tokens=1), x)
    assert torch.autograd.gradgradcheck(lambda x: gather_tokens(x, ids, prefix_tokens=1), x)


@on_types
def test_opcheck(device: str, backend: str, dtype: torch.dtype) -> None:
    x = torch.randn(2, 6, 4, device=device).to(dtype).requires_grad_()
    ids = torch.tensor([[0, 4, -1], [2, 2, 1]], device=device)
    torch.library.opcheck(torch.ops.fastssl.gather_tokens.default, (x, ids, 1, backend))
    grad = torch.randn(2, 4, 4, device=device).to(dtype).requires_grad_()
    torch.library.opcheck(torch.ops.fastssl.gather_tokens_backward.default, (grad, ids, 6, 1, backend))


@pytest.mark.parametrize("device", DEVICES)
def test_compiles_whole_with_a_dynamic_batch(device: str) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda x, ids: gather_tokens(x, ids, prefix_tokens=1) * 2, fullgraph=True, backend="aot_eager", dynamic=True
    )
    for n, length, kept in ((4, 9, 5), (7, 12, 3)):
        x, ids = torch.randn(n, length + 1, 6, device=device), some_ids(n, kept, length, "none").to(device)
        upstream = [torch.randn(n, kept + 1, 6, device=device)]
        found = values_and_gradients(lambda x, ids=ids: compiled(x, ids), [x], upstream)
        exact = values_and_gradients(lambda x, ids=ids: reference.gather_tokens(x, ids, 1) * 2, [x], upstream)
        assert all(torch.equal(a, b) for a, b in zip(found, exact, strict=True))


@on_backends
def test_autocast_leaves_the_type_alone(device: str, backend: str) -> None:
    ids = torch.zeros(2, 3, dtype=torch.int64, device=device)
    with fastssl.use_backend(backend), torch.autocast(device, torch.bfloat16):
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            assert gather_tokens(torch.randn(2, 4, 5, device=device).to(dtype), ids).dtype == dtype
