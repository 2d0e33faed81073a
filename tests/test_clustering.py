"""Clustering: scores against scikit-learn and loops over matchings."""

from __future__ import annotations

import itertools

import pytest
import torch
from judging import check_result, clusters
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from fastssl import evaluate
from fastssl.evaluate import Features


def test_separate_classes_are_clusters():
    result = evaluate.clustering(None, clusters(), clusters(seed=1))
    assert (result.nmi, result.ari, result.accuracy) == (pytest.approx(1), 1, 1)


def test_scores_of_the_clusters_found():
    train, test = clusters(90, spread=0.7, seed=2), clusters(60, spread=0.7, seed=3)
    result = evaluate.clustering(None, train, test, starts=2)
    truth, found = test.labels.numpy(), result.clusters.numpy()
    assert result.nmi == pytest.approx(normalized_mutual_info_score(truth, found))
    assert result.ari == pytest.approx(adjusted_rand_score(truth, found))
    matchings = [
        sum(order[c] == t for c, t in zip(found, truth, strict=True)) for order in itertools.permutations(range(3))
    ]
    assert result.accuracy == max(matchings) / 60
    assert 0.4 < result.accuracy < 1
    kept = check_result(result, "normalisation", "clusters", "k", "seed", "train", "test")
    assert list(kept["scores"]) == ["NMI", "ARI", "cluster accuracy"]


def test_it_sees_no_labels_and_the_seed_decides():
    train, test = clusters(90, spread=0.7, seed=2), clusters(60, spread=0.7, seed=3)
    mixed = Features(train.x, train.labels.roll(1), train.classes)
    first, again, blind = (evaluate.clustering(None, part, test, starts=1, seed=4) for part in (train, train, mixed))
    assert torch.equal(first.clusters, again.clusters)
    assert torch.equal(first.clusters, blind.clusters)


def test_other_numbers_of_clusters():
    train, test = clusters(60), clusters(30, seed=1)
    fine = evaluate.clustering(None, train, test, clusters=12)
    assert fine.clusters.max() <= 11
    assert 0.5 < fine.nmi < 1
    assert evaluate.clustering(None, train, test, clusters=1).accuracy == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"starts": 0}, "starts: got 0, want an int >= 1"),
        ({"clusters": 61}, r"clusters: got 61, want an int in \[1, 60\]"),
        ({"clusters": 0}, "clusters: got 0"),
    ],
)
def test_bad_input(options, says):
    with pytest.raises(ValueError, match=says):
        evaluate.clustering(None, clusters(), clusters(seed=1), **options)
