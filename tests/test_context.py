"""Context prediction: its loss, its patches, and that nothing but what is in them answers the question."""

from __future__ import annotations

import copy
import math

import pretexts
import pytest
import torch
from small_methods import check_resume, fit, tiny, uint8
from torch import nn
from torch.nn.functional import cross_entropy

from fastssl import RaggedImages, methods
from fastssl.methods.context import NEIGHBOURS, pixelate


def make(seed=0, **options):
    torch.manual_seed(seed)
    return methods.ContextPrediction(tiny(), **{"hidden_dim": 16, **options})


def pairs(view, **options):
    """Of each view two neighbouring patches [N, C, p, p], and the direction from the first to the second."""
    layout = {"patch_size": 15, "gap": 8} if view.shape[2] == 64 else {"patch_size": 7, "gap": 4}
    method = methods.ContextPrediction(methods.small_resnet(), 8, **{**layout, "jitter": 1, **options})
    patches, _ = method.patches(view, seed=1)
    direction = torch.randint(8, (len(view),), generator=pretexts.rng(1))
    center, other = patches[:, 4], patches[torch.arange(len(view)), torch.tensor(NEIGHBOURS)[direction]]
    swap = torch.arange(len(view)) % 2 == 0
    at = swap[:, None, None, None]
    return torch.where(at, other, center), torch.where(at, center, other), torch.where(swap, 7 - direction, direction)


def by_seams(**options):
    first, second, direction = pairs(pretexts.woven(2000), **options)
    return pretexts.seams(first.sum(1), second.sum(1)), direction


def by_phase(**options):
    first, second, direction = pairs(pretexts.periodic(2000, 3), **options)
    return pretexts.correlations(first.sum(1), second.sum(1)), direction


def by_light(**options):
    first, second, direction = pairs(pretexts.lit(2000), **options)
    return torch.stack([first.sum(1), second.sum(1)], 1), direction


def by_aberration(**options):
    *patches, direction = pairs(pretexts.aberrant(2000), **options)
    return torch.cat([pretexts.correlations(x[:, 0], x[:, 1]) for x in patches], 1), direction


def by_sharpness(**options):
    *patches, direction = pairs(pretexts.sharper(2000), **options)
    return torch.cat([pretexts.finest(x.sum(1)) for x in patches], 1), direction


@pytest.mark.parametrize(
    ("question", "defended", "undefended"),
    [
        (by_seams, {}, {"gap": 0}),
        (by_phase, {}, {"jitter": 0}),
        (by_light, {}, {"standardize": False}),
        (by_aberration, {}, {"keep_channel_p": 0.0}),
        (by_sharpness, {"pixelate_p": 1.0}, {"pixelate_p": 0.0}),
    ],
)
def test_defences(question, defended, undefended):
    """All are on but the one."""
    pretexts.check_defence(question, 8, defended, undefended)


def test_a_third_of_pixelated_patches_weakens_the_cue():
    default, without = (pretexts.probed(*by_sharpness(**options))[0] for options in ({}, {"pixelate_p": 0.0}))
    assert default < 0.75 * without


def test_the_loss_at_chance():
    method = make()
    nn.init.zeros_(method.head[-1].weight)
    nn.init.zeros_(method.head[-1].bias)
    assert method(method.augment(uint8(4, 1, 8, 8))).item() == pytest.approx(math.log(8), abs=1e-6)
    assert make()(method.augment(uint8(256, 1, 8, 8))).item() == pytest.approx(math.log(8), abs=0.25)


def test_a_step_by_hand():
    method = make().double()
    view = torch.randn(3, 1, 10, 10, dtype=torch.float64)
    patches, _ = method.patches(view, seed=3)
    twin = copy.deepcopy(method)
    features = [twin.encoder(patches.flatten(0, 1)).view(3, 9, -1)[:, i] for i in range(9)]
    inputs, labels = [], []
    cells = [(row, column) for row in range(3) for column in range(3) if (row, column) != (1, 1)]
    for i in range(3):
        for direction, (row, column) in enumerate(cells):
            other, center = features[3 * row + column][i], features[4][i]
            inputs += [torch.cat([center, other]), torch.cat([other, center])]
            labels += [direction, cells.index((2 - row, 2 - column))]
    want = cross_entropy(twin.head(torch.stack(inputs)), torch.tensor(labels))
    torch.testing.assert_close(method([view], seed=3), want)


def test_the_published_layout():
    method = methods.ContextPrediction(methods.small_resnet(), 8)
    assert method.layout(398, 600) == (96, 48, 7)
    assert method.layout(32, 32) == (7, 4, 1)
    assert method.layout(8, 8) == (2, 1, 0)
    assert methods.ContextPrediction(methods.small_resnet(), 8, 10, 0).layout(32, 32) == (10, 0, 0)
    vit = methods.build_encoder("vit_tiny_patch16_224", dynamic_img_size=True)
    assert methods.ContextPrediction(vit, 8).layout(224, 224) == (48, 28, 4)


def test_pixelated_patches():
    patches = torch.randn(200, 9, 3, 8, 8)
    made = pixelate(patches, 0.33, 0)
    torch.testing.assert_close(pixelate(patches, 0.33, 0), made, atol=0, rtol=0)
    same = (made == patches).flatten(2).all(2)
    assert same.float().mean().item() == pytest.approx(0.67, abs=0.04)
    changed = made[~same]
    rank = torch.linalg.matrix_rank(changed.double(), rtol=1e-5)
    assert set(rank.unique().tolist()) == {2, 3, 4}
    # Means are kept where areas are of the same size.
    torch.testing.assert_close(
        changed[rank[:, 0] == 4].mean((2, 3)).std(), patches.mean((3, 4)).std(), atol=0.03, rtol=0
    )
    assert torch.equal(pixelate(patches, 0.0, 0), patches)
    flat = torch.ones(2, 9, 1, 96, 96)
    torch.testing.assert_close(pixelate(flat, 1.0, 0), flat)
    assert pixelate(torch.randn(2, 9, 1, 2, 2), 1.0, 0).var((3, 4)).max() < 1e-12
    one = torch.randn(2, 9, 1, 1, 1)
    assert torch.equal(pixelate(one, 1.0, 0), one)


def test_the_seed_governs():
    method = make()
    (view,) = method.augment(uint8(5, 1, 8, 8))
    same = [method([view], seed=3).item() for _ in range(2)]
    assert same[0] == same[1] != method([view], seed=4).item()
    torch.manual_seed(5)
    first = method([view]).item()
    torch.manual_seed(5)
    assert first == method([view]).item()


def test_resume(tmp_path):
    check_resume(make, fit, tmp_path, 3, images=128)


def test_it_learns():
    pretexts.check_learning(methods.ContextPrediction(methods.small_resnet(1, 8), 64), 0.93)


def test_pictures():
    method = make()
    rows = pretexts.check_pictures(method, uint8(6, 1, 16, 16))
    assert list(rows) == ["image", "two patches", "as predicted"]
    image, pair, predicted = rows.values()
    shown = pretexts.painted(pair)
    torch.testing.assert_close(pair[shown], image[shown], atol=1e-6, rtol=0)
    assert (shown.flatten(1).sum(1) == 2 * 4 * 4).all()
    assert (predicted != pair).any()


def test_small_images_are_enlarged():
    method = methods.ContextPrediction(methods.small_resnet(1, 8), 16, zoom=2)
    (view,) = method.augment(uint8(4, 1, 8, 8))
    assert view.shape == (4, 1, 16, 16)
    assert method([view]).isfinite()
    pretexts.check_pictures(method, uint8(4, 1, 8, 8))


def test_ragged_images_and_names():
    method = methods.ContextPrediction("resnet10t", 16, image_size=48)
    ragged = RaggedImages.from_images([uint8(3, 60, 90), uint8(3, 70, 50)])
    views = method.augment(ragged)
    assert views[0].shape == (2, 3, 48, 48)
    assert method(views).isfinite()
    vit = methods.ContextPrediction("vit_tiny_patch16_224", 16, 16, image_size=80)
    assert vit(vit.augment(uint8(2, 3, 80, 80))).isfinite()


def test_autocast():
    pretexts.check_autocast(methods.ContextPrediction(methods.small_resnet(), 32), uint8(8, 3, 64, 64))


@pytest.mark.parametrize(
    ("run", "error", "says"),
    [
        (lambda: make(hidden_dim=0), ValueError, "hidden_dim: got 0"),
        (lambda: make(zoom=0), ValueError, "zoom: got 0"),
        (lambda: make(patch_size=0), ValueError, "patch_size: got 0"),
        (lambda: make(gap=-1), ValueError, "gap: got -1"),
        (lambda: make(jitter=1.5), ValueError, "jitter: got 1.5"),
        (lambda: make(keep_channel_p=2), ValueError, "keep_channel_p: got 2"),
        (lambda: make(pixelate_p=-0.1), ValueError, "pixelate_p: got -0.1"),
        (lambda: make(image_size=0), ValueError, "image_size: got 0"),
        (lambda: methods.ContextPrediction(5), TypeError, "encoder: got int"),
        (lambda: make()([]), ValueError, "views: got 0, want 1"),
        (lambda: make()([torch.zeros(2, 1, 6, 6)]), ValueError, r"views: got images of 6 x 6, want at least 8 pixels"),
        (lambda: make(patch_size=9)([torch.zeros(2, 1, 8, 8)]), ValueError, "images: got 8 x 8 pixels, want at least"),
    ],
)
def test_bad_input(run, error, says):
    with pytest.raises(error, match=says):
        run()
