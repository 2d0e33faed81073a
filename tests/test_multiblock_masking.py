"""Multi-block masks: the same bits everywhere, and the distributions of I-JEPA's and V-JEPA's samplers."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import DEVICES, runnable
from hypothesis import given, settings
from hypothesis import strategies as st
from masking_reference import MULTIBLOCK, hold_to_the_contract_of_draws, words
from scipy import stats

import fastssl
from fastssl import reference
from fastssl.functional import multiblock_masking

BACKENDS = runnable("multiblock_masking", torch.int64)
on_backends = pytest.mark.parametrize(("device", "backend"), BACKENDS)


def corners_and_sides(masks: torch.Tensor, grid: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """First place and length along each axis of every block, [n, B, axes]; each must be a full box."""
    box = masks.cpu().unflatten(2, grid)
    first, length = [], []
    for axis in range(len(grid)):
        others = [a + 2 for a in range(len(grid)) if a != axis]
        line = box.any(others[-1]) if len(others) == 1 else box.any(others[1]).any(others[0])
        length.append(line.sum(2))
        first.append(line.int().argmax(2))
    sides = torch.stack(length, 2)
    assert torch.equal(sides.prod(2), masks.cpu().sum(2))  # nothing missing in the box
    start = torch.stack(first, 2)
    for axis in range(len(grid)):  # and no gap
        assert (start[..., axis] + sides[..., axis] <= grid[axis]).all()
    return start, sides


@on_backends
@settings(max_examples=60, deadline=None)
@given(
    grid=st.tuples(st.integers(1, 5), st.integers(1, 24), st.integers(1, 24)),
    num_blocks=st.integers(1, 5),
    scale=st.sampled_from([(0.15, 0.2), (0.85, 1.0), (0.01, 0.05), (1.0, 1.0), (0.5, 0.5)]),
    aspect=st.sampled_from([(0.75, 1.5), (1.0, 1.0), (0.1, 0.3), (3.0, 50.0)]),
    temporal=st.sampled_from([(1.0, 1.0), (0.2, 0.9), (0.01, 0.01)]),
    shared=st.booleans(),
    seed=st.integers(-(2**63), 2**64 - 1),
    first=st.integers(0, 2**62),
    view=st.integers(0, 2**32 - 1),
)
def test_every_backend_draws_the_reference(
    device: str, backend: str, grid: tuple[int, int, int], num_blocks: int, scale: tuple[float, float],
    aspect: tuple[float, float], temporal: tuple[float, float], shared: bool, seed: int, first: int, view: int,
) -> None:  # fmt: skip
    options = {
        "num_blocks": num_blocks, "scale": scale, "aspect_ratio": aspect, "temporal_scale": temporal,
        "shared_size": shared, "view": view,
    }  # fmt: skip
    expected = reference.multiblock_masking(3, grid, seed % 2**64, first_id=first, **options)
    with fastssl.use_backend(backend):
        masks = multiblock_masking(3, grid, seed=seed, sample_ids=first + torch.arange(3, device=device), **options)
        assert masks.dtype == torch.bool
        assert masks.is_contiguous()
        assert torch.equal(masks.cpu(), expected)
        if grid[0] == 1:
            flat = multiblock_masking(
                3, grid[1:], seed=seed, sample_ids=first + torch.arange(3, device=device), **options
            )  # fmt: skip
            assert torch.equal(flat, masks)
    corners_and_sides(masks, grid)


@on_backends
def test_places_follow_from_the_words_of_philox(device: str, backend: str) -> None:
    seed, view, height, width, frames = 2**60 + 3, 4, 30, 50, 7
    with fastssl.use_backend(backend):
        masks = multiblock_masking(
            2, (frames, height, width), num_blocks=3, scale=(1e-4, 1e-4), temporal_scale=(0.1, 0.1), seed=seed,
            view=view, device=device,
        )  # fmt: skip
    for i in range(2):
        for b in range(3):
            place = words(seed, i, view, MULTIBLOCK, 2 * b + 1)
            row, column, frame = (w * side >> 32 for w, side in zip(place, (height, width, frames), strict=False))
            assert masks[i, b].nonzero().tolist() == [[(frame * height + row) * width + column]]


@on_backends
def test_one_size_for_all_blocks_of_a_call(device: str, backend: str, nan_filled: None) -> None:
    grid = (16, 14, 14)
    with fastssl.use_backend(backend):
        masks = multiblock_masking(50, grid, temporal_scale=(0.3, 0.8), seed=3, device=device)
        _, sides = corners_and_sides(masks, grid)
        assert (sides == sides[0, 0]).all()
        some = multiblock_masking(
            1, grid, temporal_scale=(0.3, 0.8), seed=3, sample_ids=torch.tensor([2**33], device=device)
        )  # fmt: skip
        assert torch.equal(corners_and_sides(some, grid)[1][0], sides[0])
        drawn = {
            tuple(corners_and_sides(multiblock_masking(1, (14, 14), seed=s, device=device), (14, 14))[1][0, 0].tolist())
            for s in range(30)
        }
    assert len(drawn) > 3
    assert all(4 <= h <= 8 and 4 <= w <= 8 and 20 <= h * w <= 48 for h, w in drawn)


def test_distributions() -> None:
    n, grid = 1500, (60, 80)
    masks = multiblock_masking(n, grid, shared_size=False, scale=(0.1, 0.3), aspect_ratio=(0.5, 2.0), seed=1)
    start, sides = corners_and_sides(masks, grid)
    h, w = sides.double().flatten(0, 1).unbind(1)
    area, aspect = h * w / math.prod(grid), h / w
    assert area.min() > 0.095
    assert area.max() < 0.31
    assert abs(area.mean() - 0.2) < 5 * 0.2 / 12**0.5 / len(area) ** 0.5
    assert 0.45 < aspect.min() < 0.52  # uniform in h / w itself, not in its logarithm
    assert 1.94 < aspect.max() < 2.1
    assert abs(aspect.mean() - 1.25) < 5 * 1.5 / 12**0.5 / len(aspect) ** 0.5 + 0.005
    for axis in range(2):  # uniform over all places, jittered to undo the steps
        room = (grid[axis] - sides[..., axis] + 1).double()
        place = (start[..., axis] + torch.rand(start.shape[:2], dtype=torch.float64)) / room
        assert stats.kstest(place.flatten().numpy(), "uniform").pvalue > 1e-4
    frames = corners_and_sides(
        multiblock_masking(800, (10, 4, 4), temporal_scale=(0.35, 0.95), shared_size=False, seed=2), (10, 4, 4)
    )[1][..., 0]
    counts = frames.flatten().bincount(minlength=11)
    assert counts[:3].sum() == 0
    assert counts[10] == 0
    expected = torch.tensor([0.5, *[1] * 5, 0.5], dtype=torch.float64) / 6 * frames.numel()
    assert stats.chisquare(counts[3:10].numpy(), expected.numpy()).pvalue > 1e-4


def test_every_place_is_drawn_and_the_last_row_and_column_are_too() -> None:
    start, sides = corners_and_sides(multiblock_masking(4000, (14, 14), seed=5), (14, 14))
    for axis in range(2):
        places = 14 - int(sides[0, 0, axis]) + 1
        counts = start[..., axis].flatten().bincount(minlength=places)
        assert len(counts) == places
        assert stats.chisquare(counts.numpy()).pvalue > 1e-4


@on_backends
def test_draws(device: str, backend: str, nan_filled: None) -> None:
    with fastssl.use_backend(backend):
        for shared in (True, False):
            hold_to_the_contract_of_draws(
                lambda n, shared=shared, **options: (
                    multiblock_masking(n, (3, 9, 13), shared_size=shared, device=device, **options),
                ),
                device,
            )


@on_backends
def test_opcheck(device: str, backend: str) -> None:
    ids, table = torch.arange(3, device=device), [0.15, 0.2, 0.75, 1.5, 1.0, 1.0]
    for some, shared in ((None, True), (ids, False)):
        arguments = (torch.tensor(3), some, 3, [2, 6, 5], 4, table, shared, 0, torch.device(device), backend)
        torch.library.opcheck(torch.ops.fastssl.multiblock_masking.default, arguments)


@pytest.mark.parametrize("device", DEVICES)
def test_compiles_whole_with_a_dynamic_batch(device: str) -> None:
    def count(x: torch.Tensor, seed: torch.Tensor) -> torch.Tensor:
        return multiblock_masking(x.shape[0], (6, 7), seed=seed, device=x.device).sum(2) + x[:, None]

    torch._dynamo.reset()
    compiled = torch.compile(count, fullgraph=True, backend="aot_eager", dynamic=True)
    for n in (4, 7):
        x = torch.randn(n, device=device)
        assert torch.equal(compiled(x, torch.tensor(n)), count(x, torch.tensor(n)))
