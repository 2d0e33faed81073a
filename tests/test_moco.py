"""MoCo: the authors' algorithm step by step, its copy, shuffled batch norm, resume, and the command line."""

from __future__ import annotations

import copy
import json

import pytest
import timm
import torch
from small_methods import check_resume, fit, tiny, trained, uint8, views_of
from torch import nn
from torch.nn.functional import cross_entropy, normalize

from fastssl import cli, data, methods, transforms
from fastssl.methods._momentum import MomentumEncoder, shuffled


def moco(seed=0, **options):
    torch.manual_seed(seed)
    return methods.MoCo(tiny(), **{"queue_size": 200, "projection_dim": 16, **options})


@pytest.mark.parametrize(("version", "tau"), [("v1", 0.07), ("v2", 0.2)])
def test_it_is_the_authors_algorithm(version, tau):
    """Their loop in eager PyTorch: move the copy, encode, one row of logits a query, enqueue; batches that divide K."""
    method = moco(version=version, queue_size=24, momentum=0.9, shuffle_bn=False)
    query_net = nn.Sequential(copy.deepcopy(method.encoder), copy.deepcopy(method.projector))
    key_net, queue, at = copy.deepcopy(query_net), method.queue.rows.clone(), 0
    mine, theirs = torch.optim.SGD(trained(method), 0.1, 0.9), torch.optim.SGD(query_net.parameters(), 0.1, 0.9)
    for step in range(7):
        views = views_of(method, 8, step)
        got = method(views)
        mine.zero_grad()
        got.backward()
        mine.step()
        method.after_step(step + 1, 7)

        q = normalize(query_net(views[0]))
        with torch.no_grad():
            for k, p in zip(key_net.parameters(), query_net.parameters(), strict=True):
                k.mul_(0.9).add_(p, alpha=0.1)
            k = normalize(key_net(views[1]))
        logits = torch.cat([(q * k).sum(1, keepdim=True), q @ queue.T.clone()], 1) / tau
        want = cross_entropy(logits, torch.zeros(8, dtype=torch.int64))
        queue[at : at + 8] = k
        at = (at + 8) % 24
        theirs.zero_grad()
        want.backward()
        theirs.step()
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(method.queue.rows, queue, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("version", "layers"), [("v1", 1), ("v2", 2)])
def test_batch_norm_in_the_head(version, layers):
    plain, normed = (moco(version=version, batch_norm=batch_norm) for batch_norm in (False, True))
    for method, norms in ((plain, 0), (normed, layers)):
        parts = list(method.projector.modules())
        assert sum(isinstance(part, nn.Linear) for part in parts) == layers
        assert sum(isinstance(part, nn.BatchNorm1d) for part in parts) == norms
    # The features of an untrained encoder are much alike, and so are queries, but for the norm.
    views = views_of(plain, 32)
    close, apart = (normalize(method.project(views[0])).mean(0).norm() for method in (plain, normed))
    assert apart < 0.5 * close
    assert normed(views).isfinite()


def test_the_copy_learns_nothing_itself():
    method = moco()
    before = copy.deepcopy(method.key_encoder.state_dict())
    assert all(torch.equal(p, before[name]) for name, p in method.encoder.state_dict(prefix="encoder.").items())
    assert method(views_of(method, 8)).dtype == torch.float32
    method(views_of(method, 8)).backward()
    assert all(p.grad is None and not p.requires_grad for p in method.key_encoder.parameters())
    assert all(p.grad is not None for p in [*method.encoder.parameters(), *method.projector.parameters()])
    assert {"queue.rows", "queue.pointer", "key_encoder.projector.0.weight"} <= method.state_dict().keys()


def test_the_copy_is_a_moving_average():
    """Of parameters, and of running statistics, to which its own batches add; the count of batches is copied."""
    method = moco(momentum=0.97)
    source = method.encoder, method.projector
    for step in range(5):
        method(views_of(method, 8, step))  # moves the running statistics of both
        for p in trained(method):
            p.data += torch.randn_like(p)
        before = [value.double() for value in method.key_encoder.state_dict().values()]
        method.after_step()
        theirs = [value for module in source for value in module.state_dict().values()]
        for mine, b, value in zip(method.key_encoder.state_dict().values(), before, theirs, strict=True):
            want = 0.97 * b + 0.03 * value.double() if value.is_floating_point() else value.double()
            torch.testing.assert_close(mine.double(), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_copy_of_16_bits_moves_all_the_same(dtype):
    net = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5)).to(dtype)
    copied = MomentumEncoder(net, nn.Identity()).to(dtype)
    assert all(p.dtype == torch.float32 for p in copied.parameters())
    with torch.no_grad():
        net[0].weight += 1
    start = copied.encoder[0].weight.clone()
    for _ in range(100):
        copied.follow(net, nn.Identity(), 0.9999)
    moved = (copied.encoder[0].weight - start) / (net[0].weight.float() - start)
    torch.testing.assert_close(moved, torch.full((5, 6), 1 - 0.9999**100), rtol=1e-3, atol=1e-6)
    assert copied(torch.randn(4, 6).to(dtype)).isfinite().all()
    assert MomentumEncoder(net.double(), nn.Identity()).double().encoder[0].weight.dtype == torch.float64


@pytest.mark.parametrize("how", ["autocast", "bfloat16", "double"])
def test_other_precisions(how):
    method = moco()
    views = views_of(method, 8)
    if how == "autocast":
        with torch.autocast("cpu", torch.bfloat16):
            loss = method(views)
    else:
        dtype = getattr(torch, how)
        method = method.to(dtype)
        loss = method([view.to(dtype) for view in views])
    assert loss.dtype == (torch.float64 if how == "double" else torch.float32)
    loss.backward()
    assert all(p.grad.isfinite().all() for p in trained(method))
    method.after_step()


def test_the_queue_takes_the_keys_in_training_alone():
    method = moco(queue_size=20, shuffle_bn=False)
    views = views_of(method, 8)
    before = copy.deepcopy(method.state_dict())
    method.eval()
    method(views)
    with torch.no_grad():
        method.encoder.conv1.weight.add_(1)
    method.after_step()
    assert all(torch.equal(v, before[k]) for k, v in method.state_dict().items() if k != "encoder.conv1.weight")
    method.train()
    keys = method.keys(views[1])
    torch.testing.assert_close(keys.norm(dim=1), torch.ones(8))
    for step in range(3):
        method(views)
        assert torch.equal(method.queue.rows[8 * step :][: min(8, 20 - 8 * step)], keys[: min(8, 20 - 8 * step)])
    assert torch.equal(method.queue.rows[:4], keys[4:])


def test_shuffling_hides_the_batch_from_the_keys():
    """Groups of 32 in a random order, each with statistics of its own; rows come back to their places."""
    x, seen = torch.randn(100, 5), []
    assert torch.equal(shuffled(lambda rows: seen.append(rows) or 2 * rows, x), 2 * x)
    assert [len(rows) for rows in seen] == [34, 33, 33]
    assert not torch.equal(torch.cat(seen), x)
    assert torch.equal(torch.cat(seen).sort(0).values, x.sort(0).values)
    seen.clear()
    shuffled(lambda rows: seen.append(rows) or rows, x[:63])
    assert torch.equal(*seen, x[:63])
    with_norm, without = (moco(shuffle_bn=shuffle) for shuffle in (True, False))
    view = views_of(with_norm, 96)[0]
    assert not torch.allclose(with_norm.keys(view), without.keys(view), rtol=1e-3, atol=1e-3)
    without.load_state_dict(with_norm.state_dict())  # with its running statistics
    torch.testing.assert_close(with_norm.eval().keys(view), without.eval().keys(view))
    layer_norm = methods.MoCo(methods.small_vit(1, 8), queue_size=10)
    state = torch.get_rng_state()
    layer_norm.keys(view)
    assert torch.equal(torch.get_rng_state(), state)  # nothing to hide, so nothing is drawn


def test_heads_and_views():
    encoder = timm.create_model("resnet10t", num_classes=0)
    v1, v2 = (methods.MoCo(encoder, version, queue_size=10) for version in ("v1", "v2"))
    assert isinstance(v1.projector, nn.Linear)
    assert [type(layer).__name__ for layer in v2.projector] == ["Linear", "ReLU", "Linear"]
    assert methods.MoCo("resnet10t", queue_size=10, hidden_dim=7).projector[0].out_features == 7
    images = uint8(3, 3, 80, 80)
    for method in (v1, v2):
        views = method.augment(images)
        assert [view.shape for view in views] == [(3, 3, 80, 80)] * 2
        assert not torch.equal(*views)
        assert method(views).isfinite()
    (view, _) = v2.recipe(3, 224).recipe.views
    assert view == transforms.MoCoV2(224).recipe.views[0]
    (view, _) = v1.recipe(3, 224).recipe.views
    assert (view.jitter_p, view.gray_p, view.blur_p, view.scale) == (1.0, 0.2, 0.0, (0.2, 1.0))
    small = methods.MoCo(encoder, queue_size=10, transform=transforms.SimCLRSmall(12))
    assert small.augment(images)[0].shape == (3, 3, 12, 12)


def test_the_temperature_learns():
    temperature = nn.Parameter(torch.tensor(0.2))
    method = moco(temperature=temperature)
    method(views_of(method, 8)).backward()
    assert temperature.grad != 0
    assert any(p is temperature for p in method.parameters())


def test_features_improve(tmp_path):
    splits = tuple(data.load("digits", split=split) for split in ("train", "test"))
    method = moco(queue_size=1024, momentum=0.99, projection_dim=128)
    result = fit(method, tmp_path, epochs=5, batch_size=128, knn_every=5, eval_data=splits)
    before, after = (row["knn"] for row in result.history if row["knn"] is not None)
    assert after > before + 0.1
    settings = json.loads((tmp_path / "config.json").read_text())["settings"]
    assert (settings["optimizer"], settings["lr"], settings["weight_decay"]) == ("sgd", 0.015, 1e-4)


def test_runs_resume_bit_for_bit(tmp_path):
    """Stopped in the middle by an error; the queue, which 64 does not divide, and the copy come back with the rest."""
    state = check_resume(moco, fit, tmp_path, step=7, images=320)
    assert int(state["queue.pointer"]) == 10 * 64 % 200
    settings = {"images": 320, "log_every": 1, "checkpoint_minutes": 0, "resume": True}
    with pytest.raises(RuntimeError, match=r"does not fit the checkpoint .* such as queue\.rows differ"):
        fit(moco(queue_size=100), tmp_path / "broken", **settings)


def test_the_command_line(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = []
    monkeypatch.setitem(methods.METHODS, "moco", lambda *a, **k: made.append(k) or methods.MoCo(*a, **k))
    train = ("pretrain", "moco", "--data", "digits", "--epochs", "1", "--knn-every", "0", "--quiet", "--overwrite")
    assert cli.main(train) == 0
    assert {key: made[0][key] for key in ("queue_size", "momentum", "version")} == {
        "queue_size": 1442, "momentum": 0.99, "version": "v2",
    }  # fmt: skip
    assert (tmp_path / "runs" / "moco-digits" / "encoder.safetensors").exists()
    options = ("--version", "v1", "--temperature", "0.1", "--queue-size", "100", "--momentum", "0.9")
    assert cli.main((*train, *options, "--projection-dim", "8")) == 0
    assert made[1] == {
        "image_size": 8, "queue_size": 100, "momentum": 0.9, "version": "v1", "temperature": 0.1, "projection_dim": 8,
        "batch_norm": True,
    }  # fmt: skip
    assert cli.main((*train, "--queue-size", "0")) == 1
    assert "fastssl: error: queue_size: got 0, want an int >= 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"version": "v3"}, ValueError, "version: got 'v3', want 'v1' or 'v2'"),
        ({"temperature": 0}, ValueError, "temperature: got 0, want a finite number > 0"),
        ({"queue_size": 0}, ValueError, "queue_size: got 0, want an int >= 1"),
        ({"momentum": 1.0}, ValueError, r"momentum: got 1.0, want a number in \[0, 1\)"),
        ({"momentum": "slow"}, TypeError, "momentum: got str"),
        ({"projection_dim": 0}, ValueError, "projection_dim: got 0"),
        ({"hidden_dim": 0}, ValueError, "hidden_dim: got 0"),
    ],
)
def test_bad_input(options, error, says):
    with pytest.raises(error, match=says):
        moco(**options)


def test_bad_views():
    with pytest.raises(ValueError, match="views: got 3, want 2"):
        moco()([torch.zeros(4, 1, 8, 8)] * 3)
    with pytest.raises(ValueError, match="encoder: got a classifier of 1000"):
        methods.MoCo(timm.create_model("resnet10t"))
