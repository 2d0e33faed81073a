"""RankMe against its formula, with ranks that are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from judging import bars, check_result

from fastssl import evaluate, methods
from fastssl.evaluate import Features


def features(x):
    return Features(x, torch.full((len(x),), -1), ())


def test_the_formula_in_numpy():
    x = torch.randn(50, 12, generator=torch.Generator().manual_seed(0)) @ torch.diag(torch.logspace(0, -3, 12)) + 0.3
    values = np.sqrt(np.linalg.eigvalsh((x.double().T @ x.double()).numpy()).clip(0))
    p = values / values.sum() + 1e-7
    assert evaluate.rankme(None, features(x)).rank == pytest.approx(math.exp(-sum(p * np.log(p))), rel=1e-6)


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_equal_directions_are_counted(rank):
    x = torch.zeros(48, 8)
    x[torch.arange(48), torch.arange(48) % rank] = 2.5
    result = evaluate.rankme(None, features(x))
    assert result.rank == pytest.approx(rank, rel=1e-4)
    assert (result.images, result.width) == (48, 8)
    assert list(check_result(result, "normalisation", "spectrum", "data")["scores"]) == ["RankMe"]


def test_it_neither_centres_nor_scales():
    x = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
    plain = evaluate.rankme(None, features(x)).rank
    assert evaluate.rankme(None, features(7 * x)).rank == pytest.approx(plain)
    assert evaluate.rankme(None, features(x + 100)).rank < 2
    assert plain > 5.5


def test_unlabelled_images_evenly_thinned():
    encoder = methods.small_resnet(1, 8)
    images = bars(50, 0)
    part = evaluate.rankme(encoder, images, images=20)
    assert part.images == 17  # every third
    taken = evaluate.features(encoder, images).take(range(0, 50, 3))
    assert part.rank == evaluate.rankme(None, taken).rank
    assert evaluate.rankme(encoder, images, images=None).images == 50
    with pytest.raises(ValueError, match="images: got 0, want an int >= 1"):
        evaluate.rankme(encoder, images, images=0)
