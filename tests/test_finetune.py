"""Fine-tuning: right on data whose answer is known, repeatable, and it leaves the encoder alone."""

from __future__ import annotations

import copy

import pytest
import torch
from judging import bars, check_result
from torch import nn

from fastssl import data, evaluate, methods, transforms
from fastssl.evaluate import _finetune, _linear_probe


def plain(images):
    return [transforms.normalize(images)]


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return methods.small_vit(1, 8)


def test_bars_are_learned_and_the_encoder_stays_as_it_was(encoder):
    encoder.train()
    encoder.blocks[0].eval()
    before, modes = copy.deepcopy(encoder.state_dict()), [m.training for m in encoder.modules()]
    wants = [p.requires_grad for p in encoder.parameters()]
    state = torch.get_rng_state()
    result = evaluate.finetune(
        encoder, bars(60, 0), bars(60, 1), labels_per_class=8, subsets=2, epochs=40, transform=plain, progress=False
    )
    assert torch.equal(state, torch.get_rng_state())
    assert result.accuracy > 0.9
    assert len(result.accuracies) == 2
    assert result.labels_per_class == 8
    after = encoder.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert modes == [m.training for m in encoder.modules()]
    assert wants == [p.requires_grad for p in encoder.parameters()]
    assert all(p.grad is None for p in encoder.parameters())


def test_the_seed_decides(encoder):
    def run(seed):
        return evaluate.finetune(
            encoder, bars(60, 0), bars(90, 1), labels_per_class=3, subsets=2, epochs=2, seed=seed, progress=False
        ).accuracies

    first = run(0)
    assert first == run(0)
    assert run(1)[0] == first[1]  # draws are counted from the seed, as those of the linear probe
    with torch.random.fork_rng():
        torch.manual_seed(9)
        assert run(0) == first


def test_the_labelled_subsets_are_those_of_the_linear_probe(encoder, monkeypatch):
    seen = []
    real = _finetune.draw_subsets
    for module in (_finetune, _linear_probe):
        monkeypatch.setattr(module, "draw_subsets", lambda *args: seen.append(real(*args)) or seen[-1])
    images = bars(60, 0)
    options = {"labels_per_class": 4, "subsets": 3, "seed": 5}
    evaluate.finetune(encoder, images, images, epochs=1, progress=False, **options)
    evaluate.linear_probe(encoder, images, images, **options)
    tuned, probed = ([s.tolist() for s in draws] for draws in seen)
    assert tuned == probed
    assert len(tuned) == 3


def test_layers_learn_at_their_own_rates(encoder):
    model = _finetune._Classifier(encoder, encoder.num_features, 3)
    groups = _finetune._groups(model, lr=1.0, layer_decay=0.5, weight_decay=0.1)
    names = {id(p): name for name, p in model.named_parameters()}
    told = {names[id(p)]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert told.keys() == set(names.values())
    depth = len(encoder.blocks)
    assert told["head.weight"] == (1.0, 0.1)
    assert told["encoder.norm.weight"] == (0.5, 0.0)
    assert told[f"encoder.blocks.{depth - 1}.attn.qkv.weight"] == (0.5, 0.1)
    assert told["encoder.blocks.0.attn.qkv.weight"] == (0.5**depth, 0.1)
    assert told["encoder.patch_embed.proj.weight"] == (0.5 ** (depth + 1), 0.1)
    assert told["encoder.pos_embed"] == (0.5 ** (depth + 1), 0.0)  # fixed while it was masked, not any more


def test_layers_of_an_encoder_that_is_made_of_others_learn_at_their_own_rates(caplog):
    encoder = methods.SplitBrain(methods.small_resnet(1, 32), image_size=32).encoder
    model = _finetune._Classifier(encoder, encoder.num_features, 10)
    groups = _finetune._groups(model, lr=1.0, layer_decay=0.5, weight_decay=0.1)
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert len(rates) == len(list(model.parameters()))
    for half in encoder.encoders:
        assert rates[id(half.conv1[0].weight)] < rates[id(half.layer4[0].conv1.weight)] == 0.5 < 1
    assert "no effect" not in caplog.text


def test_linear_layers_learn_at_their_own_rates(caplog):
    model = _finetune._Classifier(methods.mlp_encoder(1, 8, (32, 16, 6)), 6, 3)
    groups = _finetune._groups(model, lr=1.0, layer_decay=0.5, weight_decay=0.1)
    names = {id(p): name.removeprefix("encoder.layers.") for name, p in model.named_parameters()}
    rates = {names[id(p)]: group["lr"] for group in groups for p in group["params"]}
    assert rates["6.weight"] == 0.5
    assert rates["3.weight"] == rates["4.weight"] == rates["4.bias"] == 0.25
    assert rates["0.weight"] == rates["1.weight"] == 0.125
    assert "no effect" not in caplog.text


def test_a_frozen_encoder_stays_and_its_head_learns(encoder, monkeypatch):
    models = []
    real = _finetune._accuracy
    monkeypatch.setattr(_finetune, "_accuracy", lambda model, *more: models.append(model) or real(model, *more))
    torch.manual_seed(0)
    resnet = methods.small_resnet(1, 8)  # whose batch norm would move in train mode
    settings = {"epochs": 30, "lr": 1e-2, "transform": plain, "progress": False}
    result = evaluate.finetune(resnet, bars(60, 0), bars(30, 1), frozen=True, **settings)
    (model,) = models
    want, got = resnet.state_dict(), model.encoder.state_dict()
    assert all(torch.equal(want[key], got[key]) for key in want)
    assert not model.encoder.training
    assert result.accuracy > 0.6
    kept = check_result(result, "optimizer", "lr", "epochs", "batch_size", "selection", "normalisation", "augmentation")
    assert kept["protocol"]["trained"].startswith("the linear layer alone")
    assert list(kept["scores"]) == ["linear layer, all labels"]


def test_the_protocol_tells_what_was_trained(encoder):
    def told(**options):
        result = evaluate.finetune(encoder, bars(9, 0), bars(9, 1), epochs=1, progress=False, **options)
        return result.protocol["trained"], *result.scores

    assert told(layer_decay=1) == ("everything alike", "fine-tuned, all labels")
    assert told(labels_per_class=2)[0] == "everything, 0.75 times as fast with each layer down"


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (lambda: methods.small_resnet(1, 8), {}),
        (lambda: nn.Sequential(nn.Conv2d(1, 6, 3), nn.Flatten()), {"feature_dim": 216}),  # no model of timm
    ],
)
def test_other_encoders_and_all_labels(make, options):
    torch.manual_seed(0)
    settings = {"epochs": 10, "lr": 1e-2, "batch_size": 16, "progress": False, **options}
    result = evaluate.finetune(make(), bars(60, 0), bars(30, 1), **settings)
    assert result.accuracies == (result.accuracy,)
    assert result.std == 0
    assert result.accuracy > 0.6


def test_default_views_are_mild():
    photo = _finetune._light(3, 32).recipe.views[0]
    digit = _finetune._light(1, 8).recipe.views[0]
    assert photo.scale == digit.scale == (0.6, 1.0)
    assert photo.hflip_p == 0.5
    assert digit.hflip_p == 0


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"epochs": 0}, ValueError, "epochs: got 0, want an int >= 1"),
        ({"batch_size": 1}, ValueError, "batch_size: got 1, want an int >= 2"),
        ({"subsets": 0}, ValueError, "subsets: got 0"),
        ({"labels_per_class": 0}, ValueError, "labels_per_class: got 0"),
        ({"labels_per_class": 21}, ValueError, "labels_per_class: got 21, want at most the 20 images of class 0"),
        ({"lr": 0}, ValueError, "lr: got 0, want a number > 0"),
        ({"layer_decay": 1.5}, ValueError, r"layer_decay: got 1.5, want a number in \(0, 1\]"),
        ({"weight_decay": -1}, ValueError, "weight_decay: got -1"),
        ({"warmup_epochs": -1}, ValueError, "warmup_epochs: got -1"),
        ({"encoder": 5}, TypeError, "encoder: got int"),
        ({"encoder": nn.Flatten()}, ValueError, "feature_dim: "),
        ({"train": data.TensorImages(bars(6, 0).images)}, ValueError, "train: got unlabelled images"),
        ({"test": bars(6, 0, classes=2)}, ValueError, "test: got the classes"),
    ],
)
def test_bad_input(encoder, change, error, says):
    given = {"encoder": encoder, "train": bars(60, 0), "test": bars(6, 1), "epochs": 1, "progress": False, **change}
    with pytest.raises(error, match=says):
        evaluate.finetune(given.pop("encoder"), given.pop("train"), given.pop("test"), **given)
