"""SwAV: the authors' algorithm step by step, prototypes, queues, and features."""

from __future__ import annotations

import copy
import math

import compat_formulas as formulas
import pytest
import timm
import torch
from multi_crop import step_of, swav
from small_methods import fit, tiny, trained, uint8, views_of
from torch.nn.functional import log_softmax, normalize

from fastssl import data, methods, transforms


@pytest.mark.parametrize("queue_size", [0, 16])
def test_it_is_the_authors_algorithm(queue_size):
    """Their loop in eager PyTorch: codes with the queue, swapped predictions, frozen and normalised prototypes."""
    method = swav(queue_size=queue_size, queue_epochs=1).double()
    method._normalize()  # to the last digit of float64
    twin = copy.deepcopy(method)
    queues = [queue.rows.clone() for queue in twin.queues]
    optimizers = [torch.optim.SGD(trained(m), 0.3, 0.9) for m in (method, twin)]
    for i in range(6):
        views = [view.double() for view in views_of(method, 8, i)]
        got = step_of(method, optimizers[0], views, i + 1, 6)

        prototypes = twin.prototypes.weight
        features = torch.cat([twin.encoder(torch.cat(views[:2])), twin.encoder(torch.cat(views[2:]))])
        z = normalize(twin.projector(features), dim=1).view(4, 8, -1)
        scores = z @ prototypes.t()
        want = 0
        for t in range(2):
            with torch.no_grad():
                out = scores[t]
                if queues and i >= 2:  # filled in the first epoch, and used from the second
                    out = torch.cat([queues[t] @ prototypes.t(), out])
                q = formulas.sinkhorn(out, 0.05)[-8:]
                if queues:
                    queues[t] = torch.cat([queues[t][8:], z[t].detach()])
            others = [log_softmax(scores[v] / 0.1, -1) for v in range(4) if v != t]
            want = want + sum(-(q * p).sum(-1).mean() for p in others) / len(others) / 2
        torch.testing.assert_close(got, want.detach())
        optimizers[1].zero_grad()
        want.backward()
        if i < 2:
            prototypes.grad = None
        optimizers[1].step()
        prototypes.data = normalize(prototypes.data, dim=1)
    for mine, p in zip(method.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine, p)
    assert method.queue_on == bool(queue_size)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lars"])
def test_the_prototypes_are_frozen_in_the_first_epoch(tmp_path, optimizer):
    """Bit for bit, weight decay included; later they stay of unit length."""
    method = swav(steps_per_epoch=None)
    start, seen = method.prototypes.weight.clone(), []
    real = method.forward
    method.forward = lambda views: seen.append(method.prototypes.weight.clone()) or real(views)
    fit(method, tmp_path, images=256, optimizer=optimizer, weight_decay=0.5, lr=0.1)
    assert all(torch.equal(start, weight) for weight in seen[:5])
    assert not torch.equal(start, seen[5])
    for weight in (*seen, method.prototypes.weight):
        torch.testing.assert_close(weight.norm(dim=1), torch.ones(24))


def test_local_views_make_no_targets():
    method = swav(local_views=0)
    views = views_of(method, 8)
    assert len(views) == 2
    asked = []
    center = method.center
    method.center = lambda scores, view: asked.append(view) or center(scores, view)
    method([*views, views[0][..., :4, :4]])
    assert asked == [0, 1]


def test_codes_are_spread_evenly():
    method = swav(epsilon=0.05, iterations=50).double()
    scores = torch.rand(48, 24, dtype=torch.float64) * 2 - 1
    q = ((scores - method.center(scores, 0)) / 0.05).softmax(-1)
    torch.testing.assert_close(q.sum(0), torch.full((24,), 2.0, dtype=torch.float64), rtol=0.05, atol=0)


def test_the_queue_is_part_of_the_state():
    method = swav(queue_size=16, queue_epochs=1)
    optimizer = torch.optim.SGD(trained(method), 0.1)
    for step in range(2):
        step_of(method, optimizer, views_of(method, 8, step), step + 1, 4)
    assert method.queue_on
    twin = swav(queue_size=16, seed=3)
    assert not twin.queue_on
    twin.load_state_dict(method.state_dict())
    assert twin.queue_on
    assert all(torch.equal(a.rows, b.rows) for a, b in zip(twin.queues, method.queues, strict=True))
    assert not swav(queue_size=0).queues


def test_the_published_networks_and_views():
    method = methods.SwAV(timm.create_model("resnet10t", num_classes=0))
    widths = [
        (layer.in_features, layer.out_features) for layer in method.modules() if isinstance(layer, torch.nn.Linear)
    ]
    assert widths == [(512, 2048), (2048, 128), (128, 3000)]
    assert method.prototypes.bias is None
    assert method.recipe(3, 224).recipe == transforms.SwAV().recipe
    small = methods.SwAV(methods.small_resnet(3, 32), local_views=1, image_size=32)
    assert [v.shape[-1] for v in small.augment(uint8(2, 3, 40, 50))] == [32, 32, 16]


def test_equal_scores_cost_ln_k():
    method = swav()
    torch.nn.init.zeros_(method.prototypes.weight)
    assert method(views_of(method, 4)).item() == pytest.approx(math.log(24), rel=1e-6)


def test_features_improve(tmp_path):
    splits = tuple(data.load("digits", split=split) for split in ("train", "test"))
    torch.manual_seed(0)
    method = methods.SwAV(
        methods.small_resnet(1, 8), prototypes=64, projection_dim=32, hidden_dim=128, epsilon=0.02, local_views=0,
        freeze_prototypes=0,
    )  # fmt: skip
    settings = {"epochs": 8, "batch_size": 128, "optimizer": "adamw", "lr": 4e-3, "knn_every": 8}
    result = fit(method, tmp_path, eval_data=splits, **settings)
    before, after = (row["knn"] for row in result.history if row["knn"] is not None)
    assert after > before + 0.05


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"prototypes": 0}, "prototypes: got 0, want an int >= 1"),
        ({"projection_dim": 1.5}, "projection_dim: got 1.5"),
        ({"hidden_dim": 0}, "hidden_dim: got 0"),
        ({"temperature": 0}, "temperature: got 0, want a finite number > 0"),
        ({"epsilon": -1}, "epsilon: got -1, want a finite number > 0"),
        ({"iterations": 0}, "iterations: got 0"),
        ({"queue_size": -1}, "queue_size: got -1, want an int >= 0"),
        ({"queue_epochs": -1}, "queue_epochs: got -1"),
        ({"freeze_prototypes": -1}, "freeze_prototypes: got -1"),
        ({"local_views": -1}, "local_views: got -1"),
        ({"local_size": 0}, "local_size: got 0"),
        ({"steps_per_epoch": 0}, "steps_per_epoch: got 0"),
    ],
)
def test_bad_input(options, says):
    with pytest.raises(ValueError, match=says):
        swav(**options)


def test_schedules_in_epochs_want_to_know_how_long_one_is():
    method = methods.SwAV(tiny(), prototypes=24)
    method(views_of(method, 4)).backward()
    with pytest.raises(ValueError, match="steps_per_epoch: got None, want the steps of an epoch"):
        method.before_step(1, 10)
