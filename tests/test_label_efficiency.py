"""Accuracy over labels: three curves over the same draws, each as its own function gives it."""

from __future__ import annotations

import copy

import pytest
import torch
from judging import bars, check_result
from PIL import Image
from torch import nn

from fastssl import evaluate, methods
from fastssl.evaluate import LabelEfficiencyResult
from fastssl.evaluate._subsets import SubsetResult
from fastssl.methods._encoder import recipe_of

SETTINGS = {"epochs": 2, "progress": False}


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return methods.small_resnet(1, 8)


def test_each_curve_is_what_its_function_gives(encoder):
    train, test = bars(60, 0), bars(30, 1)
    before = copy.deepcopy(encoder.state_dict())
    result = evaluate.label_efficiency(encoder, train, test, labels=(4, 1, 4), draws=2, seed=3, l2=0.5, **SETTINGS)
    assert result.labels == (1, 4)
    assert list(result.curves) == ["linear probe", "fine-tuned", "from scratch"]
    with torch.random.fork_rng():
        torch.manual_seed(3)
        untrained = methods.rebuild(recipe_of(encoder))
    for i, n in enumerate(result.labels):
        few = {"labels_per_class": n, "subsets": 2, "seed": 3}
        for name, want in (
            ("linear probe", evaluate.linear_probe(encoder, train, test, l2=0.5, **few)),
            ("fine-tuned", evaluate.finetune(encoder, train, test, **few, **SETTINGS)),
            ("from scratch", evaluate.finetune(untrained, train, test, layer_decay=1, **few, **SETTINGS)),
        ):
            assert result.curves[name][i].accuracies == want.accuracies, name
            assert result.curves[name][i].labels_per_class == n
    kept = check_result(result, "labels", "draws", "seed", "baseline")
    assert kept["protocol"]["baseline"] == "the recipe of the encoder, with new random weights"
    assert kept["curves"]["from scratch"][1]["protocol"]["trained"] == "everything alike"
    assert next(iter(kept["scores"])) == "linear probe, 4 labels a class"
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())


def test_a_baseline_of_ones_own_and_no_fine_tuning(encoder):
    own, given = nn.Sequential(nn.Conv2d(1, 6, 3), nn.Flatten()), copy.deepcopy(encoder)
    result = evaluate.label_efficiency(
        own,
        bars(60, 0),
        bars(30, 1),
        labels=(2,),
        draws=1,
        baseline=given,
        finetuned=False,
        feature_dim=128,
        **SETTINGS,
    )
    assert list(result.curves) == ["linear probe", "from scratch"]
    assert result.protocol["baseline"] == "given"
    assert all(torch.equal(value, given.state_dict()[key]) for key, value in encoder.state_dict().items())


def test_trained_features_need_fewer_labels(encoder):
    """The encoder knows the classes, as it was trained on labels."""
    train, test = bars(90, 0), bars(60, 1)
    models = []
    real = evaluate._finetune._accuracy
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate._finetune, "_accuracy", lambda model, *more: models.append(model) or real(model, *more))
        evaluate.finetune(encoder, train, test, epochs=15, lr=1e-2, batch_size=16, progress=False)
    known = models[0].encoder.requires_grad_(True)
    result = evaluate.label_efficiency(
        known, train, test, labels=(1, 5), draws=2, epochs=6, progress=False, baseline=methods.small_resnet(1, 8)
    )
    probe, scratch = (result.curves[name] for name in ("linear probe", "from scratch"))
    assert probe[0].accuracy > 0.9
    assert probe[0].accuracy > scratch[0].accuracy + 0.2


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"labels": ()}, ValueError, "labels: got none"),
        ({"labels": (0,)}, ValueError, "labels: got 0, want an int >= 1"),
        ({"labels": (1, 21)}, ValueError, "labels: got 21, want at most the 20 images of the smallest class"),
        ({"draws": 0}, ValueError, "draws: got 0"),
        ({"subsets": 3}, TypeError, "subsets: got it for finetune, want labels, draws and seed alone to decide"),
        (
            {"encoder": nn.Flatten(), "labels": (1,)},
            ValueError,
            "baseline: got None for Flatten, which timm",
        ),
        ({"test": bars(6, 0, classes=2)}, ValueError, "test: got the classes"),
    ],
)
def test_bad_input(encoder, change, error, says):
    given = {"encoder": encoder, "train": bars(60, 0), "test": bars(6, 1), **SETTINGS, **change}
    with pytest.raises(error, match=says):
        evaluate.label_efficiency(given.pop("encoder"), given.pop("train"), given.pop("test"), **given)


def test_the_plot(tmp_path):
    def curve(*accuracies):
        return tuple(
            SubsetResult(accuracy=a, std=0.04, accuracies=(a,), labels_per_class=n, protocol={})
            for n, a in zip((1, 10, 100), accuracies, strict=True)
        )

    curves = {"linear probe": curve(0.4, 0.6, 0.7), "from scratch": curve(0.2, 0.4, 0.75)}
    result = LabelEfficiencyResult(labels=(1, 10, 100), curves=curves, protocol={})
    path = evaluate.plots.label_efficiency(result, tmp_path / "new" / "labels.png", "bars", chance=0.1)
    assert Image.open(path).size[0] > 600
