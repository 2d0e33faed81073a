"""Masks in the calls of existing code, against lightly, timm and MAE's method; and the recipes of masks."""

from __future__ import annotations

import math

import pytest
import timm.layers
import torch
from conftest import DEVICES
from hypothesis import given, settings
from hypothesis import strategies as st
from lightly.models import utils as lightly
from masking_reference import some_ids, values_and_gradients
from scipy import stats

from fastssl import masking

on_devices = pytest.mark.parametrize("device", DEVICES)


@on_devices
@pytest.mark.parametrize(("length", "ratio"), [(196, 0.75), (100, 0.9), (49, 0.6), (7, 0.0), (5, 0.99), (1, 0.5)])
def test_maes_method(device: str, length: int, ratio: float) -> None:
    x = torch.randn(3, length, 8, device=device, requires_grad=True)
    x_masked, mask, ids_restore = masking.random_masking(x, ratio)
    kept = int(length * (1 - ratio))
    assert x_masked.shape == (3, kept, 8)
    assert mask.shape == ids_restore.shape == (3, length)
    assert mask.dtype == torch.float32
    assert mask.sum(1).tolist() == [length - kept] * 3
    # What its decoder does gives every token back to its place.
    filled = torch.cat([x_masked, torch.zeros(3, length - kept, 8, device=device)], 1)
    back = filled.gather(1, ids_restore[..., None].expand(-1, -1, 8))
    assert torch.equal(back, x * (1 - mask[..., None]))
    (grad,) = torch.autograd.grad(x_masked.sum(), x)
    assert torch.equal(grad, (1 - mask)[..., None].expand_as(x))
    torch.manual_seed(5)
    again = [masking.random_masking(x, ratio)[2] for _ in range(2)]
    torch.manual_seed(5)
    assert torch.equal(masking.random_masking(x, ratio)[2], again[0])
    assert length < 10 or not torch.equal(*again)


@on_devices
@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 4), length=st.integers(1, 30), width=st.integers(1, 20), part=st.floats(0, 1))
def test_tokens_at_an_index_are_lightlys(device: str, n: int, length: int, width: int, part: float) -> None:
    count = int(part * length)
    index = some_ids(n, count, length).to(device)
    tokens = torch.randn(n, length, width, device=device)
    value, token = torch.randn(n, count, width, device=device), torch.randn(1, 1, width, device=device)
    calls = {
        "get_at_index": (tokens,), "set_at_index": (tokens, value), "mask_at_index": (tokens, token),
    }  # fmt: skip
    for name, (first, *rest) in calls.items():
        upstream = [torch.randn(n, count if name == "get_at_index" else length, width, device=device)]
        ours, theirs = (
            values_and_gradients(
                lambda x, *r, library=library, name=name: getattr(library, name)(x, index, *r), [first, *rest], upstream
            )
            for library in (masking, lightly)
        )  # fmt: skip
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, msg=lambda text, name=name: f"{name}: {text}")


@on_devices
@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(1, 3), channels=st.integers(1, 5), grid=st.integers(1, 5), patch=st.integers(1, 7), last=st.booleans()
)
def test_patchify_is_lightlys(device: str, n: int, channels: int, grid: int, patch: int, last: bool) -> None:
    images = torch.randn(n, channels, grid * patch, grid * patch, device=device)
    images = images.contiguous(memory_format=torch.channels_last) if last else images
    upstream = [torch.randn(n, grid**2, channels * patch**2, device=device)]
    ours, theirs = (
        values_and_gradients(lambda x, f=f: f(x, patch), [images], upstream)
        for f in (masking.patchify, lightly.patchify)
    )
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_patchify_takes_oblong_images() -> None:
    images = torch.randn(2, 3, 4, 8)
    patches = masking.patchify(images, 4)
    assert torch.equal(patches[:, 0], masking.patchify(images[..., :4], 4)[:, 0])
    assert torch.equal(patches[:, 1], masking.patchify(images[..., 4:], 4)[:, 0])


@on_devices
@pytest.mark.parametrize("class_token", [False, True])
@pytest.mark.parametrize("size", [(4, 197), (2, 50), (3, 2), (5, 101), (2, 1)])
def test_random_token_mask_is_lightlys(device: str, size: tuple[int, int], class_token: bool) -> None:
    for ratio in (0.0, 0.25, 0.6, 0.75, 0.9):
        ours, theirs = (
            f(size, mask_ratio=ratio, mask_class_token=class_token, device=device)
            for f in (masking.random_token_mask, lightly.random_token_mask)
        )
        for a, b in zip(ours, theirs, strict=True):
            assert a.shape == b.shape, ratio
            assert a.dtype == b.dtype
            assert a.device == b.device
        everything = torch.cat(ours, 1).sort(1).values
        assert torch.equal(everything, torch.arange(size[1], device=device).expand(size))
        if not class_token:
            assert (ours[0][:, 0] == 0).all()


def test_random_token_mask_has_lightlys_distribution() -> None:
    for class_token in (False, True):
        counts = []
        for f in (masking.random_token_mask, lightly.random_token_mask):
            _, masked = f((4000, 9), 0.5, class_token)
            counts.append(masked.flatten().bincount(minlength=9))
        counts = [c[0 if class_token else 1 :].numpy() for c in counts]
        assert stats.chi2_contingency(counts).pvalue > 1e-4
        assert stats.chisquare(counts[0]).pvalue > 1e-4


@on_devices
@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_patch_dropout_is_timms(device: str, prefix: int, ordered: bool) -> None:
    for length, prob in ((196, 0.5), (50, 0.75), (10, 0.9), (1, 0.5), (7, 0.99), (12, 0.0)):
        ours, theirs = (
            f(prob, num_prefix_tokens=prefix, ordered=ordered)
            for f in (masking.PatchDropout, timm.layers.PatchDropout)
        )  # fmt: skip
        x = torch.arange((prefix + length) * 3.0, device=device).view(1, -1, 3).repeat(4, 1, 1).requires_grad_()
        out = ours(x)
        assert out.shape == theirs(x).shape
        assert torch.equal(out[:, :prefix], x[:, :prefix])
        rows = (out[:, prefix:, 0] / 3).long() - prefix
        assert torch.equal(out[:, prefix:], x[0, prefix:][rows])
        assert all(len(set(row)) == len(row) for row in rows.tolist())
        if ordered or prob == 0:
            assert torch.equal(rows, rows.sort(1).values)
        (grad,) = torch.autograd.grad(out.sum(), x)
        kept = torch.zeros(4, prefix + length, device=device).scatter(1, rows + prefix, 1.0)
        kept[:, :prefix] = 1
        assert torch.equal(grad, kept[..., None].expand_as(x))
        ours.eval()
        assert ours(x) is x
    assert not list(ours.state_dict())
    assert repr(ours) == f"PatchDropout(prob=0.0, num_prefix_tokens={prefix}, ordered={ordered})"


def test_patch_dropout_keeps_every_token_equally_often_and_obeys_manual_seed() -> None:
    x = torch.arange(12.0).view(1, 12, 1).expand(6000, 12, 1)
    drop = masking.PatchDropout(0.75, num_prefix_tokens=0)
    torch.manual_seed(2)
    out = drop(x)
    assert stats.chisquare(out.flatten().long().bincount().numpy()).pvalue > 1e-4
    torch.manual_seed(2)
    assert torch.equal(drop(x), out)
    assert not torch.equal(drop(x), out)


@on_devices
def test_patch_dropout_compiles_whole(device: str) -> None:
    torch._dynamo.reset()
    drop = torch.compile(masking.PatchDropout(0.6, ordered=True), fullgraph=True, backend="aot_eager", dynamic=True)
    for n, length in ((2, 11), (5, 26)):
        assert drop(torch.randn(n, length, 4, device=device)).shape == (n, 1 + int((length - 1) * 0.4), 4)


@on_devices
def test_mask_to_ids(device: str) -> None:
    mask = torch.rand(3, 4, 11, device=device) < 0.4
    mask[0, 0], mask[1, 1] = False, True
    expected = [[i for i, on in enumerate(row) if on] for row in mask.flatten(0, 1).tolist()]
    for length in (None, 0, 3, 11):
        ids = masking.mask_to_ids(mask, length)
        width = 11 if length is None else length
        assert ids.dtype == torch.int64
        assert ids.shape == (3, 4, width)
        padded = [(row + [-1] * width)[:width] for row in expected]
        assert ids.flatten(0, 1).tolist() == padded
    assert masking.mask_to_ids(mask[0, 0]).shape == (0,)
    assert masking.mask_to_ids(mask[2, :, ::2].T).tolist() == masking.mask_to_ids(mask[2, :, ::2].T.clone()).tolist()
    assert masking.mask_to_ids(torch.tensor([False, True, True])).tolist() == [1, 2]


def draws(call, *arguments: object) -> None:  # type: ignore[no-untyped-def]
    """A recipe of masks is a function of its seed, which PyTorch's generator gives by default."""
    flat = lambda found: found if isinstance(found, tuple) else (found,)  # noqa: E731
    first, again, other = (flat(call(*arguments, seed=seed)) for seed in (1, torch.tensor(1), 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert any(a.shape != b.shape or not torch.equal(a, b) for a, b in zip(first, other, strict=True))
    torch.manual_seed(3)
    first, other = (flat(call(*arguments)) for _ in range(2))
    torch.manual_seed(3)
    assert all(torch.equal(a, b) for a, b in zip(first, flat(call(*arguments)), strict=True))
    assert any(a.shape != b.shape or not torch.equal(a, b) for a, b in zip(first, other, strict=True))


@on_devices
def test_ijepa_masks(device: str) -> None:
    covered = torch.zeros(14, 14, dtype=torch.bool)
    for seed in range(20):
        context, targets = masking.ijepa_masks(8, (14, 14), seed=seed, device=device)
        assert context.device.type == device
        assert targets.shape[:2] == (8, 4)
        assert context.dtype == targets.dtype == torch.int64
        assert targets.min() >= 0
        assert context.min() >= 0  # whole rows, no padding
        assert (context.diff(dim=1) > 0).all()
        assert (targets.diff(dim=2) > 0).all()
        for row, blocks in zip(context.tolist(), targets.tolist(), strict=True):
            assert not set(row) & {i for block in blocks for i in block}
            for block in blocks:
                rows, columns = {i // 14 for i in block}, {i % 14 for i in block}
                assert len(rows) * len(columns) == len(block)
                assert max(rows) - min(rows) == len(rows) - 1
                assert max(columns) - min(columns) == len(columns) - 1
        covered.flatten()[targets.flatten().cpu()] = True
    assert covered.all()  # the last row and column too
    context, targets = masking.ijepa_masks(1, (12, 16), num_targets=2, context_scale=(1.0, 1.0), seed=1)
    context_only = set(range(192)) - set(targets.flatten().tolist())
    assert set(context[0].tolist()) <= context_only
    assert len(context[0]) > 0.4 * len(context_only)  # a square of all there is
    draws(masking.ijepa_masks, 4, (14, 14))


@on_devices
def test_vjepa_masks(device: str) -> None:
    frames, space = 8, 14 * 14
    for seed, options in enumerate(4 * [{}, {"num_blocks": 2, "scale": (0.7, 0.7)}, {"temporal_scale": (0.3, 0.6)}]):
        context, targets = masking.vjepa_masks(16, (frames, 14, 14), seed=seed, device=device, **options)
        assert context.shape[1] > 0, options  # its code draws again where blocks cover a whole video
        for ids in (context, targets):
            assert ids.dtype == torch.int64
            assert ids.min() >= 0
            assert (ids.diff(dim=1) > 0).all()
        assert not any(set(a) & set(b) for a, b in zip(context.tolist(), targets.tolist(), strict=True))
        context, targets = masking.vjepa_masks(1, (frames, 14, 14), seed=seed, device=device, **options)
        both = torch.cat([context, targets], 1).sort(1).values[0]
        assert torch.equal(both, torch.arange(frames * space, device=device))
        if "temporal_scale" not in options:  # a tube: the same places in every frame
            inside = torch.zeros(frames * space, dtype=torch.bool, device=device)
            inside[targets[0]] = True
            assert (inside.view(frames, space) == inside[:space]).all()
    draws(masking.vjepa_masks, 3, (4, 10, 10))


@on_devices
def test_beit_masks(device: str) -> None:
    masks = masking.beit_masks(300, (14, 14), seed=1, device=device)
    assert masks.dtype == torch.bool
    assert masks.device.type == device
    counts = masks.sum(1)
    assert counts.max() == 75
    assert 70 < counts.double().mean() < 75
    assert masking.beit_masks(20, (8, 16), seed=1).sum(1).max() <= 75 * 128 / 196
    assert masking.beit_masks(20, (14, 14), num_masked=30, seed=1).sum(1).max() <= 30
    draws(masking.beit_masks, 3, (14, 14))


@on_devices
def test_ibot_masks(device: str) -> None:
    n = 400
    masks = masking.ibot_masks(n, (14, 14), seed=1, device=device)
    assert masks.dtype == torch.bool
    counts = masks.sum(1).double()
    masked = counts > 0
    assert abs(int(masked.sum()) - n // 2) <= 2  # half of the images, but for one that draws no block
    share = counts[masked] / 196
    assert share.max() <= 0.5
    assert 0.27 < share.mean() < 0.31
    assert stats.kstest(share.cpu().numpy(), stats.uniform(0.1, 0.4).cdf).statistic < 0.1
    order = masked.nonzero().flatten().double() / n
    assert stats.kstest(order.cpu().numpy(), "uniform").pvalue > 1e-4  # which of them is random
    assert abs(torch.corrcoef(torch.stack([order, share.to(order)]))[0, 1]) < 0.3
    assert masking.ibot_masks(7, (10, 12), mask_probability=0.0, seed=1).sum() == 0
    full = masking.ibot_masks(64, (10, 12), mask_ratio=(0.3, 0.3), mask_probability=1.0, seed=1).sum(1)
    assert full.max() <= 36
    assert full.double().mean() > 30
    draws(masking.ibot_masks, 6, (14, 14))


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (
            lambda: masking.random_masking(torch.zeros(2, 3, 4), 1.0),
            ValueError,
            r"mask_ratio: got 1.0, want .*\[0, 1\)",
        ),
        (
            lambda: masking.random_masking(torch.zeros(2, 3), 0.5),
            ValueError,
            r"x: got shape \(2, 3\), want \[N, L, D\]",
        ),
        (lambda: masking.random_masking("x", 0.5), TypeError, "x: got str, want"),
        (lambda: masking.random_token_mask((2, 9), 1.5), ValueError, "mask_ratio: got 1.5, want"),
        (lambda: masking.patchify(torch.zeros(1, 3, 8, 9), 4), ValueError, "patch_size: got 4, want a divisor"),
        (lambda: masking.patchify(torch.zeros(1, 3, 8, 8), 0), ValueError, "patch_size: got 0, want an int >= 1"),
        (lambda: masking.PatchDropout(1.0), ValueError, r"prob: got 1.0, want a number in \[0, 1\)"),
        (lambda: masking.PatchDropout(0.5, num_prefix_tokens=-1), ValueError, "num_prefix_tokens: got -1, want"),
        (lambda: masking.mask_to_ids(torch.zeros(3)), TypeError, "mask: got torch.float32, want bool"),
        (lambda: masking.mask_to_ids([True]), TypeError, "mask: got list, want bool"),
        (lambda: masking.mask_to_ids(torch.ones(3).bool(), 4), ValueError, r"length: got 4, want an int in \[0, 3\]"),
        (lambda: masking.ijepa_masks(0, (4, 4)), ValueError, "n: got 0, want an int >= 1"),
        (lambda: masking.ijepa_masks(1, (4,)), ValueError, "grid: got"),
        (lambda: masking.vjepa_masks(1, (4, 4, 4), scale=(0.0, 1)), ValueError, "scale: got"),
        (lambda: masking.ibot_masks(2, (4, 4), mask_probability=1.5), ValueError, "mask_probability: got 1.5, want"),
        (lambda: masking.ibot_masks(2, (4, 4), mask_ratio=(0.1, 2)), ValueError, "mask_ratio: got 2, want"),
    ],
)
def test_bad_input(call, error, says) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=says) as info:
        call()
    assert "\n" not in str(info.value)


def test_indices_out_of_range_raise() -> None:
    tokens, index = torch.zeros(1, 4, 2), torch.tensor([[4]])
    for call in (
        lambda: masking.get_at_index(tokens, index),
        lambda: masking.set_at_index(tokens, index, torch.zeros(1, 1, 2)),
        lambda: masking.mask_at_index(tokens, index, torch.zeros(1, 1, 2)),
    ):
        with pytest.raises((ValueError, RuntimeError, IndexError)):
            call()
    assert math.isfinite(tokens.sum())
