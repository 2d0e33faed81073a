"""All judgements of an encoder at once: what each gives alone, from one pass over the images."""

from __future__ import annotations

import json

import pytest
import torch
from judging import bars, check_result
from torch import nn

from fastssl import data, evaluate, methods


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return methods.small_resnet(1, 8)


def test_each_judgement_is_what_its_function_gives(encoder):
    train, test = data.load("digits").take(range(300)), data.load("digits", split="test").take(range(100))
    found = evaluate.judge(encoder, train, test, labels_per_class=3, subsets=2, k=5, seed=1)
    assert tuple(found) == evaluate.QUICK
    alone = {
        "knn": evaluate.knn(encoder, train, test, k=5),
        "few_labels": evaluate.linear_probe(encoder, train, test, labels_per_class=3, subsets=2, seed=1),
        "linear_probe": evaluate.linear_probe(encoder, train, test),
        "retrieval": evaluate.retrieval(encoder, train, test),
        "clustering": evaluate.clustering(encoder, train, test, seed=1),
        "rankme": evaluate.rankme(encoder, train),
        "alignment_uniformity": evaluate.alignment_uniformity(encoder, test, seed=1),
        "shortcut_audit": evaluate.shortcut_audit(encoder, train, test, seed=1),
    }
    for name, result in found.items():
        assert result.scores == pytest.approx(alone[name].scores, abs=1e-6), name
        assert result.protocol == alone[name].protocol, name
        check_result(result)
    names = [score for result in found.values() for score in result.scores]
    assert len(set(names)) == len(names)


def test_the_images_are_seen_once(encoder):
    train, test = bars(60, 0), bars(30, 1)
    seen = []
    encoder.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    evaluate.judge(encoder, train, test, which=("knn", "linear_probe", "retrieval", "clustering", "rankme"))
    assert sum(seen) == 90


def test_the_costly_ones_when_they_are_wanted(encoder):
    train, test = bars(60, 0), bars(30, 1)
    tuning = {"epochs": 1, "progress": False}
    found = evaluate.judge(
        encoder, train, test, which=evaluate.COSTLY, labels_per_class=4, subsets=2, finetuning=tuning
    )  # fmt: skip
    assert tuple(found) == evaluate.COSTLY
    alone = evaluate.finetune(encoder, train, test, labels_per_class=4, subsets=2, **tuning)
    assert found["finetune"].accuracies == alone.accuracies
    assert found["label_efficiency"].labels == (1, 2, 5, 10, 20)
    assert found["label_efficiency"].protocol["draws"] == 2


def test_what_does_not_apply_is_left_out():
    train, test = bars(60, 0), bars(30, 1)
    everything = (*evaluate.QUICK, *evaluate.COSTLY)
    assert tuple(evaluate.judge(None, train, test, which=everything)) == evaluate.QUICK
    wide = nn.Sequential(nn.Flatten(), nn.Linear(64, 5000))
    left = set(evaluate.QUICK) - set(evaluate.judge(wide, train, test))
    assert left == {"few_labels", "linear_probe", "shortcut_audit"}
    signals = data.TensorSignals(torch.randn(40, 1, 16), torch.arange(40) % 2)
    found = evaluate.judge(nn.Flatten(), signals, signals, which=everything, subsets=1)
    assert tuple(found) == ("knn", "few_labels", "linear_probe", "retrieval", "clustering", "rankme")
    assert json.loads(json.dumps(found["knn"].to_dict()))["protocol"]["train"]["length"] == 16


def test_few_images():
    images = bars(6, 0)
    found = evaluate.judge(None, images, images, labels_per_class=2, subsets=1)
    assert found["knn"].k == 6
    assert list(found["retrieval"].precision) == [1, 5]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"which": ("knn", "luck")}, "which: got 'luck', want 'knn', 'few_labels'"),
        ({"batch_size": 0}, "batch_size: got 0, want an int >= 1"),
        ({"test": bars(6, 0, classes=2)}, "test: got the classes"),
    ],
)
def test_bad_input(options, says):
    given = {"train": bars(60, 0), "test": bars(30, 1), **options}
    with pytest.raises(ValueError, match=says):
        evaluate.judge(None, **given)
