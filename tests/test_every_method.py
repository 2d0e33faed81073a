"""What holds of every method that `fastssl pretrain` knows, as the command line makes it for small pictures."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from small_methods import check_resume, tiny, views_of

import fastssl
from fastssl import data, methods, transforms
from fastssl._cli_build import prepare
from fastssl._cli_methods import METHODS

IMAGES = [name for name, method in METHODS.items() if method.reads == "images"]


def images_of(name):
    return data.shapes(48) if METHODS[name].reads == "images" else data.load("pydoc").take(range(48))


def made(name, images, seed=0):
    return prepare(name, images, {"seed": seed, **({"local_views": 2} if name in ("dino", "dinov2", "swav") else {})})


def test_the_command_line_knows_every_method():
    assert METHODS.keys() == methods.METHODS.keys()


@pytest.mark.parametrize("name", METHODS)
def test_a_step_changes_what_is_trained_and_a_copy_repeats_it(name):
    images = images_of(name)
    method = made(name, images).method
    batch, _ = images.native_batch(range(16))

    def step(method):
        torch.manual_seed(1)
        loss = method(method.augment(batch))
        assert loss.shape == ()
        assert loss.dtype == torch.float32
        assert loss.isfinite()
        loss.backward()
        return loss, {key: p.grad for key, p in method.named_parameters() if p.grad is not None}

    twin = copy.deepcopy(method)
    twin.load_state_dict(method.state_dict())
    (loss, grads), (again, same) = step(method), step(twin)
    assert torch.equal(loss, again)
    assert grads.keys() == same.keys()
    assert all(torch.equal(grads[key], same[key]) and grads[key].isfinite().all() for key in grads)
    assert any(key.startswith("encoder.") and grad.abs().max() > 0 for key, grad in grads.items())
    with torch.autocast("cpu", torch.bfloat16):
        assert step(made(name, images).method)[0].item() == pytest.approx(loss.item(), rel=0.1, abs=0.05)


@pytest.mark.parametrize("name", IMAGES)
def test_pictures_change_nothing(name):
    images = data.shapes(4).images
    method = made(name, data.shapes(48)).method.train()
    state, modes = copy.deepcopy(method.state_dict()), [module.training for module in method.modules()]
    random = torch.get_rng_state()
    rows = method.pictures(images, seed=3)
    assert len(rows) >= 2
    for picture in rows.values():
        assert picture.dtype == torch.float32
        assert picture.ndim == 4
        assert len(picture) == 4
        assert 0 <= picture.min() <= picture.max() <= 1
    again = method.pictures(images, seed=3)
    assert all(torch.equal(picture, again[row]) for row, picture in rows.items())
    assert torch.equal(random, torch.get_rng_state())
    assert modes == [module.training for module in method.modules()]
    assert all(torch.equal(value, method.state_dict()[key]) for key, value in state.items())


@pytest.mark.parametrize("name", IMAGES)
def test_the_encoder_takes_normalised_images(name):
    images = data.shapes(4).images
    encoder = made(name, data.shapes(48)).method.encoder.eval()
    features = methods.encode(encoder, transforms.normalize(images))
    assert features.shape == (4, encoder.num_features)
    # An image's features are its own.
    torch.testing.assert_close(methods.encode(encoder, transforms.normalize(images[:1])), features[:1])


@pytest.mark.parametrize("name", METHODS)
def test_runs_resume_bit_for_bit(name, tmp_path):
    images = images_of(name)

    def fit(method, out, **settings):
        settings = {"epochs": 2, "batch_size": 16, "knn_every": 0, "progress": False, "accelerator": "cpu", **settings}
        return fastssl.fit(method, images, out=out, **settings)

    check_resume(lambda seed=0: made(name, images, seed).method, fit, tmp_path, step=5)


def test_simclr_starts_at_chance():
    method = methods.SimCLR(tiny(), 0.5, projection_dim=16)
    with torch.no_grad():
        list(method.projector.parameters())[-1].zero_()
        list(method.projector.parameters())[-2].zero_()
    assert method(views_of(method, 9)).item() == pytest.approx(math.log(17), rel=1e-6)


def test_moco_starts_at_chance():
    method = methods.MoCo(tiny(), queue_size=32, projection_dim=16)
    with torch.no_grad():
        for p in list(method.projector.parameters())[-2:]:
            p.zero_()
    assert method(views_of(method, 8)).item() == pytest.approx(math.log(33), rel=1e-6)
