"""The split-brain autoencoder: a step against its formula, chance, halves that stay apart, training, and pictures."""

from __future__ import annotations

import math

import pytest
import torch
from small_methods import uint8
from torch import nn

from fastssl import data, methods, reference, transforms
from fastssl.functional import ab_bins
from fastssl.methods._color import rgb_to_lab

RESNET = {"stem": "small", "layers": (1, 1, 1, 1), "channels": (8, 8, 16, 16), "output_stride": 8}


def make(seed=0, **options):
    torch.manual_seed(seed)
    encoder = methods.build_encoder("resnet18", in_chans=1, **RESNET)
    return methods.SplitBrain(encoder, **{"decoder_dim": 16, "stride": 2, **options})


def test_a_step_is_the_formula():
    """With dense targets, in float64, from the logits on."""
    method, seen = make(), []
    for decoder in (method.color_decoder, method.lightness_decoder):
        decoder.register_forward_hook(lambda module, args, made: seen.append(made.detach().double()))
    view = transforms.normalize(uint8(5, 3, 16, 16))
    loss = method([view])
    rgb = transforms.to_pixels(view).double()
    lab, index, weight = reference.lab_bins(rgb, ab_bins().double(), 10, 5.0, 2)
    dense = torch.zeros_like(seen[0]).scatter_(1, index.long(), weight)
    of_colors = -(dense * seen[0].log_softmax(1)).sum(1).mean()
    level = lab[:, 0, ::2, ::2].floor().clamp(0, 99).long()
    want = of_colors + nn.functional.cross_entropy(seen[1], level)
    torch.testing.assert_close(loss.double(), want, rtol=1e-4, atol=1e-5)


def test_chance_is_the_logarithm_of_the_classes():
    method = make()
    for decoder in (method.color_decoder, method.lightness_decoder):
        nn.init.zeros_(decoder.last.weight)
        nn.init.zeros_(decoder.last.bias)
    assert method(method.augment(uint8(8, 3, 16, 16))).item() == pytest.approx(math.log(313) + math.log(100), rel=1e-6)


def test_neither_half_sees_what_it_tells():
    """Other colours change what the colour half tells alone, another lightness what the other tells."""
    method = make().eval()
    lab = rgb_to_lab(torch.rand(2, 3, 16, 16))
    of_colors, of_lightness = method.predict(lab)
    recoloured = method.predict(torch.cat([lab[:, :1], -lab[:, 1:]], 1))
    assert torch.equal(recoloured[0], of_colors)
    assert not torch.equal(recoloured[1], of_lightness)
    darker = method.predict(torch.cat([lab[:, :1] / 2, lab[:, 1:]], 1))
    assert not torch.equal(darker[0], of_colors)
    assert torch.equal(darker[1], of_lightness)


def test_training_tells_both():
    images = data.photos("test", image_size=16).images[:48]
    method, losses = make(), []
    optimizer = torch.optim.AdamW(method.parameters(), 3e-3)
    for _ in range(36):
        loss = method(method.augment(images[torch.randperm(48)[:16]]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) / 5 < sum(losses[:5]) / 5 - 0.8


def test_pictures_keep_what_a_half_is_given():
    images = (uint8(3, 3, 16, 24) // 4 + 96).byte()  # colours that any lightness between can have
    rows = make().pictures(images)
    assert list(rows) == ["image", "from lightness", "from colour"]
    assert all(row.shape == images.shape for row in rows.values())
    image, from_colour = (rgb_to_lab(rows[name]) for name in ("image", "from colour"))
    torch.testing.assert_close(from_colour[:, 1:], image[:, 1:], rtol=0, atol=0.1)


def test_the_halves_are_made_alike():
    method = make()
    lightness, color = method.encoder.encoders
    assert (lightness.conv1.in_channels, color.conv1.in_channels) == (1, 2)
    shapes = [
        {key: value.shape for key, value in half.state_dict().items() if key != "conv1.weight"}
        for half in (lightness, color)
    ]
    assert shapes[0] == shapes[1]
    named = methods.SplitBrain("resnet10t")
    assert named.encoder.num_features == 1024
    given = methods.build_encoder("resnet18", in_chans=2, **RESNET)
    assert make(color_encoder=given).encoder.encoders[1] is given


@pytest.mark.parametrize(
    ("make_it", "error", "says"),
    [
        (lambda: methods.SplitBrain(nn.Conv2d(1, 4, 3), feature_dim=4), ValueError, "color_encoder: got None"),
        (lambda: make(color_encoder=methods.small_resnet(1)), ValueError, "color_encoder: got one that takes 1"),
        (lambda: make(stride=0), ValueError, "stride: got 0"),
        (lambda: make(decoder_dim=0), ValueError, "decoder_dim: got 0"),
        (lambda: methods.SplitBrain("resnet18x"), ValueError, "encoder: got 'resnet18x'"),
        (lambda: make()([torch.zeros(2, 3, 16, 16)] * 2), ValueError, "views: got 2, want 1"),
    ],
)  # fmt: skip
def test_bad_input(make_it, error, says):
    with pytest.raises(error, match=says):
        make_it()
