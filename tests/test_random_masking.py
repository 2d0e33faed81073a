"""Random masks: the definition by sorting, MAE's own code, the words of Philox, the same bits on every backend."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from conftest import DEVICES, runnable
from hypothesis import given, settings
from hypothesis import strategies as st
from masking_reference import hold_to_the_contract_of_draws, random_masks, token_words
from scipy import stats

import fastssl
from fastssl import reference
from fastssl.functional import TokenMasks, random_masking

BACKENDS = runnable("random_masking", torch.int64)
on_backends = pytest.mark.parametrize(("device", "backend"), BACKENDS)
LENGTHS = (1, 2, 3, 7, 196, 197, 1000, 1568, 16384)
RATIOS = (0, 0.25, 0.5, 0.75, 0.9, 0.999)


def parts(masks: TokenMasks) -> tuple[torch.Tensor, ...]:
    return tuple(part.cpu() for part in (*masks, masks.ids_masked))


def assert_equal(masks: TokenMasks, expected: tuple[torch.Tensor, ...], where: object = "") -> None:
    names = ("ids_keep", "ids_restore", "mask", "ids_masked")
    for name, found, exact in zip(names, parts(masks), expected, strict=True):
        assert found.dtype == exact.dtype, (name, where)
        assert torch.equal(found, exact), (name, where)


@on_backends
@pytest.mark.parametrize("length", LENGTHS)
def test_masks_follow_from_the_words_of_philox(device: str, backend: str, length: int, nan_filled: None) -> None:
    n, seed = 2 if length > 1000 else 5, 2**61 + 12345
    noise = [token_words(seed, i, 0, length) for i in range(n)]
    with fastssl.use_backend(backend):
        for ratio in RATIOS:
            masks = random_masking(n, length, ratio, seed=seed, device=device)
            assert masks.mask.device.type == device
            assert_equal(masks, random_masks(noise, [ratio] * n, 0), ratio)


@on_backends
def test_maes_code_gives_the_same_masks(device: str, backend: str) -> None:
    np.random.seed(2)
    for n, length, ratio in ((4, 196, 0.75), (3, 100, 0.9), (8, 49, 0.6), (1, 1, 0.75)):
        noise = torch.from_numpy(np.random.rand(n, length).astype(np.float32))
        assert all(len(row.unique()) == length for row in noise)  # their sort is not stable
        len_keep = int(length * (1 - ratio))
        ids_shuffle = torch.argsort(noise, dim=1)
        ids_restore = torch.argsort(ids_shuffle, dim=1)
        mask = torch.ones([n, length])
        mask[:, :len_keep] = 0
        mask = torch.gather(mask, dim=1, index=ids_restore)
        with fastssl.use_backend(backend):
            masks = random_masking(n, length, ratio, noise=noise.to(device))
        assert_equal(masks, (ids_shuffle[:, :len_keep], ids_restore, mask, ids_shuffle[:, len_keep:]))


def test_numbers_that_are_kept() -> None:
    for length, ratio, kept in ((100, 0.9, 9), (196, 0.75, 49), (1568, 0.9, 156), (10, 0.999, 0), (10, 0, 10)):
        masks = random_masking(2, length, ratio)
        assert masks.ids_keep.shape == (2, kept)
        assert masks.ids_masked.shape == (2, length - kept)
        assert masks.mask.sum(1).tolist() == [length - kept] * 2
    assert random_masking(1, 101, 0.9, prefix_tokens=1).ids_keep.shape == (1, 10)


@on_backends
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_ties_nan_and_zeros_in_noise(device: str, backend: str, dtype: torch.dtype) -> None:
    noise = torch.randn(6, 50, dtype=torch.float64)
    noise[0] = 0.25
    noise[1, ::2], noise[1, 1::2] = 0.0, -0.0
    noise[2, 5:30:3] = math.nan
    noise[3] = -math.nan
    noise[4, ::3], noise[4, 1::7], noise[4, 2::5] = math.inf, -math.inf, math.nan
    noise = noise.to(dtype)
    with fastssl.use_backend(backend):
        for ratio in (0.3, 0.8):
            masks = random_masking(6, 50, ratio, noise=noise.to(device))
            assert_equal(masks, random_masks(noise.tolist(), [ratio] * 6, 0))
            for found, exact in zip(masks, reference.random_masking(noise, ratio), strict=True):
                assert torch.equal(found.cpu(), exact)


@on_backends
def test_noise_keeps_the_digits_of_its_type_and_may_have_any_stride(device: str, backend: str) -> None:
    close = 1 + torch.rand(3, 40, dtype=torch.float64) * 1e-9  # all equal in float32
    wide = torch.rand(40, 6, device=device)
    with fastssl.use_backend(backend):
        assert_equal(random_masking(3, 40, noise=close.to(device)), random_masks(close.tolist(), [0.75] * 3, 0))
        for noise in (wide.T, wide[::2, :3].T, wide[:1, :1].expand(5, 30), wide[:, 0].expand(4, 40)):
            n, length = noise.shape
            expected = random_masks(noise.tolist(), [0.75] * n, 0)
            assert_equal(random_masking(n, length, noise=noise), expected)
            assert_equal(random_masking(n, length, noise=noise.clone().requires_grad_()), expected)


@on_backends
@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_ratios_of_their_own_and_a_prefix(device: str, backend: str, prefix: int, nan_filled: None) -> None:
    ratios = [0.5, 0.75, 0, 0.999, 0.1, 0.75]
    for patches in (1, 4, 13, 196):
        length = prefix + patches
        noise = [token_words(7, i, 3, patches) for i in range(6)]
        expected = random_masks(noise, ratios, prefix)
        with fastssl.use_backend(backend):
            masks = random_masking(6, length, ratios, seed=7, view=3, prefix_tokens=prefix, device=device)
            assert_equal(masks, expected, patches)
            for same in (tuple(ratios), torch.tensor(ratios, dtype=torch.float64)):
                again = random_masking(6, length, same, seed=7, view=3, prefix_tokens=prefix, device=device)
                assert_equal(again, expected, patches)
            by_noise = torch.rand(6, patches, device=device)
            found = random_masking(6, length, ratios, noise=by_noise, prefix_tokens=prefix)
        assert_equal(found, random_masks(by_noise.tolist(), ratios, prefix), patches)
        kept = masks.ids_keep.shape[1]
        assert torch.equal(masks.ids_restore >= kept, masks.mask == 1)
        for row in range(6):  # the two lists of ids are a partition, and ids_restore is where each token is
            whole = [*masks.ids_keep[row].tolist(), *masks.ids_masked[row].tolist()]
            assert sorted(i for i in whole if i >= 0) == list(range(length))
            assert [whole[r] for r in masks.ids_restore[row].tolist()] == list(range(length))


@on_backends
@settings(max_examples=40, deadline=None)
@given(
    patches=st.integers(1, 400),
    prefix=st.integers(0, 6),
    ratios=st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=4),
    seed=st.integers(-(2**63), 2**64 - 1),
    first=st.integers(-(2**63), 2**63 - 5),
    view=st.integers(0, 2**32 - 1),
)
def test_fuzzed_lengths_ratios_and_seeds(
    device: str, backend: str, patches: int, prefix: int, ratios: list[float], seed: int, first: int, view: int
) -> None:
    n = len(ratios)
    noise = [token_words(seed, first + i, view, patches) for i in range(n)]
    ids = first + torch.arange(n, device=device)
    with fastssl.use_backend(backend):
        masks = random_masking(
            n, prefix + patches, ratios, seed=seed, sample_ids=ids, view=view, prefix_tokens=prefix
        )  # fmt: skip
    assert_equal(masks, random_masks(noise, ratios, prefix))


def test_reference_equals_sorting() -> None:
    for seed, first, view, patches in ((11, 0, 2, 23), (2**64 - 1, 2**40, 0, 4), (0, 7, 1, 1)):
        noise = [token_words(seed, first + i, view, patches) for i in range(3)]
        drawn = reference.masking_noise(3, patches, seed, first, view)
        assert torch.equal(drawn, torch.tensor(noise, dtype=torch.float64))
        for ratio in (0.75, 0.3):
            expected = random_masks(noise, [ratio] * 3, 0)[:3]
            for found, exact in zip(reference.random_masking(drawn, ratio), expected, strict=True):
                assert torch.equal(found, exact)


@on_backends
def test_draws(device: str, backend: str, nan_filled: None) -> None:
    def draw(n: int, **options: object) -> tuple[torch.Tensor, ...]:
        masks = random_masking(n, 61, prefix_tokens=1, device=device, **options)
        return *masks, masks.ids_masked

    with fastssl.use_backend(backend):
        hold_to_the_contract_of_draws(draw, device)
        assert random_masking(4, 30, seed=torch.tensor(9, device=device)).mask.device.type == device


def test_every_token_is_kept_equally_often() -> None:
    n, length, kept = 20000, 20, 5
    masks = random_masking(n, length, 0.75, seed=1)
    visible = 1 - masks.mask.double()
    # Of a fixed number in each row, counts are negatively correlated, which (L - 1) / (L - K) undoes.
    statistic = ((visible.sum(0) - n * kept / length) ** 2).sum() / (n * kept / length) * (length - 1) / (length - kept)
    assert stats.chi2.sf(statistic.item(), length - 1) > 1e-4
    places = torch.stack([(masks.ids_keep == token).sum(0) for token in range(length)])
    assert stats.chisquare(places.flatten().numpy()).pvalue > 1e-4
    both = (visible.T @ visible)[tuple(torch.triu_indices(length, length, 1))]
    assert (both / n - kept * (kept - 1) / length / (length - 1)).abs().max() < 5 * (0.05 / n) ** 0.5


def test_neighbouring_seeds_samples_and_views_share_nothing() -> None:
    options = ({"seed": 0}, {"seed": 1}, {"seed": 0, "view": 1})
    a, b, c = (random_masking(20000, 8, 0.5, **option).mask[:, 0].double() for option in options)
    for x, y in ((a, b), (a, c), (a[1:], a[:-1])):
        assert abs(torch.corrcoef(torch.stack([x, y]))[0, 1]) < 5 / 20000**0.5


def test_masks_iterate_as_maes_triple_and_are_frozen() -> None:
    masks = random_masking(2, 9, seed=0)
    ids_keep, ids_restore, mask = masks
    assert ids_keep is masks.ids_keep
    assert ids_restore is masks.ids_restore
    assert mask is masks.mask
    with pytest.raises(dataclasses.FrozenInstanceError):
        masks.mask = mask


@on_backends
def test_opcheck(device: str, backend: str) -> None:
    ids, keep, noise = (torch.arange(3, device=device), torch.tensor([2, 4, 3], device=device), torch.rand(3, 8))
    for arguments in (
        (torch.tensor(3), None, None, None, 3, 9, 1, 4, 5, 0),
        (torch.tensor(3), None, ids, keep, 3, 9, 1, 4, 7, 2),
        (None, noise.to(device), None, keep, 3, 9, 1, 4, 7, 0),
    ):
        torch.library.opcheck(torch.ops.fastssl.random_masking.default, (*arguments, torch.device(device), backend))


@pytest.mark.parametrize("device", DEVICES)
def test_compiles_whole_with_a_dynamic_batch(device: str) -> None:
    def count(x: torch.Tensor, seed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        masks = random_masking(x.shape[0], x.shape[1], 0.6, seed=seed, device=x.device)
        return masks.ids_keep + 1, (x * masks.mask).sum(1)

    torch._dynamo.reset()
    compiled = torch.compile(count, fullgraph=True, backend="aot_eager", dynamic=True)
    for n, length in ((4, 10), (7, 31), (3, 8)):
        x = torch.randn(n, length, device=device)
        for a, b in zip(compiled(x, torch.tensor(n)), count(x, torch.tensor(n)), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("device", DEVICES)
def test_compiles_whole_without_a_seed(device: str) -> None:
    compiled = torch.compile(lambda: random_masking(3, 12, device=device).ids_keep, fullgraph=True, backend="aot_eager")
    assert not torch.equal(compiled(), compiled())
