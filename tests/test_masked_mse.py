"""The loss on masked patches: published values, and every backend, form, layout and type against the definition."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from conftest import runnable
from hypothesis import given, settings
from hypothesis import strategies as st
from masked_loss import LOSSES, check, loss_and_grad, problem, statistics
from masking_reference import TYPES, normalized, patches_by_loops, some_ids, videos

import fastssl
from fastssl import reference
from fastssl.functional import masked_mse, random_masking

on_backends = pytest.mark.parametrize(("device", "backend"), runnable("masked_mse"))
on_types = pytest.mark.parametrize(
    ("dtype", "device", "backend"), [(t, *where) for t in TYPES for where in runnable("masked_mse", t)]
)


def test_reference_equals_loops() -> None:
    for (shape, patch), last, loss in itertools.product(
        [((2, 3, 1, 6, 4), (1, 3, 2)), ((1, 2, 4, 4, 4), (2, 2, 4))], (True, False), LOSSES
    ):
        images = torch.randn(shape, dtype=torch.float64)
        targets = patches_by_loops(images, patch, last)
        n, tokens, size = targets.shape
        pred, mask = torch.randn_like(targets), torch.rand(n, tokens).double()
        for norm_pix in (True, False):
            total = 0.0
            for i, j in itertools.product(range(n), range(tokens)):
                t = targets[i, j].tolist()
                if norm_pix:
                    mean = sum(t) / size
                    var = sum((x - mean) ** 2 for x in t) / (size - 1)
                    t = [(x - mean) / math.sqrt(var + 1e-6) for x in t]
                d = [abs(p - x) for p, x in zip(pred[i, j].tolist(), t, strict=True)]
                if loss == "mse":
                    each = [x**2 for x in d]
                elif loss == "l1":
                    each = d
                else:
                    each = [x**2 / 1.4 if x < 0.7 else x - 0.35 for x in d]
                total += mask[i, j].item() * sum(each) / size
            exact = total / mask.sum().item()
            options = {"norm_pix": norm_pix, "loss": loss, "beta": 0.7, "channels_last": last}
            assert reference.masked_mse(pred, images, mask, patch, **options).item() == pytest.approx(exact, rel=1e-12)
            assert masked_mse(pred, images, mask, patch, **options).item() == pytest.approx(exact, rel=1e-12)


@on_backends
def test_published_value_of_a_zero_prediction(device: str, backend: str) -> None:
    # The unbiased variance of a patch of 16 x 16 x 3 normalised pixels leaves a mean square of 767 / 768.
    images = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8, device=device)
    masks = random_masking(4, 16, 0.75, seed=0, device=device)
    with fastssl.use_backend(backend):
        loss = masked_mse(torch.zeros(4, 16, 768, device=device), images, masks.mask, 16)
    assert loss.item() == pytest.approx(767 / 768, abs=3e-6)  # less 1e-6 over the variance


@on_backends
def test_maes_forward_loss(device: str, backend: str) -> None:
    imgs, pred = torch.randn(4, 3, 48, 48, device=device), torch.randn(4, 9, 768, device=device)
    mask = random_masking(4, 9, 0.6, seed=1, device=device).mask
    target = torch.einsum("nchpwq->nhwpqc", imgs.reshape(4, 3, 3, 16, 3, 16)).reshape(4, 9, 768)
    for norm_pix in (True, False):
        if norm_pix:
            target_, var = target.mean(dim=-1, keepdim=True), target.var(dim=-1, keepdim=True)
            goal = (target - target_) / (var + 1.0e-6) ** 0.5
        else:
            goal = target
        loss = (((pred - goal) ** 2).mean(dim=-1) * mask).sum() / mask.sum()
        with fastssl.use_backend(backend):
            torch.testing.assert_close(masked_mse(pred, imgs, mask, 16, norm_pix=norm_pix), loss, rtol=3e-6, atol=0)


@on_types
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("norm_pix", [True, False])
def test_forms(device: str, backend: str, dtype: torch.dtype, loss: str, norm_pix: bool, nan_filled: None) -> None:
    pred, images, mask = problem(dtype, device)
    video, options = images[:, :, None], {"loss": loss, "norm_pix": norm_pix, "beta": 0.6}
    masks = random_masking(3, 9, [0.5, 0.7, 0.9], seed=2, device=device)
    padded, distinct = masks.ids_masked, random_masking(3, 9, 0.6, seed=3, device=device).ids_masked
    with fastssl.use_backend(backend):
        patch = (1, 8, 8)
        check(pred, video, mask, patch, "a mask", **options)
        check(pred, video, mask.float(), patch, "a float mask", **options)
        check(pred, video, mask * torch.rand(3, 9, device=device), patch, "weights", upstream=1.0, **options)
        check(pred, video, mask.to(dtype), patch, "a mask of that type", upstream=-3.0, **options)
        for ids in (distinct, padded):
            check(pred, video, ids, patch, "ids, all predictions", **options)
            check(pred[:, : ids.shape[1]], video, ids, patch, "ids, masked predictions", **options)
        check(pred[:, :4], video, torch.tensor([[1, 1, 3, 0]] * 3, device=device), patch, "duplicates", **options)
        features = torch.randn(3, 9, 50, device=device).to(dtype)
        check(pred[..., :50], features, mask, None, "features", **options)
        check(pred[:, : distinct.shape[1], :50], features, distinct, None, "features by ids", **options)


@on_backends
@pytest.mark.parametrize(
    ("shape", "patch"),
    [
        ((2, 3, 1, 32, 32), (1, 16, 16)), ((2, 1, 1, 12, 20), (1, 3, 5)), ((2, 4, 1, 8, 6), (1, 2, 2)),
        ((2, 16, 1, 6, 9), (1, 6, 3)), ((2, 3, 4, 8, 12), (2, 4, 4)), ((2, 1, 6, 4, 6), (3, 2, 6)),
        ((1, 3, 2, 33, 17), (2, 33, 17)), ((2, 2, 1, 1, 130), (1, 1, 65)), ((2, 2, 1, 5, 7), (1, 1, 1)),
    ],
)  # fmt: skip
def test_images_of_every_layout(
    device: str, backend: str, shape: tuple[int, ...], patch: tuple[int, int, int], nan_filled: None
) -> None:
    tokens = math.prod(size // side for size, side in zip(shape[2:], patch, strict=True))
    mask = torch.rand(shape[0], tokens, device=device) < 0.6
    mask[0, 0] = True
    with fastssl.use_backend(backend):
        for dtype in (torch.uint8, torch.float32):
            for layout, images in videos(shape, dtype, device).items():
                for last, norm_pix in itertools.product((True, False), repeat=2):
                    pred = torch.randn(shape[0], tokens, shape[1] * math.prod(patch), device=device)
                    options = {"channels_last": last, "norm_pix": norm_pix}
                    check(pred, images, mask, patch, (layout, options), **options, **statistics(shape[1]))


@on_backends
def test_images_and_predictions_of_every_type(device: str, backend: str, nan_filled: None) -> None:
    mask = torch.tensor([[1, 0, 1, 1], [0, 1, 1, 0]], device=device).bool()
    with fastssl.use_backend(backend):
        for pixels, dtype in itertools.product((torch.uint8, *TYPES[1:]), TYPES[1:]):
            images = videos((2, 3, 1, 8, 8), pixels, device)["contiguous"]
            pred = torch.randn(2, 4, 48, device=device).to(dtype)
            check(pred, images, mask, (1, 4, 4), (pixels, dtype))
            check(pred, images, mask, (1, 4, 4), (pixels, dtype), norm_pix=False, **statistics(3))
    with fastssl.use_backend("torch"):
        for pixels in (torch.uint8, *TYPES):
            images = videos((2, 3, 1, 8, 8), pixels, device)["contiguous"]
            check(torch.randn(2, 4, 48, device=device).double(), images, mask, (1, 4, 4), (pixels, "float64"))


@on_backends
def test_predictions_of_every_layout(device: str, backend: str, nan_filled: None) -> None:
    images = videos((4, 3, 1, 8, 12), torch.uint8, device)["contiguous"]
    mask = torch.rand(6, 4, device=device).T < 0.6
    ids = some_ids(4, 3, 6, "none").to(device)
    with fastssl.use_backend(backend):
        layouts = {
            "transposed": torch.randn(4, 48, 6, device=device).transpose(1, 2),
            "sequence first": torch.randn(6, 4, 48, device=device).transpose(0, 1),
            "every other": torch.randn(8, 12, 96, device=device)[::2, ::2, 1::2],
            "without a class token": torch.randn(4, 7, 48, device=device)[:, 1:],
            "one prediction": torch.randn(1, 1, 48, device=device).expand(4, 6, 48),
        }
        for layout, pred in layouts.items():
            check(pred, images, mask, (1, 4, 4), layout)
            check(pred[:, :3], images, ids, (1, 4, 4), layout)
            check(pred[:, :3], images, ids.T.contiguous().T, (1, 4, 4), layout)


@on_backends
@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 3),
    channels=st.integers(1, 16),
    patch=st.tuples(st.integers(1, 2), st.integers(1, 18), st.integers(1, 18)),
    grid=st.tuples(st.integers(1, 2), st.integers(1, 4), st.integers(1, 4)),
    layout=st.sampled_from(["contiguous", "channels last", "frames first", "transposed", "every other", "slice"]),
    integers=st.booleans(),
    channels_last=st.booleans(),
    norm_pix=st.booleans(),
    loss=st.sampled_from(LOSSES),
    beta=st.floats(0.05, 3),
    dtype=st.sampled_from(TYPES[1:]),
    rows=st.booleans(),
)
def test_any_size_type_and_layout(
    device: str, backend: str, n: int, channels: int, patch: tuple[int, int, int], grid: tuple[int, int, int],
    layout: str, integers: bool, channels_last: bool, norm_pix: bool, loss: str, beta: float, dtype: torch.dtype,
    rows: bool,
) -> None:  # fmt: skip
    shape = (n, channels, *(g * side for g, side in zip(grid, patch, strict=True)))
    images = videos(shape, torch.uint8 if integers else torch.float32, device)[layout]
    tokens, size = math.prod(grid), channels * math.prod(patch)
    masked = torch.rand(n, tokens, device=device) < 0.7
    if rows:
        masked = some_ids(n, tokens, tokens, "none").to(device)
    masked[0, 0] = 1  # id 1 is the second patch, if there is one
    if rows and tokens == 1:
        masked[0, 0] = 0
    pred = torch.randn(n, tokens, size, device=device).to(dtype)
    options = {"loss": loss, "beta": beta, "norm_pix": norm_pix and size > 1, "channels_last": channels_last}
    with fastssl.use_backend(backend):
        check(pred, images, masked, patch, layout, **options, **statistics(channels))


@on_backends
def test_flat_and_dark_patches(device: str, backend: str) -> None:
    # Hardly any variance: what is left of the pixels after their mean must keep its digits.
    images = torch.full((2, 3, 1, 32, 32), 200, dtype=torch.uint8, device=device)
    images[0, :, :, 3, ::2] += 1
    images[1, 0, :, 20, 17] = 199
    pred, mask = torch.randn(2, 4, 768, device=device), torch.ones(2, 4, device=device)
    floats = 3 + 1e-3 * torch.randn(2, 3, 1, 32, 32, device=device)
    with fastssl.use_backend(backend):
        for loss in ("mse", "smooth_l1"):
            check(pred, images, mask, (1, 16, 16), "one step of a pixel", loss=loss)
            check(pred, floats, mask, (1, 16, 16), "small noise", loss=loss)
        zero = masked_mse(torch.zeros(2, 4, 768, device=device), torch.ones(2, 3, 32, 32, device=device), mask, 16)
        assert abs(zero.item()) < 1e-9  # nothing to predict in a flat image


@on_backends
@pytest.mark.parametrize("loss", LOSSES)
def test_what_is_not_masked_is_not_read(device: str, backend: str, loss: str) -> None:
    pred, images, mask = problem(device=device)
    images = images.float() / 255
    with fastssl.use_backend(backend):
        expected = loss_and_grad(lambda x: masked_mse(x, images, mask, 8, loss=loss), pred, 2.0)
        for poison in (math.nan, math.inf):
            other, bad = images.clone(), torch.where(mask[..., None], pred, poison)
            for i, token in (~mask).nonzero().tolist():
                row, column = 8 * (token // 3), 8 * (token % 3)
                other[i, :, row : row + 8, column : column + 8] = poison
            found = loss_and_grad(lambda x, other=other: masked_mse(x, other, mask, 8, loss=loss), bad, 2.0)
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
            assert not found[1][~mask].any()


@on_backends
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_nan_and_inf_reach_the_loss(device: str, backend: str, loss: str, poison: float) -> None:
    pred, images, mask = problem(device=device)
    ids = torch.tensor([[0, 3, 5], [1, 2, -1], [8, 7, 0]], device=device)
    with fastssl.use_backend(backend):
        for masked, row in ((mask, 0), (ids, 0), (ids[:, :2], 0)):
            rows = pred[:, : masked.shape[1]].clone()
            rows[0, row, 17] = poison
            value, grad = loss_and_grad(lambda x, m=masked: masked_mse(x, images, m, 8, loss=loss), rows, 1.0)
            assert value.isnan() if math.isnan(poison) else value == math.inf
            if math.isnan(poison):
                assert grad[0, row, 17].isnan()
            bad = images.float()
            bad[0, 1, 2, 3] = poison  # in patch 0
            assert not masked_mse(pred[:, : masked.shape[1]], bad, masked, 8, loss=loss).isfinite()


@on_types
def test_no_masked_token_gives_nan(device: str, backend: str, dtype: torch.dtype) -> None:
    pred, images, mask = problem(dtype, device)
    with fastssl.use_backend(backend):
        for nothing in (mask & False, mask.float() * 0, torch.full((3, 4), -1, device=device)):
            rows = pred[:, : nothing.shape[1]].detach().requires_grad_()
            loss = masked_mse(rows, images, nothing, 8)
            assert loss.isnan()
            loss.backward()
            assert not rows.grad[rows.grad.isfinite()].any()
        assert masked_mse(pred, images, torch.empty(3, 0, dtype=torch.int64, device=device), 8).isnan()


@on_backends
def test_ids_out_of_range_name_nothing(device: str, backend: str) -> None:
    pred, images, _ = problem(device=device)
    wild = torch.tensor([[3, 9, -2, 2**40], [-(2**63), 2**63 - 1, 2, 1], [2**32, 0, 8, -1]], device=device)
    tame = torch.where((wild >= 0) & (wild < 9), wild, -1)
    results = []
    for ids in (wild, tame):
        leaf = pred[:, :4].detach().requires_grad_()
        arguments = (leaf, images[:, :, None], ids, None, [1, 8, 8], 0, 1.0, True, True, [0.1] * 3, [0.0] * 3, True)
        loss, _ = torch.ops.fastssl.masked_mse(*arguments, backend)
        results.append((loss, *torch.autograd.grad(loss, leaf)))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@on_backends
def test_sums_of_a_million_terms(device: str, backend: str) -> None:
    # 200 000 patches, every term positive: a running sum in float32 would show.
    images = torch.randint(0, 256, (40, 1, 1, 256, 160), dtype=torch.uint8, device=device)
    pred = torch.rand(40, 128 * 80, 4, device=device)
    mask = torch.rand(40, 128 * 80, device=device)
    with fastssl.use_backend(backend):
        found = masked_mse(pred, images, mask, 2, norm_pix=False)
        rows = masked_mse(pred, images, torch.arange(10240, device=device).expand(40, -1), 2, norm_pix=False)
    for value, weights in ((found, mask), (rows, mask * 0 + 1)):
        exact = reference.masked_mse(pred.double(), normalized(images), weights.double(), (1, 2, 2), norm_pix=False)
        assert value.item() == pytest.approx(exact.item(), rel=2e-6)
