"""Alignment and uniformity of encoders, against loops, and with values that are known."""

from __future__ import annotations

import math

import pytest
import torch
from judging import Pooled, bars, check_result
from torch import nn

from fastssl import data, evaluate, methods, transforms
from fastssl.functional import Recipe, View


def twice(images):
    return [transforms.normalize(images)] * 2


def test_values_of_loops():
    images = bars(12, 0)
    result = evaluate.alignment_uniformity(Pooled(), images, transform=lambda x: [twice(x)[0], twice(x)[0] ** 2])
    rows = [Pooled()(view) for view in (twice(images.images)[0], twice(images.images)[0] ** 2)]
    z0, z1 = (torch.nn.functional.normalize(row.double()) for row in rows)
    aligned = sum(float((a - b).square().sum()) for a, b in zip(z0, z1, strict=True)) / 12
    spread = []
    for z in (z0, z1):
        pairs = [math.exp(-2 * float((z[i] - z[j]).square().sum())) for i in range(12) for j in range(12) if i != j]
        spread.append(math.log(sum(pairs) / len(pairs)))
    assert result.alignment == pytest.approx(aligned, rel=1e-5)
    assert result.uniformity == pytest.approx(sum(spread) / 2, rel=1e-5)
    check_result(result, "normalisation", "views", "alignment", "uniformity", "seed", "data")


def test_equal_views_are_aligned_and_equal_features_do_not_spread():
    class Constant(nn.Module):
        def forward(self, x):
            return torch.ones(len(x), 4)

    images = bars(12, 0)
    assert evaluate.alignment_uniformity(None, images, transform=twice).alignment == 0
    collapsed = evaluate.alignment_uniformity(Constant(), images)
    assert collapsed.alignment == pytest.approx(0, abs=1e-6)
    assert collapsed.uniformity == pytest.approx(0, abs=1e-5)


def test_the_seed_decides_and_nothing_else_moves():
    encoder, images = methods.small_resnet(1, 8).train(), data.load("digits", split="test").take(range(60))
    state = torch.get_rng_state()
    first, again = (evaluate.alignment_uniformity(encoder, images) for _ in range(2))
    assert torch.equal(state, torch.get_rng_state())
    assert encoder.training
    assert first.scores == again.scores
    assert evaluate.alignment_uniformity(encoder, images, seed=1).alignment != first.alignment
    assert 0 < first.alignment < 4
    assert -4 <= first.uniformity < 0


def test_milder_views_are_aligned_better():
    images = bars(40, 0)

    def alignment(scale):
        view = View(8, (scale, 1.0))
        return evaluate.alignment_uniformity(
            None, images, transform=transforms.Transform(Recipe((view, view)))
        ).alignment

    assert alignment(0.95) < alignment(0.2)


def test_bad_input():
    with pytest.raises(ValueError, match="transform: got 1 views, want 2"):
        evaluate.alignment_uniformity(None, bars(12, 0), transform=lambda x: [x.float()])
    with pytest.raises(ValueError, match="batch_size: got 0"):
        evaluate.alignment_uniformity(None, bars(12, 0), batch_size=0)
    with pytest.raises(ValueError, match="alpha: got 0"):
        evaluate.alignment_uniformity(None, bars(12, 0), alpha=0)
