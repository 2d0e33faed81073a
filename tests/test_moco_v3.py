"""MoCo v3: the authors' algorithm step by step, its vision transformers, and features that improve."""

from __future__ import annotations

import copy
import math

import pytest
import timm
import torch
from small_methods import fit, trained, views_of
from torch import nn
from torch.nn.functional import cross_entropy, normalize
from two_views import linear_widths, make

from fastssl import data, methods


def contrastive(q, k, tau):
    logits = normalize(q) @ normalize(k).T / tau
    return cross_entropy(logits, torch.arange(len(q))) * (2 * tau)


@pytest.mark.parametrize("encoder", [None, "vit"])
def test_it_is_the_authors_algorithm(encoder):
    """Theirs in eager PyTorch, where the keys' network moves before it makes keys."""
    torch.manual_seed(1)
    method = make(methods.MoCoV3, encoder=encoder and methods.small_vit(1, 8), momentum=0.9).double()
    tau = 0.2 if encoder else 1.0
    assert method.temperature == tau
    base = nn.Sequential(copy.deepcopy(method.encoder), copy.deepcopy(method.projector))
    predictor, keys = copy.deepcopy(method.predictor), copy.deepcopy(base)
    theirs = [p for p in (*base.parameters(), *predictor.parameters()) if p.requires_grad]
    optimizers = [torch.optim.SGD(params, 0.05, 0.9) for params in (trained(method), theirs)]
    for step in range(6):
        first, second = views_of(method, 16, step, torch.float64)
        got = method([first, second])
        m = 1 - 0.5 * (1 + math.cos(math.pi * step / 6)) * (1 - 0.9)
        with torch.no_grad():
            for k, p in zip(keys.parameters(), base.parameters(), strict=True):
                k.mul_(m).add_(p, alpha=1 - m)
            k1, k2 = keys(first), keys(second)
        want = contrastive(predictor(base(first)), k2, tau) + contrastive(predictor(base(second)), k1, tau)
        for optimizer, loss in zip(optimizers, (got, want), strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        method.after_step(step + 1, 6)
        torch.testing.assert_close(got, want)
    for mine, p in zip(trained(method), theirs, strict=True):
        torch.testing.assert_close(mine, p)


@pytest.mark.parametrize("tau", [0.2, 1.0])
def test_the_loss_starts_at_chance(tau):
    method = make(methods.MoCoV3, temperature=tau, projection_dim=256, hidden_dim=512)
    chance = 4 * tau * math.log(256)
    assert method(views_of(method, 256)).item() == pytest.approx(chance, rel=0.1)


def test_the_published_networks():
    resnet, vit = (methods.MoCoV3(encoder) for encoder in (methods.small_resnet(3, 32), methods.small_vit(3, 32)))
    assert linear_widths(resnet.projector) == ([128, 4096, 256], [False, False])
    assert linear_widths(vit.projector) == ([96, 4096, 4096, 256], [False, False, False])
    for method in (resnet, vit):
        assert linear_widths(method.predictor) == ([256, 4096, 256], [False, False])
        assert not method.projector[-1].affine
    assert isinstance(resnet.predictor[-1], nn.Linear)
    assert not vit.predictor[-1].affine
    assert (resnet.temperature, vit.temperature) == (1.0, 0.2)
    assert (resnet.defaults["optimizer"], vit.defaults["optimizer"]) == ("lars", "adamw")


def test_a_vision_transformer_by_name_starts_as_published():
    """Fixed positions, a frozen patch projection, queries, keys and values as layers of their own, a token of 0."""
    vit = methods.MoCoV3("vit_tiny_patch16_224", projection_dim=8, hidden_dim=8).encoder
    assert not any(p.requires_grad for p in (vit.pos_embed, *vit.patch_embed.proj.parameters()))
    assert torch.equal(vit.pos_embed[0, 0], torch.zeros(192))
    assert vit.pos_embed[0, 1:].abs().max() <= 1
    assert not vit.patch_embed.proj.bias.any()
    for weight in vit.blocks[3].attn.qkv.weight.chunk(3):
        bound = math.sqrt(6 / (192 + 192))
        assert 0.99 * bound < weight.abs().max() <= bound
    assert vit.cls_token.abs().max() < 1e-5


def test_a_given_encoder_is_taken_as_it_is_but_for_its_patches():
    given = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=32)
    before = copy.deepcopy(given.state_dict())
    method = make(methods.MoCoV3, encoder=given)
    assert all(torch.equal(t, before[name]) for name, t in given.state_dict().items())
    frozen = {name for name, p in given.named_parameters() if not p.requires_grad}
    assert frozen == {"patch_embed.proj.weight", "patch_embed.proj.bias"}
    method([torch.randn(4, 3, 32, 32) for _ in range(2)]).backward()
    assert given.patch_embed.proj.weight.grad is None
    free = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=32)
    make(methods.MoCoV3, encoder=free, freeze_patches=False)
    assert all(p.requires_grad for p in free.parameters())


def test_an_exported_vision_transformer_is_rebuilt_with_its_kind_of_weights(tmp_path):
    vit = methods.MoCoV3("vit_tiny_patch16_224", projection_dim=8, hidden_dim=8, image_size=32).encoder
    methods.export_encoder(vit, tmp_path, image_size=32, in_chans=3)
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(methods.load_encoder(tmp_path)(x), vit.eval()(x))
    assert torch.equal(methods.rebuild(vit._fastssl_recipe).pos_embed, vit.pos_embed)


def test_the_temperature_learns():
    method = make(methods.MoCoV3, temperature=nn.Parameter(torch.tensor(0.5)))
    loss = method(views_of(method, 8))
    loss.backward()
    assert loss.dtype == torch.float32
    assert method.temperature.grad != 0
    assert any(p is method.temperature for p in method.parameters())


def test_features_improve(tmp_path):
    splits = tuple(data.load("digits", split=split) for split in ("train", "test"))
    method = make(methods.MoCoV3, projection_dim=64, hidden_dim=256)
    result = fit(method, tmp_path, epochs=8, batch_size=128, optimizer="adamw", lr=4e-3, knn_every=8, eval_data=splits)
    before, after = (row["knn"] for row in result.history if row["knn"] is not None)
    assert after > before + 0.1


@pytest.mark.parametrize("temperature", [0, -1.0, float("inf")])
def test_bad_temperature(temperature):
    with pytest.raises(ValueError, match="temperature: got"):
        make(methods.MoCoV3, temperature=temperature)
