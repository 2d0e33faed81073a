"""Frozen evaluation: right on data whose answer is known, and it leaves the encoder alone."""

from __future__ import annotations

import copy

import pytest
import torch
from judging import check_result, clusters
from torch import nn

from fastssl import data, evaluate, methods
from fastssl.evaluate import Features


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return methods.small_resnet(1, 8)


def test_separable_clusters_are_classified():
    train, test = clusters(seed=0), clusters(seed=1)
    assert evaluate.knn(None, train, test, k=5).accuracy == 1
    assert evaluate.linear_probe(None, train, test).accuracy == 1
    few = evaluate.linear_probe(None, train, test, labels_per_class=4, subsets=3)
    assert len(few.accuracies) == 3
    assert few.accuracy == pytest.approx(sum(few.accuracies) / 3)
    assert few.accuracy > 0.9


def test_knn_equals_loops():
    train, test = clusters(40, spread=0.8, seed=2), clusters(30, spread=0.8, seed=3)
    result = evaluate.knn(None, train, test, k=7, temperature=0.1)
    for i, row in enumerate(test.x.double()):
        cosines = [float(row @ other / (row.norm() * other.norm())) for other in train.x.double()]
        nearest = sorted(range(40), key=lambda j: -cosines[j])[:7]
        votes = [
            sum(2.718281828459045 ** (cosines[j] / 0.1) for j in nearest if train.labels[j] == c) for c in range(3)
        ]
        assert votes.index(max(votes)) == result.predictions[i]
    assert result.accuracy == (result.predictions == test.labels).double().mean()
    assert torch.equal(
        evaluate.knn(None, train, test, k=7, temperature=0.1, device="cpu").predictions, result.predictions
    )


def test_features_come_in_order_and_pixels_stand_for_none(encoder):
    images = data.load("digits", split="test")
    pixels = evaluate.features(None, images)
    assert torch.equal(pixels.x, images.images.flatten(1).float() / 255)
    one_by_one = evaluate.features(encoder, images.take(range(40)), batch_size=7)
    together = evaluate.features(encoder, images.take(range(40)), batch_size=40)
    torch.testing.assert_close(one_by_one.x, together.x)
    assert one_by_one.x.shape == (40, 128)
    assert torch.equal(one_by_one.labels, images.labels[:40])


def test_the_encoder_stays_as_it_was(encoder):
    encoder.train()
    encoder.layer1.eval()  # a part in another mode must stay in it
    for parameter in encoder.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = copy.deepcopy(encoder.state_dict())
    modes = [module.training for module in encoder.modules()]
    train, test = data.load("digits"), data.load("digits", split="test")
    evaluate.linear_probe(encoder, train, test, labels_per_class=10, subsets=1)
    evaluate.knn(encoder, train, test)
    after = encoder.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert all(torch.equal(p.grad, torch.ones_like(p)) and p.requires_grad for p in encoder.parameters())
    assert modes == [module.training for module in encoder.modules()]


def test_modes_return_after_an_error():
    class Broken(nn.Module):
        def forward(self, x):
            raise RuntimeError("broken")

    broken = Broken()
    with pytest.raises(RuntimeError, match="broken"):
        evaluate.features(broken, data.load("digits"))
    assert broken.training


def test_digits_by_name():
    assert evaluate.knn(None, "digits", "digits").accuracy > 0.95
    assert evaluate.linear_probe(None, "digits", "digits").accuracy > 0.9


def test_results_tell_how_they_were_found(encoder):
    train, test = data.load("digits"), data.load("digits", split="test")
    found = check_result(evaluate.knn(encoder, train, test, k=3), "normalisation", "classifier", "temperature")
    protocol = found["protocol"]
    assert protocol["k"] == 3
    assert protocol["train"] == {
        "images": 1442, "features": 128, "classes": 10, "data": "digits", "image_size": 8, "channels": 1,
        "encoder": "ResNet, in eval mode", "input": "(x / 255 - mean) / std, mean (0.449,), std (0.226,)",
    }  # fmt: skip
    assert protocol["test"]["images"] == 355
    assert "predictions" not in found
    with_pixels = check_result(evaluate.linear_probe(None, train.take(range(60)), test, labels_per_class=2, subsets=3))
    assert with_pixels["protocol"]["train"]["encoder"] == "pixels in [0, 1]"
    assert with_pixels["scores"] == {"linear, 2 labels a class": with_pixels["accuracy"]}
    assert with_pixels["protocol"]["seeds"] == [0, 1, 2]


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda a, b: evaluate.knn(None, a, b, k=0), ValueError, "k: got 0"),
        (lambda a, b: evaluate.knn(None, a, b, k=61), ValueError, "k: got 61, want at most"),
        (lambda a, b: evaluate.knn(None, a, b, temperature=0), ValueError, "temperature: got 0"),
        (lambda a, b: evaluate.linear_probe(None, a, b, labels_per_class=21), ValueError, "labels_per_class: got 21"),
        (lambda a, b: evaluate.linear_probe(None, a, b, labels_per_class=0), ValueError, "labels_per_class: got 0"),
        (lambda a, b: evaluate.linear_probe(None, a, b, l2=0), ValueError, "l2: got 0"),
        (lambda a, b: evaluate.knn(None, Features(a.x, a.labels, ()), b), ValueError, "train: got unlabelled"),
        (lambda a, b: evaluate.knn(None, a, clusters(classes=2)), ValueError, "test: got the classes"),
        (lambda a, b: evaluate.features(5, "digits"), TypeError, "encoder: got int"),
        (lambda a, b: evaluate.features(None, "digits", batch_size=0), ValueError, "batch_size: got 0"),
    ],
)
def test_bad_input(call, error, says):
    with pytest.raises(error, match=says):
        call(clusters(), clusters(seed=1))


def test_plots_are_written(tmp_path):
    history = [{"epoch": e, "loss": 5 - e, "knn": 0.1 * e if e % 2 else None} for e in range(4)]
    features = evaluate.features(None, "digits")
    unlabelled = Features(features.x[:50], features.labels[:50], ())
    table = {"pixels": {"kNN": 0.2, "linear": 0.3}, "trained": {"kNN": 0.7, "linear": 0.8}}
    for path in (
        evaluate.plots.loss_curve(history, tmp_path / "new" / "loss.png"),
        evaluate.plots.knn_curve(history, tmp_path / "knn.png", {"pixels": 0.2}),
        evaluate.plots.embedding(features, tmp_path / "embedding.png", "digits"),
        evaluate.plots.embedding(unlabelled, tmp_path / "flat.png"),
        evaluate.plots.accuracy_bars(table, tmp_path / "bars.png", chance=0.1),
    ):
        assert path.read_bytes().startswith(b"\x89PNG")
