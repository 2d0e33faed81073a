"""The linear probe's two solvers find the same minimum, and the choice of a penalty looks at training labels alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from judging import check_result, clusters
from sklearn.linear_model import LogisticRegression

from fastssl import evaluate
from fastssl.evaluate import Features, _logistic

CPU = torch.device("cpu")


def blobs(n, classes=4, width=6, seed=0):
    """Classes that overlap, and features of other scales, one of them constant."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    x = torch.randn(n, width, generator=generator) + 1.2 * torch.eye(classes, width)[labels]
    x = x * torch.logspace(-3, 3, width) + 5
    x[:, 1] = 2.0
    return Features(x, labels, tuple("abcdefgh"[:classes]))


def objective(x, y, weight, bias, l2):
    """The sum that both minimise, in float64."""
    logits = x.double() @ weight.double() + bias.double()
    return (
        torch.nn.functional.cross_entropy(logits, y, reduction="sum") + l2 / 2 * weight.double().square().sum()
    ).item()


def fit(train, subsets, l2, solver):
    return _logistic.fit(train.x, train.labels, subsets, l2, solver=solver, device=CPU, steps=2000, tolerance=1e-7)


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("l2", [0.01, 1.0, 30.0])
def test_both_solvers_find_what_scikit_learn_finds(classes, l2):
    train, test = blobs(210, classes, 8), blobs(100, classes, 8, seed=1)
    everything = torch.arange(210)
    by_scikit, by_torch = (fit(train, [everything], [l2], solver)[0] for solver in ("scikit-learn", "torch"))
    std, mean = torch.std_mean(train.x.double(), 0, correction=0)
    scaled = [((part.x.double() - mean) / std.clamp(min=1e-8)).numpy() for part in (train, test)]
    model = LogisticRegression(C=1 / l2, max_iter=5000, tol=1e-8).fit(scaled[0], train.labels.numpy())
    probabilities = torch.from_numpy(model.predict_proba(scaled[1]))
    for found in (by_scikit, by_torch):
        logits = torch.from_numpy(scaled[1]).float() @ found.weight + found.bias
        torch.testing.assert_close(logits.softmax(1), probabilities.float(), rtol=0, atol=2e-3)
        assert (found.predict(test.x).numpy() == model.predict(scaled[1])).mean() > 0.98
    penalty = l2 * (2 if classes == 2 else 1)  # of two columns for one
    values = [
        objective(torch.from_numpy(scaled[0]), train.labels, f.weight, f.bias, penalty) for f in (by_scikit, by_torch)
    ]
    assert values[1] == pytest.approx(values[0], rel=1e-5)


def test_subsets_fitted_together_are_as_those_fitted_alone():
    train = blobs(240)
    subsets = [torch.randperm(240, generator=torch.Generator().manual_seed(i))[: 60 + 20 * (i % 2)] for i in range(5)]
    penalties = [0.5, 1.0, 2.0, 4.0, 8.0]
    together = fit(train, subsets, penalties, "torch")
    for at, l2, found in zip(subsets, penalties, together, strict=True):
        (alone,) = fit(train, [at], [l2], "torch")
        torch.testing.assert_close(found.weight, alone.weight, rtol=0, atol=2e-3)
        torch.testing.assert_close(found.bias, alone.bias, rtol=0, atol=2e-3)
        torch.testing.assert_close((found.mean, found.std), (alone.mean, alone.std))
    one = torch.arange(240)
    shared = fit(train, [one] * 3, penalties[:3], "torch")
    for l2, found in zip(penalties, shared, strict=False):
        (alone,) = fit(train, [one], [l2], "torch")
        torch.testing.assert_close(found.weight, alone.weight, rtol=0, atol=2e-3)


def test_rows_in_parts_are_as_all_at_once(monkeypatch):
    train = blobs(100)
    (whole,) = fit(train, [torch.arange(100)], [1.0], "torch")
    monkeypatch.setattr(_logistic, "_ROWS", 7)
    (parts,) = fit(train, [torch.arange(100)], [1.0], "torch")
    torch.testing.assert_close(parts.weight, whole.weight, rtol=0, atol=1e-3)
    assert torch.equal(parts.predict(train.x), whole.predict(train.x))


def test_a_subset_may_lack_a_class():
    train = blobs(80)
    seen = (train.labels != 2).nonzero()[:, 0]
    for solver in ("scikit-learn", "torch"):
        (found,) = fit(train, [seen], [1.0], solver)
        assert set(found.predict(train.x).tolist()) == {0, 1, 3}


def test_the_accuracy_does_not_depend_on_the_solver():
    train, test = blobs(400), blobs(300, seed=1)
    found = [
        evaluate.linear_probe(None, train, test, labels_per_class=20, subsets=3, solver=solver)
        for solver in ("auto", "scikit-learn", "torch")
    ]
    assert found[0].accuracies == found[1].accuracies
    assert np.allclose(found[1].accuracies, found[2].accuracies, atol=0.01)
    assert "scikit-learn" in found[0].protocol["optimizer"]
    assert "torch" in found[2].protocol["optimizer"]


def test_the_device_chooses_the_solver():
    assert _logistic.choose_solver("auto", CPU) == "scikit-learn"
    assert _logistic.choose_solver("auto", torch.device("cuda")) == "torch"
    assert _logistic.choose_solver("torch", CPU) == "torch"


@pytest.mark.parametrize("solver", ["scikit-learn", "torch"])
def test_the_best_penalty_is_chosen_without_the_test_images(solver, monkeypatch):
    """Many noisy features and few labels want a strong penalty; what is chosen does not change with the test images."""
    generator = torch.Generator().manual_seed(0)

    def noisy(n):
        labels = torch.arange(n) % 2
        x = torch.randn(n, 100, generator=generator)
        x[:, 0] += 3 * labels
        return Features(x, labels, ("a", "b"))

    train, test, other = noisy(400), noisy(200), noisy(200)
    options = {"labels_per_class": 25, "subsets": 4, "l2": (1e-4, 1.0, 1e3), "solver": solver}
    result = evaluate.linear_probe(None, train, test, **options)
    assert result.l2 == evaluate.linear_probe(None, train, other, **options).l2
    assert set(result.l2) <= {1e-4, 1.0, 1e3}
    weakest = evaluate.linear_probe(None, train, test, **{**options, "l2": 1e-4})
    assert result.accuracy > weakest.accuracy
    kept = check_result(result, "l2", "selection", "normalisation", "optimizer")
    assert kept["protocol"]["selection"] == "best l2 on a fifth of the labels, held out"
    assert weakest.protocol["selection"] == "none, one l2"
    rows = []
    real = _logistic.fit
    monkeypatch.setattr(
        _logistic, "fit", lambda x, y, subsets, *a, **k: rows.append(subsets) or real(x, y, subsets, *a, **k)
    )
    evaluate.linear_probe(None, train, test, **{**options, "subsets": 1})
    (choosing, final) = rows
    assert len(choosing) == 3
    assert len(choosing[0]) == 40
    assert len(final[0]) == 50
    assert set(choosing[0].tolist()) < set(final[0].tolist())
    assert train.labels[choosing[0]].bincount().tolist() == [20, 20]


def test_of_equal_penalties_the_largest_counts():
    train, test = clusters(), clusters(seed=1)
    result = evaluate.linear_probe(None, train, test, labels_per_class=10, subsets=2, l2=[0.1, 1.0, 0.5])
    assert result.l2 == (1.0, 1.0)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"l2": ()}, r"l2: got \(\), want a number > 0, or several"),
        ({"l2": (1.0, 0.0)}, r"l2: got \(1.0, 0.0\), want"),
        ({"l2": (1.0, 2.0), "labels_per_class": 1}, "labels_per_class: got 1, want at least 2 where several l2"),
        ({"solver": "adam"}, "solver: got 'adam', want 'auto', 'scikit-learn', 'torch'"),
    ],
)
def test_bad_input(options, says):
    with pytest.raises(ValueError, match=says):
        evaluate.linear_probe(None, clusters(), clusters(seed=1), **options)


@pytest.mark.parametrize("solver", ["scikit-learn", "torch"])
def test_one_class_is_refused(solver):
    one = clusters(classes=1)
    with pytest.raises(ValueError, match="train: got images of 1 class, want at least 2"):
        evaluate.linear_probe(None, one, one, solver=solver)
