"""Methods, encoders and the augmentation, against torchvision and against themselves."""

from __future__ import annotations

import json

import pytest
import timm
import torch
import torchvision.transforms.v2.functional as tv
from torch import nn

from fastssl import methods, transforms
from fastssl.functional import Recipe, View


def uint8(*shape, seed=0):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return methods.small_resnet(1, 8)


@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 32), (1, 32), (3, 80), (3, 7)])
def test_views_are_floats_of_the_images_size(channels, size):
    views = transforms.default_simclr(channels, size)(uint8(5, channels, size, size))
    assert [view.shape for view in views] == [(5, channels, size, size)] * 2
    assert all(view.dtype == torch.float32 and view.isfinite().all() for view in views)
    assert not torch.equal(views[0], views[1])


def test_every_sample_has_its_own_parameters():
    same = uint8(1, 3, 32, 32).expand(16, -1, -1, -1).contiguous()
    for recipe in (transforms.SimCLR(32), transforms.SimCLRSmall(32)):
        for view in recipe(same):
            assert (view[:, None] - view[None]).abs().amax((2, 3, 4)).add(torch.eye(16)).min() > 1e-3


def test_the_seed_governs_the_views():
    images, recipe = uint8(6, 3, 32, 32), transforms.SimCLR(32)
    torch.manual_seed(3)
    first = recipe(images)
    torch.manual_seed(3)
    assert all(torch.equal(a, b) for a, b in zip(first, recipe(images), strict=True))
    drawn = [recipe(images, generator=torch.Generator().manual_seed(5)) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*drawn, strict=True))


def test_a_recipe_without_randomness_is_normalisation():
    images = uint8(4, 3, 16, 16)
    still = View(16, scale=(1, 1), ratio=(1, 1), hflip_p=0)
    (view,) = transforms.Transform(Recipe((still,)))(images)
    torch.testing.assert_close(transforms.normalize(images), tv.normalize(images / 255, *transforms.statistics(3)))
    torch.testing.assert_close(view, transforms.normalize(images))


@pytest.mark.parametrize("name", transforms.RECIPES)
def test_published_recipes(name):
    small = {"local_size": 12} if name in ("dino", "swav") else {}
    transform = transforms.RECIPES[name](24, dtype=torch.bfloat16, memory_format=torch.channels_last, **small)
    views = transform([uint8(3, 40, 50), uint8(3, 30, 20)])
    assert [tuple(view.shape) for view in views] == [(2, 3, *size) for size in transform.recipe.sizes]
    assert len(views) == {"dino": 10, "swav": 8, "mae": 1}.get(name, 2)
    assert all(view.dtype == torch.bfloat16 for view in views)
    assert all(view.is_contiguous(memory_format=torch.channels_last) for view in views)
    assert repr(transform).startswith(f"{type(transform).__name__}(views ")


def test_simclr_trains_its_encoder(encoder):
    method = methods.SimCLR(encoder, temperature=0.5, projection_dim=32)
    views = method.augment(uint8(6, 1, 8, 8))
    assert method.project(views[0]).shape == (6, 32)
    loss = method(views)
    assert loss.shape == ()
    assert loss.dtype == torch.float32
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters())
    assert encoder(views[0]).shape == (6, encoder.num_features)


def test_simclr_takes_a_name_a_map_and_a_transform():
    assert methods.SimCLR("resnet10t").encoder.num_features == 512
    maps = nn.Conv2d(3, 5, 3)
    method = methods.SimCLR(maps, feature_dim=5, transform=transforms.SimCLRSmall(12))
    views = method.augment(uint8(4, 3, 20, 20))
    assert views[0].shape == (4, 3, 12, 12)
    assert method(views).isfinite()
    assert methods.SimCLR(maps, feature_dim=5, image_size=16).augment(uint8(4, 3, 20, 20))[0].shape == (4, 3, 16, 16)


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda e: methods.SimCLR("resnet18x"), ValueError, "encoder: got 'resnet18x', want the name of a timm model"),
        (lambda e: methods.SimCLR(3), TypeError, "encoder: got int"),
        (lambda e: methods.SimCLR(timm.create_model("resnet10t")), ValueError, "encoder: got a classifier of 1000"),
        (lambda e: methods.SimCLR(nn.Flatten()), ValueError, "feature_dim: "),
        (lambda e: methods.SimCLR(e, temperature=0), ValueError, "temperature: got 0"),
        (lambda e: methods.SimCLR(e, projection_dim=0), ValueError, "projection_dim: got 0"),
        (lambda e: methods.SimCLR(e)([torch.zeros(1, 1, 8, 8)] * 2), ValueError, "views: got 1 image"),
        (lambda e: methods.SimCLR(e)([torch.zeros(2, 1, 8, 8)] * 3), ValueError, "views: got 3, want 2"),
        (lambda e: methods.build_encoder("resnet18", stem="tiny"), ValueError, "stem: got 'tiny'"),
        (lambda e: methods.build_encoder("resnet18", in_chans=4), ValueError, "in_chans: got 4"),
        (lambda e: methods.build_encoder("resnet18", colour=1), ValueError, "encoder: timm cannot make"),
        (lambda e: methods.build_encoder("vit_tiny_patch16_224", stem="small"), ValueError, "stem: got 'small'"),
    ],
)
def test_bad_input(encoder, make, error, says):
    with pytest.raises(error, match=says):
        make(encoder)


def test_export_and_rebuild(tmp_path, encoder):
    path = methods.export_encoder(encoder, tmp_path, image_size=8, in_chans=1)
    again = methods.load_encoder(tmp_path)
    x = torch.randn(3, 1, 8, 8)
    assert not again.training
    assert torch.equal(again(x), encoder.eval()(x))
    assert torch.equal(methods.load_encoder(path)(x), again(x))
    about = json.loads((tmp_path / "encoder.json").read_text())
    assert about["image_size"] == 8
    assert about["mean"] == [0.449]
    assert about["timm"]["name"] == "resnet18"


def test_timm_reads_and_is_read(tmp_path):
    made_by_timm = timm.create_model("resnet10t", num_classes=0).eval()
    path = methods.export_encoder(made_by_timm, tmp_path, image_size=64, in_chans=3)
    x = torch.randn(2, 3, 64, 64)
    theirs = timm.create_model("resnet10t", num_classes=0, checkpoint_path=str(path)).eval()
    assert torch.equal(theirs(x), made_by_timm(x))
    assert torch.equal(methods.load_encoder(tmp_path)(x), made_by_timm(x))


def test_an_encoder_that_timm_cannot_make(tmp_path):
    mine = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    methods.export_encoder(mine, tmp_path, image_size=8, in_chans=3)
    with pytest.raises(ValueError, match="not a model that timm can make; pass the module"):
        methods.load_encoder(tmp_path)
    twin = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(methods.load_encoder(tmp_path, twin)(x), mine(x))


def test_broken_exports(tmp_path, encoder):
    with pytest.raises(FileNotFoundError, match=r"folder: got .*holds no encoder\.safetensors"):
        methods.load_encoder(tmp_path)
    path = methods.export_encoder(encoder, tmp_path, image_size=8, in_chans=1)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="damaged or belongs to another encoder"):
        methods.load_encoder(tmp_path)
    (tmp_path / "encoder.json").write_text("{")
    with pytest.raises(ValueError, match=r"encoder\.json is missing or damaged"):
        methods.load_encoder(tmp_path)
