"""SimSiam: the authors' algorithm step by step, its stop-gradient, the predictor's learning rate, and features."""

from __future__ import annotations

import copy

import pytest
import torch
from small_methods import fit, trained, views_of
from torch import nn
from torch.nn.functional import cosine_similarity
from two_views import linear_widths, make

from fastssl import _loop, data, methods


def test_it_is_the_authors_algorithm():
    """Theirs in eager PyTorch, with their bias before the last batch norm, which changes nothing."""
    method = make(methods.SimSiam).double()
    encoder = nn.Sequential(copy.deepcopy(method.encoder), copy.deepcopy(method.projector))
    encoder[1][6].bias = nn.Parameter(torch.randn(16, dtype=torch.float64), requires_grad=False)
    predictor = copy.deepcopy(method.predictor)
    theirs = [p for p in (*encoder.parameters(), *predictor.parameters()) if p.requires_grad]
    optimizers = [torch.optim.SGD(params, 0.05, 0.9) for params in (trained(method), theirs)]
    for step in range(6):
        views = views_of(method, 16, step, torch.float64)
        got = method(views)
        z1, z2 = (encoder(view) for view in views)
        p1, p2 = predictor(z1), predictor(z2)
        want = -(cosine_similarity(p1, z2.detach()).mean() + cosine_similarity(p2, z1.detach()).mean()) / 2
        for optimizer, loss in zip(optimizers, (got, want), strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        torch.testing.assert_close(got, want)
    for mine, p in zip(trained(method), theirs, strict=True):
        torch.testing.assert_close(mine, p)


def test_targets_get_no_gradient():
    """With predictions that depend on nothing, nothing is left to learn from."""
    method = make(methods.SimSiam)
    method.predictor = nn.Module()
    method.predictor.forward = lambda z: torch.ones_like(z)
    loss = method(views_of(method, 8))
    assert loss.isfinite()
    assert not loss.requires_grad


def test_the_loss_starts_at_chance():
    method = make(methods.SimSiam, projection_dim=256, hidden_dim=256, predictor_dim=64)
    assert method(views_of(method, 256)).item() == pytest.approx(0, abs=0.15)


def test_the_published_networks():
    method = methods.SimSiam(methods.small_resnet(3, 32))
    assert linear_widths(method.projector) == ([128, 2048, 2048, 2048], [False] * 3)
    assert linear_widths(method.predictor) == ([2048, 512, 2048], [False, True])
    assert not method.projector[-1].affine
    assert isinstance(method.predictor[-1], nn.Linear)


def test_the_predictor_s_learning_rate_does_not_fall(tmp_path, monkeypatch):
    made, rates = [], []
    real = _loop.make_optimizer
    monkeypatch.setattr(_loop, "make_optimizer", lambda *args: made.append(real(*args)) or made[0])
    method = make(methods.SimSiam)
    forward = method.forward
    method.forward = lambda views: rates.append([group["lr"] for group in made[0].param_groups]) or forward(views)
    fit(method, tmp_path, images=256, epochs=2, lr=0.5)
    falling, constant = (
        {name.split(".")[0] for name, p in method.named_parameters() for q in group["params"] if p is q}
        for group in made[0].param_groups[::2]
    )
    assert (falling, constant) == ({"encoder", "projector"}, {"predictor"})
    assert sum(len(group["params"]) for group in made[0].param_groups) == len(trained(method))
    assert [rate[2:] for rate in rates] == [[0.5, 0.5]] * 8
    assert [rate[0] for rate in rates] == [rate[1] for rate in rates]
    assert rates[0][0] == 0.5
    assert rates[-1][0] < 0.05


def test_features_improve(tmp_path):
    splits = tuple(data.load("digits", split=split) for split in ("train", "test"))
    method = make(methods.SimSiam, projection_dim=128, hidden_dim=128, predictor_dim=32)
    result = fit(method, tmp_path, epochs=8, batch_size=128, lr=0.1, knn_every=8, eval_data=splits)
    before, after = (row["knn"] for row in result.history if row["knn"] is not None)
    assert after > before + 0.1
