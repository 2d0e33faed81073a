"""Restoring the order of tokens: every backend, type, width and layout against the definition."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from conftest import DEVICES, runnable
from hypothesis import given, settings
from hypothesis import strategies as st
from masking_reference import (
    TYPES,
    WIDTHS,
    hold_linear_op,
    hold_to_the_rule,
    sum_type,
    token_layouts,
    values_and_gradients,
)

import fastssl
from fastssl import reference
from fastssl.functional import random_masking, restore_tokens

on_backends = pytest.mark.parametrize(("device", "backend"), runnable("restore_tokens"))
on_types = pytest.mark.parametrize(
    ("dtype", "device", "backend"), [(t, *where) for t in TYPES for where in runnable("restore_tokens", t)]
)


def check(
    visible: torch.Tensor, ids: torch.Tensor, token: torch.Tensor, pos: torch.Tensor | None, prefix: int,
    where: object, positive: bool = False,
) -> None:  # fmt: skip
    ids = ids.to(visible.device)
    inputs = [visible, token] if pos is None else [visible, token, pos]
    found = hold_linear_op(
        lambda x, m, p=None: restore_tokens(x, ids, m, p, prefix_tokens=prefix),
        lambda x, m, p=None: reference.restore_tokens(x, ids, m, p, prefix), inputs, where, positive,
    )  # fmt: skip
    out = found[0]
    assert out.is_contiguous(), where
    eager = reference.restore_tokens(*inputs[:1], ids, *inputs[1:], prefix_tokens=prefix)
    assert out.dtype == eager.dtype, where
    if pos is None:
        assert torch.equal(out, eager), where  # copies are exact


def problem(n: int, length: int, kept: int, width: int, prefix: int, dtype: torch.dtype, device: str):  # type: ignore[no-untyped-def]
    ids = torch.rand(n, length).argsort(1)
    shapes = ((n, prefix + kept, width), (1, 1, width), (1, prefix + length, width))
    visible, token, pos = (torch.randn(*shape, device=device).to(dtype) for shape in shapes)
    return visible, ids, token, pos, prefix


def test_reference_equals_loops() -> None:
    visible, ids, token, pos, prefix = problem(3, 7, 4, 5, 2, torch.float64, "cpu")
    rows = [
        [
            *(visible[n, j] + pos[0, j] for j in range(prefix)),
            *((visible[n, prefix + r] if r < 4 else token[0, 0]) + pos[0, prefix + i] for i, r in enumerate(ids[n])),
        ]
        for n in range(3)
    ]  # fmt: skip
    exact = torch.stack([torch.stack(row) for row in rows])
    assert torch.equal(reference.restore_tokens(visible, ids, token, pos, prefix), exact)
    assert torch.equal(restore_tokens(visible, ids, token, pos, prefix_tokens=prefix), exact)
    assert torch.equal(restore_tokens(visible, ids, token[0, 0], pos[0], prefix_tokens=prefix), exact)


def test_maes_decoder_input() -> None:
    n, length, kept, width = 4, 49, 12, 32
    masks = random_masking(n, length, 0.75, seed=3)
    x, mask_token = torch.randn(n, kept + 1, width), torch.randn(1, 1, width)
    pos = torch.randn(1, length + 1, width)
    mask_tokens = mask_token.repeat(n, length + 1 - x.shape[1], 1)
    theirs = torch.cat([x[:, 1:, :], mask_tokens], dim=1)
    theirs = torch.gather(theirs, dim=1, index=masks.ids_restore.unsqueeze(-1).repeat(1, 1, width))
    theirs = torch.cat([x[:, :1, :], theirs], dim=1) + pos
    assert torch.equal(restore_tokens(x, masks.ids_restore, mask_token, pos, prefix_tokens=1), theirs)


@on_types
@pytest.mark.parametrize("width", WIDTHS)
def test_shapes(device: str, backend: str, dtype: torch.dtype, width: int, nan_filled: None) -> None:
    cases = ((1, 1, 1, 0), (3, 7, 4, 1), (2, 30, 30, 0), (2, 23, 0, 0), (2, 11, 0, 2), (5, 19, 8, 4))
    with fastssl.use_backend(backend):
        for n, length, kept, prefix in cases:
            visible, ids, token, pos, _ = problem(n, length, kept, width, prefix, dtype, device)
            check(visible, ids, token, pos, prefix, (n, length, kept, prefix))
            if n == 3:
                check(visible, ids, token[0, 0], None, prefix, "without positions")
                check(visible, ids, token, pos[0], prefix, "positions [P + L, D]")


@on_backends
def test_mixed_types(device: str, backend: str, nan_filled: None) -> None:
    visible, ids, token, pos, prefix = problem(3, 9, 4, 20, 1, torch.float32, device)
    with fastssl.use_backend(backend):
        for types in itertools.product(TYPES[1:], repeat=3):
            check(*(visible.to(types[0]), ids, token.to(types[1]), pos.to(types[2]), prefix), types)
        for types in itertools.product(TYPES[1:], repeat=2):
            check(visible.to(types[0]), ids, token.to(types[1]), None, prefix, types)
    with fastssl.use_backend("torch"):
        check(visible.half(), ids, token, pos.double(), prefix, "float64 positions")


@on_backends
def test_layouts(device: str, backend: str, nan_filled: None) -> None:
    wide = torch.randn(4, 30, 48, device=device)
    with fastssl.use_backend(backend):
        for width in (1, 24):
            _, ids, token, pos, _ = problem(4, 11, 5, width, 1, torch.float32, device)
            strided = torch.stack([ids, -ids], 2)[..., 0]
            for layout, visible in token_layouts(4, 6, width, torch.float32, device).items():
                for same in (ids, strided, ids.T.contiguous().T, ids[:1].expand(4, 11)):
                    check(visible, same, token, pos, 1, (width, layout))
            visible = torch.randn(4, 6, width, device=device)
            check(visible, ids, wide[0, 0, ::2][:width], wide[1].T[: 2 * width : 2, :12].T, 1, "strided parameters")
            check(visible, ids, token, pos[:, :1].expand(1, 12, width), 1, "one position")


@on_backends
def test_upstream_gradient_of_any_layout(device: str, backend: str) -> None:
    visible, ids, token, pos, prefix = problem(4, 10, 5, 24, 1, torch.float32, device)
    leaves, ids = [x.requires_grad_() for x in (visible, token, pos)], ids.to(device)
    with fastssl.use_backend(backend):
        for layout, grad in token_layouts(4, 11, 24, torch.float32, device).items():
            out = restore_tokens(leaves[0], ids, *leaves[1:], prefix_tokens=prefix)
            spec = reference.restore_tokens(leaves[0], ids, *leaves[1:], prefix_tokens=prefix)
            for found, exact in zip(*(torch.autograd.grad(o, leaves, grad) for o in (out, spec)), strict=True):
                torch.testing.assert_close(found, exact, msg=lambda text, layout=layout: f"{layout}: {text}")


@on_backends
@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 5),
    length=st.integers(1, 60),
    kept=st.integers(0, 60),
    width=st.integers(1, 80),
    prefix=st.integers(0, 3),
    dtype=st.sampled_from(TYPES[1:]),
    with_pos=st.booleans(),
    layout=st.sampled_from(["contiguous", "transposed", "sequence first", "every other", "one token", "unaligned"]),
)
def test_any_size_type_and_layout(
    device: str, backend: str, n: int, length: int, kept: int, width: int, prefix: int, dtype: torch.dtype,
    with_pos: bool, layout: str,
) -> None:  # fmt: skip
    kept = min(kept, length)
    _, ids, token, pos, _ = problem(n, length, kept, width, prefix, dtype, device)
    rows = prefix + kept
    visible = token_layouts(n, rows, width, dtype, device)[layout] if rows else pos.new_empty((n, 0, width))
    with fastssl.use_backend(backend):
        check(visible, ids, token, pos if with_pos else None, prefix, layout)


@on_backends
def test_ids_that_name_no_visible_token(device: str, backend: str) -> None:
    visible, _, token, pos, _ = problem(2, 8, 3, 6, 1, torch.float32, device)
    wild = torch.tensor([[0, -1, 2, 3, 100, -(2**63), 1, 2**40], [2, 2, 0, 2**63 - 1, -3, 1, 1, 2**32 + 1]])
    tame = torch.where((wild >= 0) & (wild < 3), wild, 3)
    leaves = [x.requires_grad_() for x in (visible, token, pos)]
    with fastssl.use_backend(backend):
        out = restore_tokens(leaves[0], wild.to(device), *leaves[1:], prefix_tokens=1)
        spec = reference.restore_tokens(leaves[0], tame.to(device), *leaves[1:], prefix_tokens=1)
        assert torch.equal(out, spec)
        upstream = torch.randn_like(out)
        for found, exact in zip(*(torch.autograd.grad(o, leaves, upstream) for o in (out, spec)), strict=True):
            torch.testing.assert_close(found, exact)


@on_backends
def test_masks_of_different_sizes(device: str, backend: str) -> None:
    masks = random_masking(4, 50, [0.5, 0.75, 0.9, 0.6], seed=1, prefix_tokens=1, device=device)
    x = torch.randn(4, 50, 16, device=device)
    token = torch.full((16,), 7.0, device=device)
    with fastssl.use_backend(backend):
        back = restore_tokens(fastssl.functional.gather_tokens(x, masks.ids_keep), masks.ids_restore, token)
    assert torch.equal(back, torch.where(masks.mask[..., None] == 1, token, x))


@on_types
@pytest.mark.parametrize(("n", "length"), [(700, 1500), (3, 350000), (60000, 17)])
def test_sums_of_a_million_terms(device: str, backend: str, dtype: torch.dtype, n: int, length: int) -> None:
    # All upstream gradients positive: what a running sum in float32 loses here is 50 times what is allowed.
    ids = torch.arange(length, device=device).expand(n, length)
    visible, token, pos = (torch.zeros(*s, 1, device=device, dtype=dtype) for s in ((n, 2), (1, 1), (1, length)))
    upstream = (torch.rand(n, length, 1, device=device) / 16).to(dtype)
    with fastssl.use_backend(backend):
        found = values_and_gradients(lambda *x: restore_tokens(x[0], ids, *x[1:]), [visible, token, pos], [upstream])
    wide = upstream.double()
    exact = (wide[:, 2:].sum(), wide.sum(0))
    wide = upstream.to(sum_type(upstream))
    eager = (wide[:, 2:].sum(), wide.sum(0))
    for f, e, x in zip(found[2:], eager, exact, strict=True):
        hold_to_the_rule(f.flatten(), e.flatten(), x.flatten(), x.flatten(), (n, length))


@on_backends
def test_nan_and_inf_go_on(device: str, backend: str) -> None:
    visible, ids, token, pos, _ = problem(2, 6, 3, 4, 0, torch.float32, device)
    visible[0, 1] = math.nan
    visible[1, 2] = math.inf
    with fastssl.use_backend(backend):
        out = restore_tokens(visible, ids.to(device), token, pos)
        assert torch.equal(out.isnan().all(2).cpu(), (ids == 1) & torch.tensor([[True], [False]]))
        assert torch.equal((out == math.inf).all(2).cpu(), (ids == 2) & torch.tensor([[False], [True]]))
        out = restore_tokens(visible, ids.to(device), token * math.nan)
        assert torch.equal(out.isnan().all(2).cpu(), (ids >= 3) | ((ids == 1) & torch.tensor([[True], [False]])))


@on_backends
def test_only_the_gradients_asked_for(device: str, backend: str) -> None:
    inputs = problem(3, 9, 4, 8, 1, torch.float32, device)
    ids = inputs[1].to(device)
    with fastssl.use_backend(backend):
        for wanted in itertools.product((False, True), repeat=3):
            leaves = [x.clone().requires_grad_(w) for x, w in zip((inputs[0], *inputs[2:4]), wanted, strict=True)]
            out = restore_tokens(leaves[0], ids, *leaves[1:], prefix_tokens=1)
            assert out.requires_grad == any(wanted)
            if any(wanted):
                out.square().sum().backward()
            assert [x.grad is not None for x in leaves] == list(wanted)


@on_backends
def test_bit_identical_for_any_number_of_threads(device: str, backend: str) -> None:
    torch.use_deterministic_algorithms(True)
    visible, ids, token, pos, _ = problem(37, 60, 20, 33, 1, torch.float32, device)
    ids, upstream = ids.to(device), torch.randn(37, 61, 33, device=device)
    threads, runs = torch.get_num_threads(), []
    try:
        for count in (1, 1, 2, 2, 5):
            torch.set_num_threads(count)
            with fastssl.use_backend(backend):
                run = values_and_gradients(
                    lambda *x: restore_tokens(x[0], ids, *x[1:], prefix_tokens=1), [visible, token, pos], [upstream]
                )
            runs.append(run)
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(False)
    pairs = [(0, 1), (2, 3)] if backend == "torch" else [(0, i) for i in range(1, 5)]  # PyTorch sums as it likes
    for i, j in pairs:
        assert all(torch.equal(a, b) for a, b in zip(runs[i], runs[j], strict=True)), (i, j)


def test_gradcheck() -> None:
    visible, ids, token, pos, _ = problem(2, 6, 3, 2, 1, torch.float64, "cpu")
    leaves = [x.requires_grad_() for x in (visible, token, pos)]
    for count in (2, 3):
        arguments = leaves[:count]
        assert torch.autograd.gradcheck(lambda *x: restore_tokens(x[0], ids, *x[1:], prefix_tokens=1), arguments)
        assert torch.autograd.gradgradcheck(lambda *x: restore_tokens(x[0], ids, *x[1:], prefix_tokens=1), arguments)


@on_types
def test_opcheck(device: str, backend: str, dtype: torch.dtype) -> None:
    visible, ids, token, pos, _ = problem(2, 6, 3, 4, 1, dtype, device)
    leaves = [x.requires_grad_() for x in (visible, token.view(4), pos.view(7, 4))]
    ids = ids.to(device)
    for positions in (leaves[2], None):
        arguments = (leaves[0], ids, leaves[1], positions, 1, backend)
        torch.library.opcheck(torch.ops.fastssl.restore_tokens.default, arguments)
    grad = torch.randn(2, 7, 4, device=device).to(dtype).requires_grad_()
    for with_pos in (True, False):
        arguments = (grad, ids, 4, 1, with_pos, backend)
        torch.library.opcheck(torch.ops.fastssl.restore_tokens_backward.default, arguments)


@pytest.mark.parametrize("device", DEVICES)
def test_compiles_whole_with_a_dynamic_batch(device: str) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda x, ids, m, p: restore_tokens(x, ids, m, p, prefix_tokens=1) * 2, fullgraph=True, backend="aot_eager",
        dynamic=True,
    )  # fmt: skip
    for n, length, kept in ((4, 9, 5), (7, 12, 3)):
        visible, ids, token, pos, _ = problem(n, length, kept, 6, 1, torch.float32, device)
        ids, upstream = ids.to(device), [torch.randn(n, length + 1, 6, device=device)]
        inputs = [visible, token, pos]
        found = values_and_gradients(lambda x, m, p, ids=ids: compiled(x, ids, m, p), inputs, upstream)
        exact = values_and_gradients(
            lambda x, m, p, ids=ids: reference.restore_tokens(x, ids, m, p, 1) * 2, inputs, upstream
        )
        for a, b in zip(found, exact, strict=True):
            torch.testing.assert_close(a, b)


@on_backends
def test_autocast_promotes_as_without(device: str, backend: str) -> None:
    visible, ids, token, pos, _ = problem(2, 6, 3, 4, 1, torch.float32, device)
    ids = ids.to(device)
    with fastssl.use_backend(backend), torch.autocast(device, torch.bfloat16):
        out = restore_tokens(visible.bfloat16(), ids, token, pos, prefix_tokens=1)
        assert out.dtype == torch.float32
        halves = restore_tokens(visible.bfloat16(), ids, token.bfloat16(), pos.bfloat16(), prefix_tokens=1)
        assert halves.dtype == torch.bfloat16
