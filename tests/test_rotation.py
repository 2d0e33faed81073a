"""Rotation: its loss, its turns, and that nothing but what is in an image tells them."""

from __future__ import annotations

import copy
import math

import numpy as np
import pretexts
import pytest
import torch
from small_methods import check_resume, fit, tiny, uint8
from torch import nn
from torch.nn.functional import cross_entropy

from fastssl import RaggedImages, methods, transforms
from fastssl.functional import Recipe, View


def make(seed=0, **options):
    torch.manual_seed(seed)
    return methods.Rotation(tiny(), **options)


def turned(view, method):
    """Each view turned by one of the four, and by which."""
    quarters = torch.randint(4, (len(view),), generator=pretexts.rng(1))
    return torch.cat([method.turn(x[None], k) for x, k in zip(view, quarters.tolist(), strict=True)]), quarters


def by_traces(**options):
    method = methods.Rotation(methods.small_resnet(), **options)
    view, quarters = turned(pretexts.noise(2000, 3, 12) + 1, method)
    return view.mean(1), quarters


def by_squeezing(**options):
    """How much the rows and the columns differ of wide images that had no direction, after a transform."""
    method = methods.Rotation(methods.small_resnet(), image_size=16, **options)
    torch.manual_seed(2)
    (view,) = method.augment((40 * pretexts.woven(2000, 48, 5)[..., :24, :] + 128).clamp(0, 255).byte())
    view, quarters = turned(view, method)
    return torch.stack([view.diff(dim=axis).square().mean((1, 2, 3)).log() for axis in (2, 3)], 1), quarters


def test_no_traces_of_interpolation():
    pretexts.check_defence(by_traces, 4, {}, {"exact": False})


def test_no_squeezed_photographs():
    usual = transforms.Transform(Recipe((View(16, scale=(0.5, 1.0)),)))
    pretexts.check_defence(by_squeezing, 4, {}, {"transform": usual})


def test_turns_move_pixels_and_leave_them_as_they_are():
    view = torch.randn(3, 2, 5, 5)
    method = make()
    for quarters in range(4):
        made = method.turn(view, quarters)
        assert np.array_equal(made.numpy(), np.rot90(view.numpy(), quarters, (2, 3)))
        assert torch.equal(made.flatten(2).sort().values, view.flatten(2).sort().values)
    warped = make(exact=False)
    torch.testing.assert_close(warped.turn(view, 1), method.turn(view, 1))  # an odd side has a pixel in the middle
    view = torch.rand(3, 2, 6, 6) + 1
    torch.testing.assert_close(warped.turn(view, 0), view)
    made = warped.turn(view, 2)
    torch.testing.assert_close(made[..., 1:, 1:], view.flip((2, 3))[..., :-1, :-1])
    assert made[..., 0, :].abs().max() < 1e-5
    assert made[..., :, 0].abs().max() < 1e-5


def test_the_loss_at_chance():
    method = make()
    nn.init.zeros_(method.head.weight)
    nn.init.zeros_(method.head.bias)
    assert method(method.augment(uint8(4, 1, 8, 8))).item() == pytest.approx(math.log(4), abs=1e-6)
    assert make()(method.augment(uint8(256, 1, 8, 8))).item() == pytest.approx(math.log(4), abs=0.25)


def test_a_step_by_hand():
    method = make().double()
    twin = copy.deepcopy(method)
    view = torch.randn(3, 1, 8, 8, dtype=torch.float64)
    turns = [view, view.mT.flip(2), view.flip((2, 3)), view.mT.flip(3)]  # to the left
    logits = twin.head(twin.encoder(torch.cat(turns)))
    want = cross_entropy(logits, torch.tensor([0] * 3 + [1] * 3 + [2] * 3 + [3] * 3))
    torch.testing.assert_close(method([view]), want)


def test_resume(tmp_path):
    check_resume(make, fit, tmp_path, 3, images=128)


def test_it_learns():
    pretexts.check_learning(methods.Rotation(methods.small_resnet(1, 8)), 0.8)


def test_pictures():
    method = make()
    images = uint8(8, 1, 8, 8)
    rows = pretexts.check_pictures(method, images)
    assert list(rows) == ["image", "turned", "turned back"]
    nn.init.zeros_(method.head.weight)
    method.head.bias.data[:] = torch.tensor([0.0, 1.0, 0.0, 0.0])  # it says one quarter of all
    rows = method.pictures(images)
    assert torch.equal(rows["turned back"], rows["turned"].rot90(-1, (2, 3)))


def test_views_and_names():
    method = methods.Rotation("resnet10t", image_size=32)
    (view,) = method.augment(RaggedImages.from_images([uint8(3, 40, 90), uint8(3, 70, 50)]))
    assert view.shape == (2, 3, 32, 32)
    assert method([view]).isfinite()
    assert make().augment(uint8(2, 1, 12, 20))[0].shape == (2, 1, 12, 12)
    vit = methods.Rotation("vit_tiny_patch16_224", image_size=32)
    assert vit(vit.augment(uint8(2, 3, 40, 40))).isfinite()
    assert methods.Rotation(methods.small_vit(1, 8)).image_size == 8


def test_autocast():
    pretexts.check_autocast(methods.Rotation(methods.small_resnet()), uint8(8, 3, 32, 32))


@pytest.mark.parametrize(
    ("run", "error", "says"),
    [
        (lambda: methods.Rotation("resnet18x"), ValueError, "encoder: got 'resnet18x'"),
        (lambda: methods.Rotation(nn.Flatten()), ValueError, "feature_dim: "),
        (lambda: make(image_size=-1), ValueError, "image_size: got -1, want an int >= 1"),
        (lambda: make()([torch.zeros(2, 1, 8, 8)] * 2), ValueError, "views: got 2, want 1"),
        (lambda: make()([torch.zeros(2, 1, 8, 9)]), ValueError, "views: got images of 8 x 9, want square ones"),
    ],
)
def test_bad_input(run, error, says):
    with pytest.raises(error, match=says):
        run()
