"""Grids of patches: the definition by loops, every backend, layout and type, and what must not show."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from conftest import DEVICES, runnable
from devices import no_synchronisation
from hypothesis import given, settings
from hypothesis import strategies as st
from masking_reference import (
    TYPES,
    hold_to_the_contract_of_draws,
    hold_to_the_rule,
    normalized,
    sum_type,
    videos,
    words,
)
from scipy import stats

import fastssl
from fastssl import reference
from fastssl.functional import extract_patches

PATCHES, NOISE = 68, 69  # purposes of the draws
BACKENDS = runnable("extract_patches")
on_backends = pytest.mark.parametrize(("device", "backend"), BACKENDS)
# images [N, C, H, W], patch, grid, gap, jitter; some leave no choice of place, in the last patches overlap
CASES = [
    ((2, 3, 40, 43), (8, 8), (3, 3), 3, 2),
    ((3, 1, 8, 9), (2, 2), (2, 2), 1, 1),
    ((1, 5, 30, 31), (7, 5), (2, 3), 0, 3),
    ((2, 2, 3, 70), (1, 33), (1, 2), 2, 1),
    ((2, 3, 3, 3), (1, 1), (3, 3), 0, 0),
    ((1, 3, 35, 150), (35, 65), (1, 2), 20, 0),
    ((2, 3, 17, 18), (8, 7), (3, 3), -4, 0),
]


def images_of(shape: Sequence[int], dtype: torch.dtype, device: str) -> dict[str, torch.Tensor]:
    """Images [N, C, H, W] in memory of every kind."""
    n, c, h, w = shape
    return {name: video[:, :, 0] for name, video in videos((n, c, 1, h, w), dtype, device).items()}


def statistics(channels: int) -> dict[str, list[float]]:
    return {"mean": [0.1 * c - 0.3 for c in range(channels)], "std": [0.2 + 0.3 * c for c in range(channels)]}


def uniform_case(word: int, count: int) -> int:
    return word * count // 2**32


def by_loops(
    images: torch.Tensor, patch: tuple[int, int], grid: tuple[int, int], gap: int, jitter: int, seed: int, view: int,
    standardize: bool, keep_channel_p: float,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Patches and corners, one number after another."""
    n, channels, *sides = images.shape
    (height, width), count = patch, patch[0] * patch[1]
    out, corners = [], []
    for i in range(n):
        origin = words(seed, i, view, PATCHES, 0)
        for p in range(grid[0] * grid[1]):
            move = words(seed, i, view, PATCHES, p + 1)
            corner = []
            for axis, cell in enumerate(divmod(p, grid[1])):
                extent = grid[axis] * patch[axis] + (grid[axis] - 1) * gap
                start = jitter + uniform_case(origin[axis], sides[axis] - extent - 2 * jitter + 1)
                corner.append(start + cell * (patch[axis] + gap) + uniform_case(move[axis], 2 * jitter + 1) - jitter)
            corners.append(corner)
            alone, kept = move[2] < keep_channel_p * 2**32, uniform_case(move[3], channels)
            x = [
                [float(images[i, c, corner[0] + a, corner[1] + b]) for a in range(height) for b in range(width)]
                for c in range(channels)
            ]
            means = [sum(row) / count for row in x]
            variances = [sum((v - m) ** 2 for v in row) / count for row, m in zip(x, means, strict=True)]
            if standardize:
                scales = [1 / math.sqrt(v + 1e-6) for v in variances]
                x = [[(v - m) * s for v in row] for row, m, s in zip(x, means, scales, strict=True)]
                variances = [v * s * s for v, s in zip(variances, scales, strict=True)]
            quarter = -(-count // 4)
            for c in range(channels) if alone else ():
                for e in range(count) if c != kept else ():
                    w = words(seed, i, view, NOISE, (p * channels + c) * quarter + e % quarter)
                    number = e // quarter
                    u, v = w[number // 2 * 2], w[number // 2 * 2 + 1]
                    radius = math.sqrt(-2 * math.log(((u >> 8) + 1) / 2**24))
                    angle = math.pi / 2 * ((v >> 30) + ((v >> 6) % 2**24) / 2**24 - 0.5)
                    z = radius * (math.sin(angle) if number % 2 else math.cos(angle))
                    x[c][e] = z * math.sqrt(variances[kept]) / 100
            out.append(x)
    shape = (n, grid[0] * grid[1])
    return torch.tensor(out, dtype=torch.float64).view(*shape, channels, *patch), torch.tensor(corners).view(*shape, 2)


def check(
    images: torch.Tensor, patch: tuple[int, int], grid: tuple[int, int], gap: int, jitter: int, where: object, *,
    standardize: bool = False, keep_channel_p: float = 0.0, dtype: torch.dtype | None = None,
    mean: list[float] | None = None, std: list[float] | None = None,
) -> None:  # fmt: skip
    """Corners are exact, copies of floats as well; normalised pixels, standardised ones and noise obey the rule."""
    first, seed, view = 2**40 + 3, 2**63 + 12345, 7
    ids = first + torch.arange(len(images), device=images.device)
    extra = {"standardize": standardize, "keep_channel_p": keep_channel_p}
    found, corners = extract_patches(
        images, patch, grid, gap, jitter, **extra, mean=mean, std=std, dtype=dtype, seed=seed, sample_ids=ids, view=view
    )
    assert found.dtype == (dtype or (images.dtype if images.is_floating_point() else torch.float32)), where
    assert found.is_contiguous(), where

    def spec(x: torch.Tensor, **options: object) -> torch.Tensor:
        x = x.cpu()
        patches, places = reference.extract_patches(
            x, patch, grid, gap, jitter, seed, first_id=first, view=view, **options
        )
        assert torch.equal(corners.cpu(), places), where
        return patches

    if images.is_floating_point() and mean is None and not standardize and keep_channel_p == 0:
        assert torch.equal(found.cpu(), spec(images).to(found.dtype)), where
        return
    exact, offset = (normalized(x[:, :, None], mean, std)[:, :, 0] for x in (images, torch.zeros_like(images)))
    scale = spec((exact - offset).abs() + offset.abs())  # the size of what is added up
    if standardize:
        patches = spec(exact)
        away = scale + patches.abs().mean((-1, -2), keepdim=True)
        scale = away * (patches.var((-1, -2), correction=0, keepdim=True) + 1e-6).rsqrt()
    if keep_channel_p > 0:  # noise is a cosine of a radius of no more than 6 deviations
        deviation = 1.0 if standardize else spec(exact).std((-1, -2), correction=0).max()
        scale = scale.clamp_min(0.06 * deviation)
    hold_to_the_rule(found, spec(exact.to(sum_type(found)), **extra), spec(exact, **extra), scale, where)


@pytest.mark.parametrize(("shape", "patch", "grid", "gap", "jitter"), CASES)
def test_reference_equals_loops(
    shape: tuple[int, ...], patch: tuple[int, int], grid: tuple[int, int], gap: int, jitter: int
) -> None:
    images = torch.randn(shape, dtype=torch.float64) + 3
    for standardize, keep in ((False, 0.0), (True, 0.0), (False, 0.5), (True, 1.0)):
        options = {"standardize": standardize, "keep_channel_p": keep, "view": 5}
        patches, corners = reference.extract_patches(images, patch, grid, gap, jitter, 11, **options)
        exact, places = by_loops(images, patch, grid, gap, jitter, 11, 5, standardize, keep)
        assert torch.equal(corners, places)
        torch.testing.assert_close(patches, exact, rtol=1e-12, atol=1e-12)


@on_backends
@pytest.mark.parametrize(("shape", "patch", "grid", "gap", "jitter"), CASES)
def test_patches_of_every_layout(
    device: str, backend: str, shape: tuple[int, ...], patch: tuple[int, int], grid: tuple[int, int], gap: int,
    jitter: int, nan_filled: None,
) -> None:  # fmt: skip
    place = (patch, grid, gap, jitter)
    with fastssl.use_backend(backend):
        for dtype in (torch.uint8, torch.float32):
            for i, (layout, images) in enumerate(images_of(shape, dtype, device).items()):
                stated = statistics(shape[1]) if dtype == torch.float32 or shape[1] not in (1, 3) else {}
                check(images, *place, layout, **stated)
                check(images, *place, layout, standardize=True, keep_channel_p=0.5 * (i % 4 == 0), **stated)
                if i % 4 == 1:
                    check(images, *place, layout, keep_channel_p=1.0, **stated)
                if dtype == torch.float32:
                    check(images, *place, layout)


@on_backends
def test_pixels_of_every_type(device: str, backend: str, nan_filled: None) -> None:
    place = ((5, 6), (2, 2), 1, 1)
    with fastssl.use_backend(backend):
        for dtype in (torch.uint8, *TYPES[1:]):
            images = images_of((2, 3, 14, 17), dtype, device)["contiguous"]
            for out in (None, *TYPES[1:]):
                check(images, *place, (dtype, out), dtype=out)
                check(images, *place, (dtype, out), dtype=out, standardize=True, keep_channel_p=0.5, **statistics(3))
    with fastssl.use_backend("torch"):
        for dtype in (torch.uint8, *TYPES):
            images = images_of((2, 3, 14, 17), dtype, device)["contiguous"]
            check(images, *place, dtype, dtype=torch.float64, standardize=True)
        check(images, *place, "float64", keep_channel_p=1.0)
        check(images, *place, "float64")


@on_backends
@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 3),
    channels=st.integers(1, 5),
    patch=st.tuples(st.integers(1, 20), st.integers(1, 40)),
    grid=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    gap=st.integers(-3, 4),
    jitter=st.integers(0, 3),
    slack=st.tuples(st.integers(0, 5), st.integers(0, 5)),
    layout=st.sampled_from(["contiguous", "channels last", "transposed", "every other", "slice", "one channel"]),
    integers=st.booleans(),
    dtype=st.sampled_from(TYPES[1:]),
    standardize=st.booleans(),
    keep=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_any_size_type_and_layout(
    device: str, backend: str, n: int, channels: int, patch: tuple[int, int], grid: tuple[int, int], gap: int,
    jitter: int, slack: tuple[int, int], layout: str, integers: bool, dtype: torch.dtype, standardize: bool,
    keep: float,
) -> None:  # fmt: skip
    gap = max(gap, 1 - min(patch))
    sides = [g * (p + gap) - gap + 2 * jitter + s for g, p, s in zip(grid, patch, slack, strict=True)]
    images = images_of((n, channels, *sides), torch.uint8 if integers else torch.float32, device)[layout]
    options = {"standardize": standardize, "keep_channel_p": keep, "dtype": dtype, **statistics(channels)}
    with fastssl.use_backend(backend):
        check(images, patch, grid, gap, jitter, layout, **options)


@on_backends
def test_draws_are_those_of_the_samples(device: str, backend: str) -> None:
    image = torch.randn(1, 3, 19, 20, device=device)

    def draw(n: int, **options: object) -> tuple[torch.Tensor, ...]:
        return extract_patches(image.expand(n, -1, -1, -1), (4, 5), (3, 2), 1, 1, keep_channel_p=0.5, **options)

    with fastssl.use_backend(backend):
        hold_to_the_contract_of_draws(draw, device)


@on_backends
def test_draws_are_the_same_bits_on_every_backend(device: str, backend: str) -> None:
    images = torch.ones(3, 3, 50, 52)
    images[..., ::2] = -1  # of variance 1 on an even number of columns: noise is what was drawn, times 0.01
    results = []
    for where, name in ((device, backend), ("cpu", "torch")):
        ids = torch.tensor([-1, 2**40, 2**62], device=where)
        options = {"keep_channel_p": 0.7, "seed": 2**64 - 3, "sample_ids": ids, "view": 2**32 - 1}
        with fastssl.use_backend(name):
            results.append(extract_patches(images.to(where), (11, 14), (3, 3), 2, 2, **options))
    for found, exact in zip(*results, strict=True):
        assert torch.equal(found.cpu(), exact)
    noise = results[1][0].abs() < 0.1
    assert 0.3 < noise.float().mean() < 0.6  # 2/3 of 0.7


def test_where_patches_lie_is_uniform_and_independent() -> None:
    n, grid, gap, jitter = 4000, (2, 3), 2, 1
    images = torch.zeros(1, 1, 2 * 4 + 2 + 2 + 4, 3 * 3 + 4 + 2 + 2, dtype=torch.uint8).expand(n, -1, -1, -1)
    _, corners = extract_patches(images, (4, 3), grid, gap, jitter, seed=0)
    cell = torch.tensor([[r * 6, c * 5] for r in range(2) for c in range(3)])
    moved = corners - cell  # origin in 0 .. 4 or 0 .. 2, and jitter in 0 .. 2
    assert moved.amin((0, 1)).tolist() == [0, 0]
    assert moved.amax((0, 1)).tolist() == [6, 4]
    for axis, slack in ((0, 4), (1, 2)):
        expected = torch.zeros(slack + 3)
        for step in range(3):
            expected[step : step + slack + 1] += n / (3 * (slack + 1))
        for p in range(6):
            counts = moved[:, p, axis].bincount(minlength=slack + 3)
            assert stats.chisquare(counts.numpy(), expected.numpy(), sum_check=False).pvalue > 1e-4
        # Between the patches of an image the jitter alone differs, and that independently.
        difference = (moved[:, 1:, axis] - moved[:, :1, axis]).double()
        assert difference.abs().max() == 2
        among = torch.corrcoef(difference.T)[0, 1]  # both share the first patch's
        assert abs(among - 0.5) < 5 / n**0.5
    assert abs(torch.corrcoef(moved.double().mean(1).T)[0, 1]) < 5 / n**0.5


def test_channels_are_kept_alone_as_often_as_is_asked() -> None:
    n, probability = 3000, 0.3
    images = torch.randint(0, 256, (1, 3, 8, 8), dtype=torch.uint8).expand(n, -1, -1, -1)
    options = {"seed": 1, "mean": [0.0] * 3, "std": [1.0] * 3}
    patches, _ = extract_patches(images, 4, (2, 2), keep_channel_p=probability, **options)
    plain, _ = extract_patches(images, 4, (2, 2), **options)
    same = (patches == plain).flatten(3).all(3)  # [n, 4, 3]
    alone = same.sum(2) == 1
    assert (alone | same.all(2)).all()
    assert stats.binomtest(int(alone.sum()), n * 4, probability).pvalue > 1e-4
    assert stats.chisquare(same[alone].sum(0).numpy()).pvalue > 1e-4
    among = torch.corrcoef(alone.double().T)  # patches are drawn for on their own
    assert (among - torch.eye(4)).abs().max() < 5 / n**0.5


def test_noise_is_gaussian() -> None:
    images = torch.randint(0, 256, (40, 3, 66, 66), dtype=torch.uint8)
    patches, _ = extract_patches(images, 33, (2, 2), keep_channel_p=1.0, seed=2)
    deviation = patches.std((3, 4), correction=0)
    kept = deviation.argmax(2, keepdim=True)
    others = torch.arange(3) != kept
    z = (patches.flatten(3) / deviation.gather(2, kept)[..., None])[others].double() * 100  # [channels, 1089]
    assert stats.kstest(z.flatten().numpy(), "norm").pvalue > 1e-4
    assert abs((z**4).mean() - 3) < 5 * (96 / z.numel()) ** 0.5
    for shift in (1, 273, 546):  # the next block, the next numbers of the same block
        assert abs((z[:, shift:] * z[:, :-shift]).mean()) < 5 / (z.shape[0] * (z.shape[1] - shift)) ** 0.5
    assert abs((z[1:] * z[:-1]).mean()) < 5 / z.numel() ** 0.5


@on_backends
def test_standardized_patches_have_no_mean_and_deviation_1(device: str, backend: str) -> None:
    images = torch.randint(0, 256, (4, 3, 255, 255), dtype=torch.uint8, device=device)
    with fastssl.use_backend(backend):
        patches, _ = extract_patches(images, 64, gap=21, jitter=10, standardize=True)
        noisy, _ = extract_patches(images, 64, gap=21, jitter=10, standardize=True, keep_channel_p=1.0)
    assert patches.shape == (4, 9, 3, 64, 64)
    assert patches.double().mean((3, 4)).abs().max() < 1e-6
    assert (patches.double().std((3, 4), correction=0) - 1).abs().max() < 2e-6
    deviations = noisy.double().std((3, 4), correction=0).sort(2).values
    assert (deviations[..., 2] - 1).abs().max() < 2e-6
    assert (deviations[..., :2] - 0.01).abs().max() < 0.001


@on_backends
def test_constant_patches_are_0(device: str, backend: str) -> None:
    with fastssl.use_backend(backend):
        for value in (0.1, -3.3e5, 0.0):
            images = torch.full((2, 3, 20, 21), value, device=device)
            for keep in (0.0, 1.0):
                patches, _ = extract_patches(images, (9, 10), (2, 2), standardize=True, keep_channel_p=keep)
                assert not patches.any()
        images = torch.full((2, 3, 20, 21), 77, dtype=torch.uint8, device=device)
        assert not extract_patches(images, 10, (2, 2), standardize=True)[0].any()


@on_backends
def test_numbers_that_are_not_finite_stay_in_their_channel(device: str, backend: str) -> None:
    images = torch.randn(2, 3, 12, 12, device=device)
    images[0, 1, 2, 3] = math.nan
    images[1, 2, 8, 9] = math.inf
    with fastssl.use_backend(backend):
        plain, standard = (extract_patches(images, 4, seed=0, standardize=s)[0] for s in (False, True))
        _, corners = extract_patches(images, 4, seed=0)
        assert corners[0, :, 0].tolist() == [0, 0, 0, 4, 4, 4, 8, 8, 8]
        assert plain.isnan().sum() == 1
        assert plain.isinf().sum() == 1
        assert torch.equal(~standard.isfinite().flatten(3).all(3), ~plain.isfinite().flatten(3).all(3))
        assert standard[0, 0, 1].isnan().all()
        assert standard[1, 8, 2].isnan().all()
        noisy, _ = extract_patches(images, 4, seed=0, keep_channel_p=1.0)
    lost = noisy.isnan().flatten(3).sum(3)  # only if the wrong channel is the one that is kept
    assert set(lost[0, 0].tolist()) <= {0, 1, 16}
    assert not lost[0, 1:].any()
    assert not lost[1, :8].any()


@on_backends
def test_images_of_one_channel_keep_it(device: str, backend: str) -> None:
    images = torch.randint(0, 256, (2, 1, 12, 12), dtype=torch.uint8, device=device)
    with fastssl.use_backend(backend):
        assert torch.equal(*(extract_patches(images, 4, seed=0, keep_channel_p=p)[0] for p in (0.0, 1.0)))


@on_backends
def test_bit_identical_for_any_number_of_threads(device: str, backend: str) -> None:
    images = torch.randint(0, 256, (7, 3, 24, 24), dtype=torch.uint8, device=device)
    threads, runs = torch.get_num_threads(), []
    try:
        for count in (1, 2, 2, 5):
            torch.set_num_threads(count)
            with fastssl.use_backend(backend):
                runs.append(extract_patches(images, 7, standardize=True, keep_channel_p=0.5, seed=1))
    finally:
        torch.set_num_threads(threads)
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(run, runs[0], strict=True))


@pytest.mark.parametrize(
    ("dtype", "device", "backend"), [(t, *where) for t in TYPES for where in runnable("extract_patches", t)]
)
def test_opcheck(device: str, backend: str, dtype: torch.dtype) -> None:
    ids = torch.tensor([4, 2], device=device)
    for pixels, sample_ids, keep in ((torch.uint8, None, 0.0), (dtype, ids, 0.5)):
        images = images_of((2, 3, 8, 9), pixels, device)["transposed"]
        arguments = (
            images, torch.tensor(3), sample_ids, [2, 3], [2, 2], 1, 1, True, keep, [0.5] * 3, [0.1] * 3, dtype, 1,
            backend,
        )  # fmt: skip
        torch.library.opcheck(torch.ops.fastssl.extract_patches.default, arguments)


@pytest.mark.parametrize("device", DEVICES)
def test_compiles_whole_with_a_dynamic_batch(device: str) -> None:
    def tiles(images: torch.Tensor, seed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        patches, corners = extract_patches(images, 4, (2, 2), 2, 1, standardize=True, seed=seed)
        return patches.flatten(0, 1) * 2, corners + 1

    torch._dynamo.reset()
    compiled = torch.compile(tiles, fullgraph=True, backend="aot_eager", dynamic=True)
    for n, side in ((4, 12), (7, 15), (3, 13)):
        images = torch.randint(0, 256, (n, 3, side, side + 1), dtype=torch.uint8, device=device)
        for a, b in zip(compiled(images, torch.tensor(n)), tiles(images, torch.tensor(n)), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("device", DEVICES)
def test_compiles_whole_without_a_seed(device: str) -> None:
    images = torch.zeros(2, 1, 30, 30, device=device)
    compiled = torch.compile(lambda: extract_patches(images, 4)[1], fullgraph=True, backend="aot_eager")
    assert not torch.equal(compiled(), compiled())


@on_backends
def test_the_host_does_not_wait(device: str, backend: str) -> None:
    images = torch.randint(0, 256, (2, 9, 12, 12), dtype=torch.uint8, device=device)
    options = {"sample_ids": torch.arange(2, device=device), **statistics(9)}
    with fastssl.use_backend(backend):
        for seed in (3, torch.tensor(3, device=device)):
            extract_patches(images, 4, keep_channel_p=0.5, standardize=True, seed=seed, **options)
            with no_synchronisation(device):
                extract_patches(images, 4, keep_channel_p=0.5, standardize=True, seed=seed, **options)


@on_backends
def test_autocast_gives_its_type(device: str, backend: str) -> None:
    images = torch.randint(0, 256, (2, 3, 12, 12), dtype=torch.uint8, device=device)
    with fastssl.use_backend(backend):
        plain, _ = extract_patches(images, 4, seed=0)
        with torch.autocast(device, torch.bfloat16):
            patches, _ = extract_patches(images, 4, seed=0)
            assert patches.dtype == torch.bfloat16
            torch.testing.assert_close(patches.float(), plain, rtol=2**-8, atol=0)
            assert extract_patches(images, 4, dtype=torch.float32)[0].dtype == torch.float32


images = torch.zeros(2, 3, 12, 14, dtype=torch.uint8)
WRONG = [
    (lambda: extract_patches("cat.jpg", 4), TypeError, "images: got str, want a tensor \\[N, C, H, W\\]"),
    (lambda: extract_patches(images.int(), 4), TypeError, "images: got dtype torch.int32, want uint8"),
    (lambda: extract_patches(images[0], 4), ValueError, r"images: got shape \(3, 12, 14\), want \[N, C, H, W\]"),
    (lambda: extract_patches(images[:0], 4), ValueError, r"images: got shape \(0, 3, 12, 14\), .*none empty"),
    (lambda: extract_patches(images.float().requires_grad_(), 4), ValueError, r"images: .*want images.detach\(\)"),
    (
        lambda: extract_patches(images, 4, gap=1, jitter=1),
        ValueError,
        "images: got 12 x 14 pixels, want at least 16 x 16 for 3 x 3 patches of 4 x 4, 1 apart, each moved by up to 1",
    ),
    (
        lambda: extract_patches(images, (4, 3), (4, 3)),
        ValueError,
        "images: .*at least 16 x 9 for 4 x 3 patches of 4 x 3",
    ),
    (lambda: extract_patches(images, 0), ValueError, "patch_size: got 0, want an int >= 1"),
    (lambda: extract_patches(images, 2.0), ValueError, "patch_size: got 2.0, want an int or two ints"),
    (lambda: extract_patches(images, (2, 2, 2)), ValueError, r"patch_size: got \(2, 2, 2\), want an int or two ints"),
    (lambda: extract_patches(images, True), ValueError, "patch_size: got True, want an int >= 1"),
    (lambda: extract_patches(images, 4, 3), ValueError, "grid: got 3, want two ints"),
    (lambda: extract_patches(images, 4, (0, 3)), ValueError, "grid: got 0, want an int >= 1"),
    (lambda: extract_patches(images, (2, 3), gap=-2), ValueError, r"gap: got -2, want an int in \[-1, "),
    (lambda: extract_patches(images, 2, jitter=0.5), ValueError, "jitter: got 0.5, want an int in"),
    (lambda: extract_patches(images, 2, keep_channel_p=1.5), ValueError, "keep_channel_p: got 1.5, want a number in"),
    (lambda: extract_patches(images, 2, keep_channel_p="no"), TypeError, "keep_channel_p: got str, want a number"),
    (
        lambda: extract_patches(images[:1, :, :1, :1].expand(1, 3, 9000, 9000), 3000, keep_channel_p=0.5),
        ValueError,
        "keep_channel_p: got 0.5 for patches of 243000000 numbers an image, want 0, or at most 67108864",
    ),
    (
        lambda: extract_patches(images[:, :, :1, :1].expand(-1, -1, 5000, 5000), 1, (5000, 5000)),
        ValueError,
        r"grid: got \(5000, 5000\), want at most 16777215 patches",
    ),
    (lambda: extract_patches(images, 4, mean=[0.5]), ValueError, "mean: got 1 numbers, want 3, one a channel"),
    (lambda: extract_patches(images, 4, std=[1, 0, 1]), ValueError, "std: got .*want numbers > 0"),
    (lambda: extract_patches(images[:, :2], 4), ValueError, "mean: got None for images of 2 channels, want 2 numbers"),
    (lambda: extract_patches(images, 4, dtype=torch.int8), ValueError, "dtype: got torch.int8, want torch.float64"),
    (lambda: extract_patches(images, 4, seed=0.5), ValueError, "seed: got 0.5, want a 64-bit integer"),
    (lambda: extract_patches(images, 4, sample_ids=torch.arange(3)), ValueError, r"sample_ids: .*want int64 \[2\]"),
    (lambda: extract_patches(images, 4, view=-1), ValueError, "view: got -1, want an int in"),
]


@pytest.mark.parametrize(("call", "error", "message"), WRONG, ids=[message[:40] for _, _, message in WRONG])
def test_bad_input_is_refused(call: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_a_forced_backend_says_why_not() -> None:
    with fastssl.use_backend("cpp"), pytest.raises(RuntimeError, match="it takes float32, float16, bfloat16"):
        extract_patches(images.double(), 4)
