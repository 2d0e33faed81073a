"""What BYOL, SimSiam and MoCo v3 have in common: precisions, views, the momentum copy, resume, several processes."""

from __future__ import annotations

import copy
import math
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import timm
import torch
from small_methods import check_resume, fit, trained, uint8, views_of
from torch import nn
from two_views import FOLLOWED, SMALL, copy_of, make

import fastssl
from fastssl import methods, transforms
from fastssl.functional import ema_update
from fastssl.methods._heads import mlp
from fastssl.methods._momentum import cosine_momentum

KINDS = [pytest.param(kind, id=kind.__name__) for kind in SMALL]


def test_the_momentum_rises_from_its_base_to_one():
    rising = [cosine_momentum(0.9, step, 10) for step in range(11)]
    assert rising[0] == 0.9
    assert rising[10] == 1.0
    assert rising[5] == pytest.approx(0.95)
    assert rising == sorted(rising)
    assert rising[2] == pytest.approx(1 - 0.1 * (math.cos(0.2 * math.pi) + 1) / 2)
    assert [cosine_momentum(0.9, step, 0) for step in (0, 7)] == [0.9, 0.9]
    assert (cosine_momentum(0.9, -1, 10), cosine_momentum(0.9, 11, 10)) == (0.9, 1.0)


def test_heads():
    plain, normed = mlp((3, 5, 7, 2)), mlp((3, 5, 2), last_norm=True, last_bias=True)
    assert [type(layer).__name__ for layer in plain] == ["Linear", "BatchNorm1d", "ReLU"] * 2 + ["Linear"]
    assert [type(layer).__name__ for layer in normed] == ["Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d"]
    assert [layer.bias is None for layer in normed if isinstance(layer, nn.Linear)] == [True, False]
    assert not normed[-1].affine
    assert plain(torch.randn(4, 3)).shape == (4, 2)


@pytest.mark.parametrize("kind", FOLLOWED)
def test_the_copy_follows_what_is_trained(kind):
    """Parameters and running statistics, by the momentum of the step; it gets no gradients, and starts as a copy."""
    method = make(kind, momentum=0.9)
    follower, followed = copy_of(method), nn.ModuleDict({"encoder": method.encoder, "projector": method.projector})
    assert all(torch.equal(t, followed.state_dict()[name]) for name, t in follower.state_dict().items())
    for step in range(3):
        method(views_of(method, 8, step)).backward()
        for p in trained(method):
            p.data += torch.randn_like(p)
        twin = copy.deepcopy(follower)
        method.after_step(step + 1, 3)
        counted = step if kind is methods.BYOL else step + 1  # BYOL's authors count from 0, MoCo's from 1
        ema_update(twin, followed, cosine_momentum(0.9, counted, 3))
        assert all(torch.equal(t, twin.state_dict()[name]) for name, t in follower.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in follower.parameters())
    assert all(p.grad is not None for p in trained(method))
    name = "target" if kind is methods.BYOL else "key_encoder"
    assert {f"{name}.encoder.conv1.weight", f"{name}.projector.0.weight"} <= method.state_dict().keys()


@pytest.mark.parametrize("kind", FOLLOWED)
def test_the_momentum_stays_where_the_end_is_not_known(kind):
    method = make(kind, momentum=0.75)
    with torch.no_grad():
        method.encoder.conv1.weight.add_(1)
    before = copy_of(method).encoder.conv1.weight.clone()
    method.after_step()
    torch.testing.assert_close(copy_of(method).encoder.conv1.weight, before + 0.25)


@pytest.mark.parametrize("kind", FOLLOWED)
def test_nothing_moves_in_eval_mode(kind):
    method = make(kind).eval()
    before = copy.deepcopy(copy_of(method).state_dict())
    method(views_of(method, 8))
    with torch.no_grad():
        method.encoder.conv1.weight.add_(1)
    method.after_step(1, 10)
    assert all(torch.equal(t, before[name]) for name, t in copy_of(method).state_dict().items())


@pytest.mark.parametrize("how", ["autocast", "bfloat16", "double", "channels_last"])
@pytest.mark.parametrize("kind", KINDS)
def test_other_precisions_and_layouts(kind, how):
    method = make(kind)
    views = views_of(method, 16)
    want = copy.deepcopy(method)(views)
    if how == "autocast":
        with torch.autocast("cpu", torch.bfloat16):
            loss = method(views)
    elif how == "channels_last":
        loss = method.to(memory_format=torch.channels_last)(views)
    else:
        dtype = getattr(torch, how)
        loss = method.to(dtype)([view.to(dtype) for view in views])
    assert loss.dtype == (torch.float64 if how == "double" else torch.float32)
    assert loss.shape == ()
    torch.testing.assert_close(loss.float(), want, rtol=0.02, atol=0.05)
    loss.backward()
    assert all(p.grad.isfinite().all() for p in trained(method))
    if kind in FOLLOWED:
        method.after_step(1, 10)
        dtypes = {p.dtype for p in copy_of(method).parameters()}
        assert dtypes == {torch.float64 if how == "double" else torch.float32}


@pytest.mark.parametrize("kind", KINDS)
def test_compiled(kind):
    method, twin = (make(kind, encoder=nn.Conv2d(1, 4, 3), feature_dim=4).double() for _ in range(2))
    twin.load_state_dict(method.state_dict())
    views = views_of(method, 8, dtype=torch.float64)
    want, got = method(views), torch.compile(twin, backend="aot_eager")(views)
    torch.testing.assert_close(got, want)
    want.backward()
    got.backward()
    for p, q in zip(trained(method), trained(twin), strict=True):
        torch.testing.assert_close(q.grad, p.grad)


@pytest.mark.parametrize("kind", KINDS)
def test_views(kind):
    encoder = timm.create_model("resnet10t", num_classes=0)
    method = make(kind, encoder=encoder)
    published = {methods.SimSiam: transforms.MoCoV2}.get(kind, transforms.BYOL)
    assert method.recipe(3, 224).recipe == published(224).recipe
    assert method.recipe(3, 64).recipe == transforms.SimCLRSmall(64).recipe
    assert method.recipe(1, 8).recipe == transforms.SimCLRDigits(8).recipe
    views = method.augment(uint8(4, 3, 80, 80))
    assert [view.shape for view in views] == [(4, 3, 80, 80)] * 2
    assert all(view.is_contiguous(memory_format=torch.channels_last) for view in views)
    assert not torch.equal(*views)
    assert method(views).isfinite()
    ragged = fastssl.RaggedImages.from_images([uint8(3, 40, 50), uint8(3, 30, 20)])
    assert [view.shape for view in make(kind, encoder=encoder, image_size=24).augment(ragged)] == [(2, 3, 24, 24)] * 2
    mine = make(kind, encoder=encoder, transform=transforms.SimCLRSmall(12))
    assert mine.augment(uint8(4, 3, 20, 20))[0].shape == (4, 3, 12, 12)


@pytest.mark.parametrize("kind", [*KINDS, methods.SimCLR])
def test_a_vision_transformer_gets_views_that_it_takes(kind):
    options = SMALL.get(kind, {})
    method = kind(methods.small_vit(3, 16), **options)
    assert method.augment(uint8(4, 3, 40, 40))[0].shape == (4, 3, 16, 16)
    named = kind("vit_tiny_patch16_224", image_size=32, **options)
    assert named.encoder.patch_embed.img_size == (32, 32)
    assert named(named.augment(uint8(4, 3, 40, 40))).isfinite()


@pytest.mark.parametrize("kind", KINDS)
def test_runs_resume_bit_for_bit(tmp_path, kind):
    """Stopped in the middle of the second epoch by an error; the copy and the schedules go on where they were."""
    check_resume(partial(make, kind), fit, tmp_path, step=5, images=192, lr=0.01)


def test_several_processes_are_one(tmp_path):
    """Loss, gradients and copies of two processes are those of one with the whole batch; see methods_worker.py."""
    worker = Path(__file__).with_name("methods_worker.py")
    ranks = [
        subprocess.Popen(
            [sys.executable, str(worker), str(rank), "2", str(tmp_path)], stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=240)[1] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], "\n".join(errors)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"projection_dim": 0}, ValueError, "projection_dim: got 0, want an int >= 1"),
        ({"hidden_dim": 2.5}, ValueError, "hidden_dim: got 2.5, want an int >= 1"),
        ({"encoder": timm.create_model("resnet10t")}, ValueError, "encoder: got a classifier of 1000"),
        ({"encoder": "resnet10000"}, ValueError, "encoder: got 'resnet10000', want the name of a timm model"),
        ({"encoder": nn.Flatten()}, ValueError, "feature_dim: the encoder has no num_features"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_bad_input(kind, options, error, says):
    with pytest.raises(error, match=says):
        make(kind, **options)


@pytest.mark.parametrize("momentum", [1.0, -0.1, "slow"])
@pytest.mark.parametrize("kind", FOLLOWED)
def test_bad_momentum(kind, momentum):
    with pytest.raises((ValueError, TypeError), match=r"momentum: got .*, want a number in \[0, 1\)"):
        make(kind, momentum=momentum)


@pytest.mark.parametrize("kind", KINDS)
def test_bad_views(kind):
    with pytest.raises(ValueError, match="views: got 3, want 2"):
        make(kind)([torch.zeros(4, 1, 8, 8)] * 3)
