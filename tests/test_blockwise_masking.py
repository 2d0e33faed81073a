"""Blockwise masks: the same bits everywhere, and what BEiT's sampler gives."""

from __future__ import annotations

import math
import random

import pytest
import torch
from conftest import DEVICES, runnable
from hypothesis import given, settings
from hypothesis import strategies as st
from masking_reference import BLOCKWISE, hold_to_the_contract_of_draws, words
from scipy import stats

import fastssl
from fastssl import reference
from fastssl.functional import blockwise_masking

BACKENDS = runnable("blockwise_masking", torch.int64)
on_backends = pytest.mark.parametrize(("device", "backend"), BACKENDS)


@on_backends
@settings(max_examples=100, deadline=None)
@given(
    grid=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    part=st.floats(0, 1),
    min_patches=st.sampled_from([1, 4, 16, 100]),
    max_patches=st.sampled_from([None, 1, 10, 50]),
    aspect=st.sampled_from([(0.3, 1 / 0.3), (1.0, 1.0), (0.01, 0.1), (2.0, 9.0)]),
    seed=st.integers(-(2**63), 2**64 - 1),
    first=st.integers(0, 2**62),
    view=st.integers(0, 2**32 - 1),
)
def test_every_backend_draws_the_reference(
    device: str, backend: str, grid: tuple[int, int], part: float, min_patches: int, max_patches: int | None,
    aspect: tuple[float, float], seed: int, first: int, view: int,
) -> None:  # fmt: skip
    options = {"min_patches": min_patches, "max_patches": max_patches, "aspect_ratio": aspect, "view": view}
    target = int(part * math.prod(grid))
    expected = reference.blockwise_masking(3, grid, target, seed % 2**64, first_id=first, **options)
    ids = first + torch.arange(3, device=device)
    with fastssl.use_backend(backend):
        masks = blockwise_masking(3, grid, target, seed=seed, sample_ids=ids, **options)
    assert masks.dtype == torch.bool
    assert masks.is_contiguous()
    assert torch.equal(masks.cpu(), expected)
    assert (masks.sum(1) <= target).all()


@on_backends
def test_single_patches_follow_from_the_words_of_philox(device: str, backend: str) -> None:
    height, width, seed, view = 9, 11, 2**59 + 1, 3
    with fastssl.use_backend(backend):
        masks = blockwise_masking(
            4, (height, width), 60, min_patches=1, max_patches=1, aspect_ratio=(1.0, 1.0), seed=seed, view=view,
            device=device,
        )  # fmt: skip
    for i in range(4):
        masked, failures, attempt = set(), 0, 0
        while len(masked) < 60 and failures < 10 and attempt < 256:
            _, _, row, column = words(seed, i, view, BLOCKWISE, attempt)
            patch = (row * height >> 32) * width + (column * width >> 32)
            failures = failures + 1 if patch in masked else 0
            masked.add(patch)
            attempt += 1
        assert masks[i].nonzero().flatten().tolist() == sorted(masked)


@on_backends
def test_a_number_for_each_sample(device: str, backend: str, nan_filled: None) -> None:
    targets = torch.tensor([0, 196, 75, 1, 20, 98, -3, 500], device=device)
    wide = torch.stack([targets, targets + 1], 1)
    with fastssl.use_backend(backend):
        masks = blockwise_masking(8, (14, 14), targets, seed=4)
        assert (masks.sum(1) <= targets.clamp(0)).all()
        for i, target in enumerate(targets.clamp(0, 196).tolist()[:6]):
            alone = blockwise_masking(
                1, (14, 14), target, max_patches=196, seed=4, sample_ids=torch.tensor([i], device=device)
            )  # fmt: skip
            assert torch.equal(alone[0], masks[i])
        assert torch.equal(blockwise_masking(8, (14, 14), wide[:, 0], seed=4), masks)
        assert not masks[[0, 6]].any()


def beit(generator: random.Random, side: int, target: int, least: int, low: float, high: float) -> list[list[bool]]:
    """Algorithm 1 of BEiT with the tries of its authors' code: ten for each block, and an end when all fail."""
    mask, count = [[False] * side for _ in range(side)], 0
    while count < target:
        for _ in range(10):
            area = generator.uniform(least, target - count)
            aspect = math.exp(generator.uniform(math.log(low), math.log(high)))
            h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if not (h < side and w < side):
                continue
            top, left = generator.randint(0, side - h), generator.randint(0, side - w)
            block = [(i, j) for i in range(top, top + h) for j in range(left, left + w) if not mask[i][j]]
            if 0 < len(block) <= target - count:
                for i, j in block:
                    mask[i][j] = True
                count += len(block)
                break
        else:
            break
    return mask


@pytest.mark.parametrize(("side", "target", "least"), [(14, 75, 16), (14, 20, 16), (8, 40, 4)])
def test_distribution_is_beits(side: int, target: int, least: int) -> None:
    n = 2000
    ours = blockwise_masking(n, (side, side), target, min_patches=least, seed=11).double()
    generator = random.Random(1)
    theirs = torch.tensor([beit(generator, side, target, least, 0.3, 1 / 0.3) for _ in range(n)]).flatten(1).double()
    counts = [x.sum(1) for x in (ours, theirs)]
    assert stats.ks_2samp(*(c.numpy() for c in counts)).pvalue > 1e-4
    assert max(c.max() for c in counts) <= target
    assert min(c.mean() for c in counts) > 0.85 * target
    frequency = [x.mean(0) for x in (ours, theirs)]
    spread = ((ours.var(0) + theirs.var(0)) / n).sqrt()
    assert ((frequency[0] - frequency[1]).abs() < 5 * spread + 1e-9).all()
    maps = [f.view(side, side) for f in frequency]
    assert maps[0][-1, -1] > 0  # the last row and column are masked too
    assert maps[0][0, 0] > 0
    # Neighbours are masked together as often.
    pairs = [(x.view(n, side, side)[:, :, 1:] * x.view(n, side, side)[:, :, :-1]).mean((1, 2)) for x in (ours, theirs)]
    assert abs(pairs[0].mean() - pairs[1].mean()) < 5 * ((pairs[0].var() + pairs[1].var()) / n).sqrt()


@on_backends
def test_draws(device: str, backend: str, nan_filled: None) -> None:
    with fastssl.use_backend(backend):
        hold_to_the_contract_of_draws(
            lambda n, **options: (blockwise_masking(n, (9, 13), 50, min_patches=4, device=device, **options),), device
        )


@on_backends
def test_opcheck(device: str, backend: str) -> None:
    target = torch.tensor([5, 9, 0], device=device)
    for ids, some in ((None, target[:1].expand(3)), (torch.arange(3, device=device), target)):
        arguments = (torch.tensor(3), ids, some, 3, 4, 5, 2, 20, [-1.2, 1.2], 1, backend)
        torch.library.opcheck(torch.ops.fastssl.blockwise_masking.default, arguments)


@pytest.mark.parametrize("device", DEVICES)
def test_compiles_whole_with_a_dynamic_batch(device: str) -> None:
    def count(targets: torch.Tensor, seed: torch.Tensor) -> torch.Tensor:
        return blockwise_masking(targets.shape[0], (6, 7), targets, min_patches=2, seed=seed).sum(1) + targets

    torch._dynamo.reset()
    compiled = torch.compile(count, fullgraph=True, backend="aot_eager", dynamic=True)
    for n in (4, 7):
        targets = torch.randint(0, 42, (n,), device=device)
        assert torch.equal(compiled(targets, torch.tensor(n)), count(targets, torch.tensor(n)))
