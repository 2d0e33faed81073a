"""Colourisation: a step against its formula, chance, rebalancing, training, resume, and pictures."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from small_methods import uint8
from torch import nn

from fastssl import data, methods, reference, transforms
from fastssl.functional import ab_bins
from fastssl.methods._color import ClassPrior, annealed_mean, rgb_to_lab


def make(seed=0, **options):
    torch.manual_seed(seed)
    kwargs = {"layers": (1, 1, 1, 1), "channels": (8, 8, 16, 16), "output_stride": 8}
    encoder = methods.build_encoder("resnet18", in_chans=1, stem="small", **kwargs)
    return methods.Colorization(encoder, **{"decoder_dim": 16, "stride": 2, **options})


@pytest.mark.parametrize("rebalance", [0.1, 0.5, 1.0])
def test_a_step_is_the_formula(rebalance):
    """With dense targets, in float64, from the logits on."""
    method = make(rebalance=rebalance)
    seen, p, nearest = [], *torch.zeros(2, 313, dtype=torch.float64)
    method.decoder.register_forward_hook(lambda module, args, made: seen.append(made))
    for batch in range(3):
        view = transforms.normalize(uint8(5, 3, 16, 16, seed=batch))
        loss = method([view])
        logits = seen[-1].detach().double().requires_grad_()
        rgb = transforms.to_pixels(view).double()
        _, index, weight = reference.lab_bins(rgb, ab_bins().double(), 10, 5.0, 2)
        dense = torch.zeros_like(logits).scatter_(1, index.long(), weight.to(logits))
        p = p + (dense.mean((0, 2, 3)).detach() - p) / (batch + 1)
        v = 1 / ((1 - rebalance) * p + rebalance / 313)
        first = nn.functional.one_hot(index[:, 0].long(), 313).double().mean((0, 1, 2))
        nearest = nearest + (first - nearest) / (batch + 1)
        v = v / (nearest @ v)
        want = -(v[index[:, 0].long()] * (dense * logits.log_softmax(1)).sum(1)).mean()
        torch.testing.assert_close(loss.double(), want, rtol=1e-4, atol=1e-5)
        (grad,), (exact,) = (torch.autograd.grad(x, y) for x, y in ((loss, seen[-1]), (want, logits)))
        torch.testing.assert_close(grad.double(), exact, rtol=1e-3, atol=1e-7)


def test_chance_is_the_logarithm_of_the_classes():
    method = make(rebalance=1.0)
    nn.init.zeros_(method.decoder.last.weight)
    nn.init.zeros_(method.decoder.last.bias)
    views = method.augment(uint8(8, 3, 16, 16))
    assert method(views).item() == pytest.approx(math.log(313), rel=1e-6)
    assert math.log(313) == pytest.approx(5.7462, abs=5e-5)
    method.rebalance = 0.5  # rare colours weigh more, but all places together as much as before
    fresh = copy.deepcopy(method)
    fresh.prior = ClassPrior(313)
    assert fresh(views).item() == pytest.approx(math.log(313), rel=1e-5)


def test_rare_colours_count_more():
    """One red place among blue ones: answering blue everywhere costs more with rebalancing, red there less."""
    images = torch.zeros(4, 3, 16, 16, dtype=torch.uint8)
    images[:, 2] = 255
    images[:, :, :4, :4] = torch.tensor([255, 0, 0], dtype=torch.uint8)[:, None, None]
    losses = []
    for rebalance in (1.0, 0.5):
        method = make(rebalance=rebalance)
        blue = rgb_to_lab(images[:1, :, -1:, -1:] / 255)[0, 1:, 0, 0]
        method.decoder.last.weight.data.zero_()
        method.decoder.last.bias.data = -(ab_bins() - blue).square().sum(1) / 200
        losses.append(method([transforms.normalize(images)]).item())
    assert losses[1] > 2 * losses[0]


def test_evaluation_leaves_the_prior_as_it_is():
    method = make()
    view = transforms.normalize(uint8(4, 3, 16, 16))
    method.eval()([view])
    assert method.prior.batches == 0
    assert torch.equal(method.prior.soft, torch.full((313,), 1 / 313))
    method.train()([view])
    assert method.prior.batches == 1
    assert not torch.equal(method.prior.soft, torch.full((313,), 1 / 313))


def test_training_tells_colours():
    images = data.photos("test", image_size=16).images[:48]
    method, losses = make(), []
    optimizer = torch.optim.AdamW(method.parameters(), 3e-3)
    for _ in range(36):
        loss = method(method.augment(images[torch.randperm(48)[:16]]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-9:]) < 0.95 * sum(losses[:9])
    rows = method.pictures(images)
    errors = {name: (rows[name] - rows["image"]).square().mean() for name in ("lightness", "recoloured")}
    assert errors["recoloured"] < 0.8 * errors["lightness"]


def test_pictures_keep_the_lightness():
    images = uint8(3, 3, 16, 24)
    rows = make(rebalance=1.0).pictures(images)
    assert list(rows) == ["image", "lightness", "recoloured"]
    assert all(row.shape == images.shape for row in rows.values())
    torch.testing.assert_close(rows["image"], images / 255)
    lightness = [rgb_to_lab(rows[name])[:, 0] for name in ("image", "lightness")]
    torch.testing.assert_close(*lightness, rtol=0, atol=1e-3)
    assert rgb_to_lab(rows["lightness"])[:, 1:].abs().max() < 0.1


def test_the_annealed_mean_lies_between_mean_and_mode():
    logits = torch.tensor([0.0, 1.0])[None, :, None, None].expand(1, 2, 3, 3)
    values = torch.tensor([[0.0, 0.0], [1.0, 10.0]])
    found = annealed_mean(logits, values, (6, 6))
    assert found.shape == (1, 2, 6, 6)
    share = 1 / (1 + math.exp(-1 / 0.38))
    torch.testing.assert_close(found[0, :, 0, 0], torch.tensor([share, 10 * share]))


def test_a_name_makes_an_encoder_of_lightness():
    method = methods.Colorization("resnet18")
    assert method.encoder.channels == 1
    assert method.encoder.forward_features(torch.zeros(1, 3, 64, 64)).shape == (1, 512, 8, 8)
    vit = methods.Colorization("vit_tiny_patch16_224", image_size=32)
    assert vit.encoder.forward_features(torch.zeros(1, 3, 32, 32)).shape == (1, 192, 2, 2)


@pytest.mark.parametrize(
    ("make_it", "error", "says"),
    [
        (lambda: make(rebalance=1.5), ValueError, "rebalance: got 1.5"),
        (lambda: make(rebalance=0), ValueError, "rebalance: got 0, want a number in"),
        (lambda: make(rebalance="half"), TypeError, "rebalance: got str"),
        (lambda: make(stride=0), ValueError, "stride: got 0"),
        (lambda: make(decoder_dim=0), ValueError, "decoder_dim: got 0"),
        (lambda: methods.Colorization("resnet18x"), ValueError, "encoder: got 'resnet18x'"),
        (lambda: methods.Colorization(3), TypeError, "encoder: got int"),
        (lambda: make()([torch.zeros(2, 3, 16, 16)] * 2), ValueError, "views: got 2, want 1"),
    ],
)
def test_bad_input(make_it, error, says):
    with pytest.raises(error, match=says):
        make_it()
