"""Retrieval: precision and average precision against loops and scikit-learn, and the picture of neighbours."""

from __future__ import annotations

import pytest
import torch
from judging import bars, check_result, clusters
from PIL import Image
from sklearn.metrics import average_precision_score

from fastssl import evaluate
from fastssl.evaluate import Features, _retrieval


def test_values_of_loops_and_of_scikit_learn():
    train, test = clusters(50, spread=0.6, seed=2), clusters(31, spread=0.6, seed=3)
    result = evaluate.retrieval(None, train, test, k=(1, 4, 9))
    unit = [torch.nn.functional.normalize(part.x.double()) for part in (train, test)]
    precisions, averages = {1: [], 4: [], 9: []}, []
    for row, label in zip(unit[1], test.labels, strict=True):
        cosines = (unit[0] @ row).tolist()
        order = sorted(range(50), key=lambda j: -cosines[j])
        hits = [int(train.labels[j] == label) for j in order]
        for k, values in precisions.items():
            values.append(sum(hits[:k]) / k)
        at_hits = [sum(hits[: i + 1]) / (i + 1) for i in range(50) if hits[i]]
        averages.append(sum(at_hits) / len(at_hits))
        assert averages[-1] == pytest.approx(average_precision_score((train.labels == label).int(), cosines))
    for k, values in precisions.items():
        assert result.precision[k] == pytest.approx(sum(values) / len(values))
    assert result.mean_average_precision == pytest.approx(sum(averages) / len(averages))
    nearest = (unit[1] @ unit[0].T).topk(9).indices
    assert torch.equal(result.neighbours, nearest)
    assert torch.equal(result.right, train.labels[nearest] == test.labels[:, None])
    kept = check_result(result, "normalisation", "ranking", "k", "train", "test")
    assert list(kept["scores"]) == ["precision at 1", "precision at 4", "precision at 9", "mAP"]


def test_separate_classes_are_found_without_a_fault():
    result = evaluate.retrieval(None, clusters(), clusters(seed=1), k=(20,))
    assert result.precision == {20: 1.0}
    assert result.mean_average_precision == 1


def test_a_query_without_its_class_does_not_count():
    train, test = clusters(60), clusters(60, seed=1)
    kept = train.labels != 2
    without = Features(train.x[kept], train.labels[kept], train.classes)
    result = evaluate.retrieval(None, without, test, k=(1,))
    assert result.mean_average_precision == 1
    assert result.precision[1] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("k", "says"),
    [((), "k: got none"), ((0,), "k: got 0, want an int >= 1"), ((1, 61), "k: got 61, want at most the number of")],
)
def test_bad_input(k, says):
    with pytest.raises(ValueError, match=says):
        evaluate.retrieval(None, clusters(), clusters(seed=1), k=k)


def test_the_picture_has_a_row_a_query(tmp_path):
    train, test = bars(60, 0), bars(30, 1)
    result = evaluate.retrieval(None, train, test)
    sizes = []
    for queries, neighbours in ((3, 10), (6, 10), (3, 4)):
        path = evaluate.plots.retrieval(
            result, train, test, tmp_path / "new" / "r.png", "bars", queries=queries, neighbours=neighbours
        )
        sizes.append(Image.open(path).size)
    assert sizes[0][1] < sizes[1][1]
    assert sizes[2][0] < sizes[0][0]


def test_parts_of_the_queries_are_ranked_as_all_at_once(monkeypatch):
    train, test = clusters(50, spread=0.6, seed=2), clusters(31, spread=0.6, seed=3)
    whole = evaluate.retrieval(None, train, test)
    monkeypatch.setattr(_retrieval, "_PAIRS", 200)  # four queries
    parts = evaluate.retrieval(None, train, test)
    assert torch.equal(parts.neighbours, whole.neighbours)
    assert parts.scores == pytest.approx(whole.scores)
