"""BYOL: the authors' algorithm step by step, their networks, and features that improve."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from small_methods import fit, trained, uint8, views_of
from torch import nn
from torch.nn.functional import normalize
from two_views import linear_widths, make

from fastssl import data, methods


def regression(prediction, target):
    return (normalize(prediction) - normalize(target)).square().sum(1)


def test_it_is_the_authors_algorithm():
    """Their update in eager PyTorch: both directions, the optimizer's step, then the target by the momentum of k."""
    method = make(methods.BYOL, momentum=0.9).double()
    online = nn.Sequential(copy.deepcopy(method.encoder), copy.deepcopy(method.projector))
    predictor, target = copy.deepcopy(method.predictor), copy.deepcopy(online)
    theirs = [*online.parameters(), *predictor.parameters()]
    optimizers = [torch.optim.SGD(params, 0.1, 0.9) for params in (trained(method), theirs)]
    for k in range(6):
        first, second = views_of(method, 16, k, torch.float64)
        got = method([first, second])
        with torch.no_grad():
            targets = target(second), target(first)
        want = sum(regression(predictor(online(v)), z) for v, z in zip((first, second), targets, strict=True)).mean()
        for optimizer, loss in zip(optimizers, (got, want), strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        method.after_step(k + 1, 6)
        tau = 1 - (1 - 0.9) * (math.cos(math.pi * k / 6) + 1) / 2
        with torch.no_grad():
            for t, p in zip(target.parameters(), online.parameters(), strict=True):
                t.mul_(tau).add_(p, alpha=1 - tau)
        torch.testing.assert_close(got, want)
    for mine, t in zip(method.target.parameters(), target.parameters(), strict=True):
        torch.testing.assert_close(mine, t)
    for mine, p in zip(trained(method), theirs, strict=True):
        torch.testing.assert_close(mine, p)


def test_the_loss_starts_at_chance():
    """Predictions of random weights are about orthogonal to targets: 2 for each direction."""
    method = make(methods.BYOL, projection_dim=256, hidden_dim=512)
    assert method(views_of(method, 256)).item() == pytest.approx(4, abs=0.5)


def test_the_published_networks():
    method = methods.BYOL(methods.small_resnet(3, 32))
    assert linear_widths(method.projector) == ([128, 4096, 256], [False, False])
    assert linear_widths(method.predictor) == ([256, 4096, 256], [False, False])
    assert [type(layer).__name__ for layer in method.predictor] == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert method.momentum == 0.996
    assert method(method.augment(uint8(4, 3, 32, 32))).isfinite()


def test_features_improve(tmp_path):
    splits = tuple(data.load("digits", split=split) for split in ("train", "test"))
    method = make(methods.BYOL, momentum=0.95, projection_dim=64, hidden_dim=256)
    result = fit(method, tmp_path, epochs=3, batch_size=32, optimizer="adamw", lr=2e-3, knn_every=3, eval_data=splits)
    before, after = (row["knn"] for row in result.history if row["knn"] is not None)
    assert after > before + 0.1
