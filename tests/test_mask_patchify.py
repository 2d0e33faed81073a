"""Visible patches of images: every backend, layout, patch and type against the definition."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import DEVICES, runnable
from hypothesis import given, settings
from hypothesis import strategies as st
from masking_reference import (
    TYPES,
    hold_linear_op,
    hold_to_the_rule,
    normalized,
    patches_by_loops,
    some_ids,
    sum_type,
    values_and_gradients,
    videos,
)

import fastssl
from fastssl import reference
from fastssl.functional import mask_patchify

on_backends = pytest.mark.parametrize(("device", "backend"), runnable("mask_patchify"))
on_types = pytest.mark.parametrize(
    ("dtype", "device", "backend"), [(t, *where) for t in TYPES for where in runnable("mask_patchify", t)]
)
# images [N, C, T, H, W] and their patch (t, p, q)
CASES = [
    ((2, 3, 1, 32, 32), (1, 16, 16)),
    ((2, 1, 1, 12, 20), (1, 3, 5)),
    ((3, 4, 1, 8, 6), (1, 2, 2)),
    ((2, 3, 1, 5, 7), (1, 1, 1)),
    ((2, 16, 1, 6, 9), (1, 6, 3)),
    ((1, 2, 1, 28, 14), (1, 14, 14)),
    ((2, 3, 4, 8, 12), (2, 4, 4)),
    ((2, 1, 6, 4, 6), (3, 2, 6)),
    ((1, 3, 2, 33, 17), (2, 33, 17)),
    ((1, 5, 1, 1, 130), (1, 1, 65)),
]


def statistics(channels: int) -> tuple[list[float], list[float]]:
    return [0.1 * c - 0.3 for c in range(channels)], [0.2 + 0.3 * c for c in range(channels)]


def tokens_of(shape: tuple[int, ...], patch: tuple[int, ...]) -> int:
    return math.prod(size // side for size, side in zip(shape[2:], patch, strict=True))


def check(
    images: torch.Tensor, ids: torch.Tensor, patch: tuple[int, int, int], channels_last: bool, where: object,
    mean: list[float] | None = None, std: list[float] | None = None, dtype: torch.dtype | None = None,
) -> None:  # fmt: skip
    """The patches alone: copies of floats are exact, normalised pixels obey the rule."""
    ids = ids.to(images.device)
    options = {"mean": mean, "std": std, "channels_last": channels_last, "dtype": dtype}
    if images.shape[2] == 1 and patch[0] == 1:
        images = images[:, :, 0]  # as [N, C, H, W]
        found = mask_patchify(images, ids, patch[1] if patch[1] == patch[2] else patch[1:], **options)
        images = images.unsqueeze(2)
    else:
        found = mask_patchify(images, ids, patch, **options)
    assert found.is_contiguous(), where
    assert found.dtype == (dtype or (images.dtype if images.is_floating_point() else torch.float32)), where

    def taken(x: torch.Tensor) -> torch.Tensor:
        return reference.gather_tokens(reference.patchify(x, patch, channels_last), ids)

    if images.is_floating_point() and mean is None:
        assert torch.equal(found, taken(images).to(found.dtype)), where
        return
    exact = normalized(images, mean, std)
    offset = normalized(torch.zeros_like(images), mean, std)
    size = (exact - offset).abs() + offset.abs()
    hold_to_the_rule(found, taken(exact.to(sum_type(found))), taken(exact), taken(size), where)


def test_reference_equals_loops() -> None:
    for shape, patch in CASES[1:5] + CASES[6:8]:
        images, pos = torch.randn(shape, dtype=torch.float64), torch.randn(tokens_of(shape, patch), 3).double()
        ids = some_ids(shape[0], max(1, len(pos) // 2), len(pos), "none")
        for last in (False, True):
            loops = patches_by_loops(images, patch, last)
            assert torch.equal(reference.patchify(images, patch, last), loops)
            patches, positions = reference.mask_patchify(images, ids, patch, pos, last)
            for n, row in enumerate(ids.tolist()):
                for k, i in enumerate(row):
                    assert torch.equal(patches[n, k], loops[n, i] if i >= 0 else torch.zeros(loops.shape[2]))
                    assert torch.equal(positions[n, k], pos[i] if i >= 0 else torch.zeros(3))


@on_backends
def test_elements_are_in_the_order_of_convolution_weights(device: str, backend: str) -> None:
    images, conv = torch.randn(2, 3, 1, 12, 8, device=device), torch.nn.Conv2d(3, 5, (4, 2), (4, 2)).to(device)
    video, conv3 = torch.randn(2, 3, 4, 6, 6, device=device), torch.nn.Conv3d(3, 5, (2, 3, 3), (2, 3, 3)).to(device)
    for x, layer, patch in ((images[:, :, 0], conv, (4, 2)), (video, conv3, (2, 3, 3))):
        embedded = layer(x).flatten(2).transpose(1, 2)
        ids = some_ids(2, 5, embedded.shape[1]).to(device)
        with fastssl.use_backend(backend):
            patches = mask_patchify(x, ids, patch)
        ours = patches @ layer.weight.flatten(1).T + layer.bias
        torch.testing.assert_close(ours, reference.gather_tokens(embedded, ids), atol=1e-5, rtol=1e-5)


@on_backends
@pytest.mark.parametrize(("shape", "patch"), CASES)
def test_patches_of_every_layout(
    device: str, backend: str, shape: tuple[int, ...], patch: tuple[int, int, int], nan_filled: None
) -> None:
    tokens = tokens_of(shape, patch)
    mean, std = statistics(shape[1])
    with fastssl.use_backend(backend):
        for dtype in (torch.uint8, torch.float32):
            for layout, images in videos(shape, dtype, device).items():
                ids = some_ids(shape[0], -(-tokens // 2), tokens, "none")
                stated = {} if dtype == torch.uint8 and shape[1] in (1, 3) else {"mean": mean, "std": std}
                for last in (False, True):
                    check(images, ids, patch, last, (layout, last), **stated)
                    if dtype == torch.float32:
                        check(images, ids, patch, last, (layout, last))


@on_backends
def test_pixels_of_every_type(device: str, backend: str, nan_filled: None) -> None:
    mean, std = statistics(3)
    ids = torch.tensor([[3, 0, -1, 3], [1, 1, 2, 0]])
    with fastssl.use_backend(backend):
        for dtype in (torch.uint8, *TYPES[1:]):
            images = videos((2, 3, 1, 8, 8), dtype, device)["contiguous"]
            for out in (None, *TYPES[1:]):
                check(images, ids, (1, 4, 4), False, (dtype, out), dtype=out)
                check(images, ids, (1, 4, 4), True, (dtype, out), mean, std, out)
    with fastssl.use_backend("torch"):
        for dtype in (torch.uint8, *TYPES):
            images = videos((2, 3, 1, 8, 8), dtype, device)["contiguous"]
            check(images, ids, (1, 4, 4), False, (dtype, "float64"), mean, std, torch.float64)
        check(images, ids, (1, 4, 4), False, "float64")


@on_backends
def test_every_pixel_value(device: str, backend: str) -> None:
    images = torch.arange(256, dtype=torch.uint8, device=device).view(1, 1, 16, 16).expand(2, 3, 16, 16)
    ids = torch.zeros(2, 1, dtype=torch.int64, device=device)
    with fastssl.use_backend(backend):
        patches = mask_patchify(images, ids, 16).view(2, 3, 256)
    mean, std = (torch.tensor(s, device=device)[:, None] for s in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    exact = (torch.arange(256, device=device).double() / 255 - mean) / std
    torch.testing.assert_close(patches[0].double(), exact, rtol=1e-6, atol=5e-7)


@on_types
@pytest.mark.parametrize("width", [1, 3, 16, 127, 768])
def test_positions(device: str, backend: str, dtype: torch.dtype, width: int, nan_filled: None) -> None:
    images = videos((3, 3, 1, 12, 8), torch.uint8, device)["contiguous"][:, :, 0]
    with fastssl.use_backend(backend):
        for kind, count in (("distinct", 6), ("distinct", 3), ("none", 4), ("duplicates", 40), ("distinct", 0)):
            ids = some_ids(3, count, 6, kind).to(device)
            wide = torch.randn(6, 2 * width + 1, device=device).to(dtype)
            for pos in (wide[None, :, :width].contiguous(), wide[:, :width], wide[:, 1::2]):
                found = hold_linear_op(
                    lambda pos, ids=ids: mask_patchify(images, ids, 4, pos)[1],
                    lambda pos, ids=ids: reference.gather_tokens(pos.reshape(6, -1).expand(3, -1, -1), ids),
                    [pos], (kind, count),
                )  # fmt: skip
                assert found[0].dtype == dtype
                assert torch.equal(
                    found[0], reference.gather_tokens(pos.reshape(6, -1).expand(3, -1, -1), ids)
                )  # copies are exact
                assert found[0].is_contiguous()
        patches, _ = mask_patchify(images, ids, 4, pos)
        assert torch.equal(patches, mask_patchify(images, ids, 4))


@on_types
def test_gradients_of_a_million_samples(device: str, backend: str, dtype: torch.dtype) -> None:
    n = 300000
    images = torch.zeros(1, 1, 1, 4, dtype=torch.uint8, device=device).expand(n, 1, 1, 4)
    ids, pos = torch.randint(-1, 4, (n, 4), device=device), torch.zeros(4, 1, device=device, dtype=dtype)
    upstream = (torch.rand(n, 4, 1, device=device) / 8).to(dtype)  # positive: a running sum in float32 would show
    with fastssl.use_backend(backend):
        _, found = values_and_gradients(lambda pos: mask_patchify(images, ids, 1, pos)[1], [pos], [upstream])
    exact, eager = (
        torch.zeros(5, dtype=kind, device=device).index_add_(0, ids.flatten() + 1, upstream.flatten().to(kind))[
            1:, None
        ]
        for kind in (torch.float64, sum_type(upstream))
    )
    if eager.dtype == torch.float32:
        eager = exact.float()  # PyTorch's own sum runs through a million terms here
    hold_to_the_rule(found, eager, exact, exact, "pos")


@on_backends
@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 3),
    channels=st.integers(1, 16),
    patch=st.tuples(st.integers(1, 3), st.integers(1, 18), st.integers(1, 18)),
    grid=st.tuples(st.integers(1, 2), st.integers(1, 4), st.integers(1, 4)),
    layout=st.sampled_from(["contiguous", "channels last", "frames first", "transposed", "every other", "slice"]),
    integers=st.booleans(),
    channels_last=st.booleans(),
    dtype=st.sampled_from(TYPES[1:]),
    kept=st.integers(0, 9),
)
def test_any_size_type_and_layout(
    device: str, backend: str, n: int, channels: int, patch: tuple[int, int, int], grid: tuple[int, int, int],
    layout: str, integers: bool, channels_last: bool, dtype: torch.dtype, kept: int,
) -> None:  # fmt: skip
    shape = (n, channels, *(g * side for g, side in zip(grid, patch, strict=True)))
    images = videos(shape, torch.uint8 if integers else torch.float32, device)[layout]
    with fastssl.use_backend(backend):
        ids = torch.randint(-1, math.prod(grid), (n, kept))
        check(images, ids, patch, channels_last, layout, *statistics(channels), dtype=dtype)


@on_backends
def test_other_patches_are_not_touched(device: str, backend: str) -> None:
    images = torch.randn(2, 3, 12, 12, device=device)
    images[:, :, :4] = math.nan
    ids = torch.tensor([[3, 8, -1], [5, 4, 7]], device=device)
    with fastssl.use_backend(backend):
        patches = mask_patchify(images, ids, 4)
        assert patches.isfinite().all()
        assert not patches[0, 2].any()
        images[1, 2, 4, 5] = math.inf
        images[0, 0, 5, 1] = math.nan
        patches = mask_patchify(images, ids, 4, mean=[0.5] * 3, std=[2.0] * 3)
        assert patches.isnan().sum() == 1
        assert patches.isinf().sum() == 1


@on_backends
def test_ids_out_of_range_name_nothing(device: str, backend: str) -> None:
    images = torch.randn(2, 3, 1, 8, 8, device=device)
    pos = torch.randn(4, 6, device=device, requires_grad=True)
    wild = torch.tensor([[3, 4, -2, 2**40, 0], [-(2**63), 2**63 - 1, 2, 1, 2**32]], device=device)
    tame = torch.where((wild >= 0) & (wild < 4), wild, -1)
    results = []
    for ids in (wild, tame):
        arguments = (images, ids, [1, 4, 4], pos, [1.0] * 3, [0.5] * 3, False, torch.float32, backend)
        patches, positions = torch.ops.fastssl.mask_patchify(*arguments)
        results.append((patches, positions, *torch.autograd.grad(positions.sum(), pos)))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@on_backends
def test_bit_identical_for_any_number_of_threads(device: str, backend: str) -> None:
    torch.use_deterministic_algorithms(True)
    images = torch.randint(0, 256, (21, 3, 24, 24), dtype=torch.uint8, device=device)
    ids = torch.randint(-1, 36, (21, 50), device=device)
    pos, upstream = torch.randn(36, 33, device=device), torch.randn(21, 50, 33, device=device)
    threads, runs = torch.get_num_threads(), []
    try:
        for count in (1, 2, 2, 5):
            torch.set_num_threads(count)
            with fastssl.use_backend(backend):
                run = values_and_gradients(lambda pos: mask_patchify(images, ids, 4, pos)[1], [pos], [upstream])
                runs.append([*run, mask_patchify(images, ids, 4)])
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(False)
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(run, runs[0], strict=True))


def test_gradcheck() -> None:
    images, pos = torch.randn(2, 3, 4, 6).double(), torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    ids = torch.tensor([[0, 4, 4, -1], [2, 1, 0, 5]])
    assert torch.autograd.gradcheck(lambda pos: mask_patchify(images, ids, 2, pos)[1], pos)
    assert torch.autograd.gradgradcheck(lambda pos: mask_patchify(images, ids, 2, pos)[1], pos)


@on_types
def test_opcheck(device: str, backend: str, dtype: torch.dtype) -> None:
    ids = torch.tensor([[0, 3, -1], [2, 2, 1]], device=device)
    pos = torch.randn(4, 5, device=device).to(dtype).requires_grad_()
    kind = torch.float64 if dtype == torch.float64 else torch.bfloat16
    for pixels, positions in ((torch.uint8, pos), (dtype, None)):
        images = videos((2, 3, 1, 4, 6), pixels, device)["contiguous"]
        arguments = (images, ids, [1, 2, 3], positions, [0.5] * 3, [0.1] * 3, True, kind, backend)
        torch.library.opcheck(torch.ops.fastssl.mask_patchify.default, arguments)
    grad = torch.randn(2, 3, 5, device=device).to(dtype).requires_grad_()
    torch.library.opcheck(torch.ops.fastssl.mask_patchify_backward.default, (grad, ids, 4, backend))


@pytest.mark.parametrize("device", DEVICES)
def test_compiles_whole_with_a_dynamic_batch(device: str) -> None:
    def embed(images: torch.Tensor, ids: torch.Tensor, pos: torch.Tensor) -> torch.Tensor:
        patches, positions = mask_patchify(images, ids, 4, pos)
        return patches[..., :6] * 2 + positions

    torch._dynamo.reset()
    compiled = torch.compile(embed, fullgraph=True, backend="aot_eager", dynamic=True)
    for n, side, kept in ((4, 8, 3), (6, 12, 7)):
        images = torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, device=device)
        tokens = (side // 4) ** 2
        ids, pos = some_ids(n, kept, tokens, "none").to(device), torch.randn(1, tokens, 6, device=device)
        upstream = [torch.randn(n, min(kept, tokens), 6, device=device)]
        found, exact = (
            values_and_gradients(lambda pos, f=f, a=images, b=ids: f(a, b, pos), [pos], upstream)
            for f in (compiled, embed)
        )
        for a, b in zip(found, exact, strict=True):
            torch.testing.assert_close(a, b)


@on_backends
def test_autocast_gives_its_type(device: str, backend: str) -> None:
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8, device=device)
    ids, pos = torch.tensor([[1, 0], [3, 2]], device=device), torch.randn(4, 5, device=device)
    with fastssl.use_backend(backend):
        plain = mask_patchify(images, ids, 4)
        with torch.autocast(device, torch.bfloat16):
            patches, positions = mask_patchify(images, ids, 4, pos)
            assert patches.dtype == torch.bfloat16
            assert positions.dtype == torch.float32
            torch.testing.assert_close(patches.float(), plain, rtol=2**-8, atol=0)
            assert mask_patchify(images.float(), ids, 4).dtype == torch.bfloat16
            assert mask_patchify(images, ids, 4, dtype=torch.float32).dtype == torch.float32
