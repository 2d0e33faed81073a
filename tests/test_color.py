"""Lab, encoders that see a part of it, their export, the prior of classes, k-means, and what is refused."""

from __future__ import annotations

import json

import pytest
import timm
import torch
from small_methods import uint8
from torch import nn

import fastssl
from fastssl import data, evaluate, functional, methods, reference, transforms
from fastssl.methods._color import ClassPrior, LightnessInput, SplitBrainEncoder, kmeans, lab_to_rgb, rgb_to_lab
from fastssl.methods._encoder import feature_map, fixed_size

COLOURED = {
    methods.Colorization: {"decoder_dim": 8},
    methods.SplitBrain: {"decoder_dim": 8},
    methods.VideoColorization: {"embed_dim": 8},
}


def small(in_chans, **kwargs):
    channels = {"layers": (1, 1, 1, 1), "channels": (4, 4, 8, 8)}
    return methods.build_encoder("resnet18", in_chans=in_chans, stem="small", **channels, **kwargs)


def test_lab_is_that_of_the_op_and_comes_back():
    images = uint8(3, 3, 5, 7)
    exact = reference._lab_bins.rgb_to_lab(images.double() / 255)
    lab = rgb_to_lab(images / 255)
    torch.testing.assert_close(lab, exact.float(), rtol=0, atol=1e-4)
    torch.testing.assert_close(lab, functional.lab_bins(images).lab, rtol=0, atol=1e-4)
    torch.testing.assert_close(lab_to_rgb(lab), images / 255, rtol=0, atol=1e-5)


def test_lightness_is_all_that_the_encoder_sees():
    encoder = LightnessInput(small(1)).eval()
    lab = (
        torch.rand(4, 3, 8, 8) * torch.tensor([40.0, 20, 20])[:, None, None] + torch.tensor([30.0, 0, 0])[:, None, None]
    )
    other = torch.cat([lab[:, :1], -lab[:, 1:]], 1)
    first, second = (transforms.normalize((lab_to_rgb(x) * 255).round().byte()) for x in (lab, other))
    assert (first - second).abs().max() > 0.5
    torch.testing.assert_close(encoder(first), encoder(second), rtol=0, atol=0.05 * encoder(first).abs().max().item())
    seen = encoder.seen(rgb_to_lab(lab_to_rgb(lab)))
    torch.testing.assert_close(seen, (lab[:, :1] - 50) / 50, rtol=0, atol=1e-4)


def test_an_encoder_of_three_channels_gets_the_lightness_in_each():
    encoder = LightnessInput(small(3))
    lab = rgb_to_lab(torch.rand(2, 3, 8, 8))
    assert torch.equal(encoder.seen(lab), ((lab[:, :1] - 50) / 50).expand(-1, 3, -1, -1))


def test_the_halves_see_what_the_other_does_not():
    halves = SplitBrainEncoder(small(1), small(2)).eval()
    lab = rgb_to_lab(torch.rand(2, 3, 8, 8))
    lightness, colors = halves.seen(lab)
    assert torch.equal(lightness, (lab[:, :1] - 50) / 50)
    assert torch.equal(colors, lab[:, 1:] / 50)
    x = transforms.normalize(uint8(2, 3, 8, 8))
    assert halves(x).shape == (2, halves.num_features) == (2, 16)
    assert halves.forward_features(x).shape[:2] == (2, 16)


@pytest.mark.parametrize(
    ("make", "grid"),
    [
        (lambda: small(1), (1, 1)),
        (lambda: methods.small_resnet(1, 32), (2, 2)),
        (lambda: methods.small_resnet(1, 32, output_stride=8), (8, 8)),
        (lambda: methods.small_resnet(1, 32, output_stride=16), (4, 4)),
        (lambda: methods.small_vit(1, 32), (8, 8)),
        (lambda: methods.build_encoder("vit_tiny_patch16_224", in_chans=1, img_size=32), (2, 2)),
        (lambda: methods.build_encoder("swin_tiny_patch4_window7_224", in_chans=1, img_size=64), (2, 2)),
    ],
)
def test_maps_have_height_and_width(make, grid):
    encoder = make().eval()
    side = 8 if grid == (1, 1) else 64 if "Swin" in type(encoder).__name__ else 32
    x = torch.randn(2, 1, side, side)
    found = feature_map(encoder, x)
    assert found.shape == (2, encoder.num_features, *grid)
    if hasattr(encoder, "maxpool"):  # whose features are the mean of the map
        torch.testing.assert_close(found.mean((2, 3)), encoder(x))


def test_patches_of_a_transformer_stay_in_their_places():
    vit = methods.build_encoder("vit_tiny_patch16_224", in_chans=1, img_size=(32, 48), depth=0, pos_embed="none").eval()
    x = torch.zeros(1, 1, 32, 48)
    x[:, :, 16:, 32:] = 1  # the patch of row 1, column 2
    found = feature_map(vit, x)
    differs = (found - found[:, :, :1, :1]).abs().amax(1)[0] > 1e-6
    assert differs.nonzero().tolist() == [[1, 2]]


@pytest.mark.parametrize("kind", COLOURED)
def test_wrapped_encoders_are_exported_and_rebuilt(kind, tmp_path):
    method = kind(methods.small_resnet(1, 32), **COLOURED[kind])
    x = transforms.normalize(uint8(2, 3, 32, 32))
    method.encoder(x)  # running statistics that are not the initial ones
    methods.export_encoder(method.encoder, tmp_path, image_size=32, in_chans=3)
    about = json.loads((tmp_path / "encoder.json").read_text())
    assert about["in_chans"] == 3
    assert about["timm"]["wrapper"] == type(method.encoder).__name__
    assert torch.equal(methods.load_encoder(tmp_path)(x), method.encoder.eval()(x))
    fresh = methods.rebuild(about["timm"]).eval()
    assert fresh.state_dict().keys() == method.encoder.state_dict().keys()
    assert not torch.equal(fresh(x), method.encoder(x))


def test_wrapped_encoders_of_timm_itself_are_rebuilt(tmp_path):
    method = methods.SplitBrain(timm.create_model("resnet10t", num_classes=0, in_chans=1))
    methods.export_encoder(method.encoder, tmp_path, image_size=32, in_chans=3)
    x = transforms.normalize(uint8(2, 3, 32, 32))
    assert torch.equal(methods.load_encoder(tmp_path)(x), method.encoder.eval()(x))


def test_what_is_wrapped_may_be_of_any_make(tmp_path):
    encoder = nn.Sequential(nn.Conv2d(1, 5, 3, 2), nn.ReLU())
    method = methods.Colorization(encoder, feature_dim=5, decoder_dim=8)
    assert method(method.augment(uint8(4, 3, 8, 8))).isfinite()
    methods.export_encoder(method.encoder, tmp_path, image_size=8, in_chans=3)
    with pytest.raises(ValueError, match="not a model that timm can make"):
        methods.load_encoder(tmp_path)
    again = methods.load_encoder(tmp_path, LightnessInput(nn.Sequential(nn.Conv2d(1, 5, 3, 2), nn.ReLU()), 5))
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(again(x), method.encoder.eval()(x))


def test_wrapped_encoders_are_judged_as_any_other():
    train = data.photos("test", image_size=16).take(range(60))
    method = methods.SplitBrain(small(1), **COLOURED[methods.SplitBrain])
    assert evaluate.knn(method.encoder, train, train, k=5).accuracy > 0.5
    tuned = evaluate.finetune(method.encoder, train, train, epochs=1, progress=False)
    assert 0 <= tuned.accuracy <= 1


def test_a_wrapped_transformer_takes_one_size():
    vit = methods.build_encoder("vit_tiny_patch16_224", in_chans=1, img_size=32)
    method = methods.Colorization(vit)
    assert fixed_size(method.encoder) == method.image_size == (32, 32)
    with pytest.raises(ValueError, match="image_size: got images of 64 x 64"):
        fastssl.fit(method, data.photos("test"))


@pytest.mark.parametrize("kind", COLOURED)
@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda m, out: m.augment(uint8(4, 1, 8, 8)), "images: got 1 channel, want 3"),
        (lambda m, out: m.augment(fastssl.RaggedImages.from_images([uint8(1, 8, 9)])), "images: got 1 channel"),
        (lambda m, out: m([torch.zeros(4, 1, 8, 8)] * m.frames), "views: got 1 channel, want 3"),
        (lambda m, out: fastssl.fit(m, "digits", out=out), "data: got grey images"),
    ],
)
def test_grey_images_are_refused(kind, ask, says, tmp_path):
    method = kind(small(1), **COLOURED[kind])
    method.frames = 2 if kind is methods.VideoColorization else 1
    with pytest.raises(ValueError, match=rf"{says}.*{kind.__name__}"):
        ask(method, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_prior_is_the_mean_of_all_batches():
    torch.manual_seed(0)
    prior, soft, nearest = ClassPrior(6), [], []
    torch.testing.assert_close(prior.balance(0.3), torch.ones(6))
    for _ in range(4):
        index = torch.randint(6, (3, 2, 4, 5), dtype=torch.int32)
        weight = torch.rand(3, 2, 4, 5).softmax(1)
        prior.update(index, weight)
        dense = torch.zeros(3, 6, 4, 5, dtype=torch.float64).scatter_add_(1, index.long(), weight.double())
        soft.append(dense.mean((0, 2, 3)))
        nearest.append(index[:, 0].flatten().bincount(minlength=6) / 60)
    p, first = (torch.stack(means).mean(0).double() for means in (soft, nearest))
    torch.testing.assert_close(prior.soft.double(), p, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(prior.nearest.double(), first, rtol=1e-5, atol=1e-7)
    v = 1 / (0.7 * p + 0.3 / 6)
    torch.testing.assert_close(prior.balance(0.3).double(), v / (first @ v), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(prior.balance(1.0), torch.ones(6))
    assert prior.half().soft.dtype == torch.float32


def test_kmeans_finds_what_is_there():
    torch.manual_seed(0)
    truth = torch.tensor([[0.0, 0], [30, 5], [-20, 40], [50, 50]])
    points = truth[torch.arange(40000) % 4] + torch.randn(40000, 2)
    found = kmeans(points, 4)
    assert torch.cdist(truth, found).amin(1).max() < 0.2
    same = kmeans(torch.ones(5, 2), 3)  # fewer colours than clusters
    assert torch.equal(same, torch.ones(3, 2))
