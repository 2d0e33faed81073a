"""Jigsaw: its loss, its permutations, its tiles, and that nothing but what is in them solves the puzzle."""

from __future__ import annotations

import copy
import itertools
import math

import pretexts
import pytest
import torch
from small_methods import check_resume, fit, tiny, uint8
from torch import nn
from torch.nn.functional import cross_entropy
from torchvision.transforms.v2.functional import rgb_to_grayscale

from fastssl import RaggedImages, methods, transforms
from fastssl.methods.jigsaw import _without_color, permutation_set, shuffle

PAIRS = torch.triu_indices(9, 9, 1)


def make(seed=0, **options):
    torch.manual_seed(seed)
    return methods.Jigsaw(tiny(), **{"permutations": 10, "hidden_dim": 16, **options})


def puzzle(view, **options):
    """The shuffled tiles of each view, in one of four orders, and which."""
    layout = {"patch_size": 15, "gap": 6} if view.shape[2] == 64 else {"patch_size": 7, "gap": 3}
    options = {**layout, "jitter": 1, "channel_jitter": 1, **options}
    return methods.Jigsaw(methods.small_resnet(), 4, 8, **options).puzzle(view, seed=1)


def by_seams(**options):
    tiles, k = puzzle(pretexts.woven(2000), **options)
    return pretexts.seams(*tiles.sum(2)[:, PAIRS].unbind(1)), k


def by_phase(**options):
    tiles, k = puzzle(pretexts.periodic(2000, 3), **{"channel_jitter": 0, **options})
    return pretexts.correlations(*tiles.sum(2)[:, PAIRS[:, :8]].unbind(1)), k


def by_light(**options):
    tiles, k = puzzle(pretexts.lit(2000), **options)
    return tiles.sum(2)[..., ::2, ::2], k


def by_aberration(**options):
    tiles, k = puzzle(pretexts.aberrant(2000, period=3), **options)
    return pretexts.correlations(tiles[:, :, 0], tiles[:, :, 1]), k


def by_color(**options):
    tiles, k = puzzle(pretexts.colorful(2000), **{"channel_jitter": 0, **options})
    return pretexts.correlations(tiles[:, :, 0], tiles[:, :, 1]), k


@pytest.mark.parametrize(
    ("question", "defended", "undefended"),
    [
        (by_seams, {}, {"gap": 0}),
        (by_phase, {}, {"jitter": 0}),
        (by_light, {}, {"standardize": False}),
        (by_aberration, {}, {"channel_jitter": 0}),
        (by_color, {"gray_p": 1.0}, {"gray_p": 0.0}),
    ],
)
def test_defences(question, defended, undefended):
    """All are on but the one."""
    pretexts.check_defence(question, 4, defended, undefended)


def test_some_grey_images_weaken_the_cue():
    default, without = (pretexts.probed(*by_color(**options))[0] for options in ({"gray_p": 0.66}, {"gray_p": 0.0}))
    assert default < 0.75 * without


def test_permutations_are_far_from_each_other():
    chosen = permutation_set(100)
    assert torch.equal(chosen.sort(1).values, torch.arange(9).expand(100, 9))
    distance = (chosen[:, None] != chosen).sum(2)
    apart = distance[torch.triu(torch.ones(100, 100, dtype=torch.bool), 1)]
    assert apart.min() == 6
    assert apart.float().mean() > 8.07  # 8 at random
    assert torch.equal(permutation_set(7), chosen[:7])
    assert torch.equal(chosen[0], torch.arange(9))
    # The greedy choice by definition, for the first few.
    every = torch.tensor(list(itertools.permutations(range(9))))
    for count in (1, 2, 5):
        to_chosen = (every[:, None] != chosen[:count]).sum(2)
        best = max(zip(to_chosen.amin(1).tolist(), to_chosen.sum(1).tolist(), strict=True))
        first = ((to_chosen.amin(1) == best[0]) & (to_chosen.sum(1) == best[1])).nonzero()[0, 0]
        assert torch.equal(every[first], chosen[count])


def test_the_loss_at_chance():
    method = make(permutations=1000)
    nn.init.zeros_(method.head[-1].weight)
    nn.init.zeros_(method.head[-1].bias)
    loss = method(method.augment(uint8(4, 1, 8, 8))).item()
    assert loss == pytest.approx(math.log(1000), abs=1e-5) == pytest.approx(6.9078, abs=1e-4)
    assert make()(method.augment(uint8(256, 1, 8, 8))).item() == pytest.approx(math.log(10), abs=0.3)


def test_a_step_by_hand():
    method = make().double()
    twin = copy.deepcopy(method)
    view = torch.randn(4, 1, 10, 10, dtype=torch.float64)
    tiles, k = method.puzzle(view, seed=3)
    features = twin.encoder(tiles.flatten(0, 1))
    want = cross_entropy(twin.head(features.view(4, -1)), k)
    torch.testing.assert_close(method([view], seed=3), want)


def test_the_puzzle_is_the_image():
    """Pixels that tell where they are: tiles are shuffled as the permutation says, and nothing is lost."""
    place = torch.arange(40.0)
    view = torch.stack([place[:, None].expand(40, 40), place.expand(40, 40)])[None].expand(50, -1, -1, -1)
    method = make(standardize=False, patch_size=8, gap=4, jitter=2, channel_jitter=0)
    tiles, k = method.puzzle(view, seed=0)
    centers = tiles.mean((3, 4)) + 0.5
    want = method.permutations[k]
    true = torch.stack([want // 3, want % 3], 2)
    assert (centers - (8 + 12 * true)).abs().max() <= 4  # 2 of jitter, and up to 2 of the grid
    assert torch.equal(shuffle(shuffle(tiles, want.argsort(1)), want), tiles)
    assert torch.equal(tiles[..., 1:, :][:, :, 0] - tiles[..., :-1, :][:, :, 0], torch.ones(50, 9, 7, 8))


def test_channels_of_a_tile_are_moved_by_themselves():
    place = torch.arange(40.0)
    view = (place[:, None] + 100 * place).expand(200, 3, 40, 40)
    method = make(standardize=False, patch_size=8, gap=4, jitter=0, channel_jitter=2, gray_p=0.0)
    tiles, _ = method.puzzle(view, seed=0)
    assert tiles.shape == (200, 9, 3, 8, 8)
    moved = tiles[..., 0, 0] - tiles[:, :, :1, 0, 0]
    down, right = (moved + 50) % 100 - 50, ((moved + 50) // 100)
    for by in (down[:, :, 1:], right[:, :, 1:]):
        assert set(by.unique().tolist()) == set(range(-4, 5))
        assert by.mean().abs() < 0.15
    assert torch.equal(tiles.diff(dim=3), torch.ones(200, 9, 3, 7, 8))  # without a seam


def test_part_of_the_images_is_grey():
    view = torch.rand(500, 3, 32, 32)
    tiles, _ = make(gray_p=0.3, channel_jitter=0).puzzle(view, seed=0)
    gray = (tiles - tiles.mean(2, keepdim=True)).abs().amax((1, 2, 3, 4)) < 1e-4
    assert gray.float().mean().item() == pytest.approx(0.3, abs=0.07)
    images = uint8(3, 3, 6, 6)
    want = transforms.normalize(rgb_to_grayscale(images.float() / 255, 3).mul(255).round().byte())
    assert (_without_color(transforms.normalize(images)) - want).abs().max() < 0.01


def test_the_published_layout():
    method = methods.Jigsaw(methods.small_resnet(), 2, 8)
    assert method.layout(255, 300) == (64, 21, 10)
    assert method.layout(255, 255, 2) == (64, 21, 8)
    assert method.layout(32, 32, 1) == (8, 3, 0)
    assert method.layout(8, 8) == (2, 1, 0)


def test_resume(tmp_path):
    state = check_resume(make, fit, tmp_path, 3, images=128)
    assert torch.equal(state["permutations"], permutation_set(10))


def test_it_learns():
    pretexts.check_learning(methods.Jigsaw(methods.small_resnet(1, 8), 10, 64), 0.85)


def test_pictures():
    method = make()
    images = uint8(6, 1, 16, 16)
    rows = pretexts.check_pictures(method, images)
    assert list(rows) == ["image", "shuffled tiles", "put together"]
    _, k = method.puzzle(torch.zeros(6, 1, 16, 16), seed=0)
    method.solve = lambda tiles: torch.eye(10)[k]  # it is right
    rows = method.pictures(images)
    image, shuffled, solved = rows.values()
    shown = pretexts.painted(solved)  # at 16 pixels there is no jitter: tiles are where they were
    assert (shown.flatten(1).sum(1) == 9 * 4 * 4).all()
    torch.testing.assert_close(solved[shown], image[shown], atol=1e-6, rtol=0)
    assert not torch.equal(shuffled, solved)


def test_small_images_are_enlarged():
    method = methods.Jigsaw(methods.small_resnet(1, 8), 10, 16, zoom=2)
    (view,) = method.augment(uint8(4, 1, 8, 8))
    assert view.shape == (4, 1, 16, 16)
    assert method([view]).isfinite()
    pretexts.check_pictures(method, uint8(4, 1, 8, 8))


def test_ragged_images_and_names():
    method = methods.Jigsaw("resnet10t", 10, 16, image_size=48)
    views = method.augment(RaggedImages.from_images([uint8(3, 60, 90), uint8(3, 70, 50)]))
    assert views[0].shape == (2, 3, 48, 48)
    assert method(views).isfinite()


def test_autocast():
    pretexts.check_autocast(methods.Jigsaw(methods.small_resnet(), 10, 32), uint8(8, 3, 64, 64))


@pytest.mark.parametrize(
    ("run", "error", "says"),
    [
        (lambda: make(permutations=1), ValueError, r"permutations: got 1, want an int in \[2, 1000\]"),
        (lambda: make(hidden_dim=0), ValueError, "hidden_dim: got 0"),
        (lambda: make(zoom=0), ValueError, "zoom: got 0"),
        (lambda: make(gray_p=1.5), ValueError, "gray_p: got 1.5"),
        (lambda: make(channel_jitter=-1), ValueError, "channel_jitter: got -1"),
        (lambda: make(gap=0.5), ValueError, "gap: got 0.5"),
        (lambda: make()([torch.zeros(2, 1, 8, 8)] * 2), ValueError, "views: got 2, want 1"),
        (lambda: make()([torch.zeros(2, 3, 8, 8)]), ValueError, "views: got images of 8 x 8, want at least 12 pixels"),
    ],
)
def test_bad_input(run, error, says):
    with pytest.raises(error, match=says):
        run()
