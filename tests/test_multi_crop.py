"""What DINO, DINOv2 and SwAV have in common: precisions, devices, views, resume, command line, several processes."""

from __future__ import annotations

import copy
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import timm
import torch
from multi_crop import HEAD, NoSync, dino, dinov2, step_of, swav
from small_methods import check_resume, fit, trained, views_of

from fastssl import cli, methods

KINDS = [
    pytest.param(dino, id="DINO"),
    pytest.param(lambda **o: dino("vit", **o), id="DINO of a ViT"),
    pytest.param(dinov2, id="DINOv2"),
    pytest.param(lambda **o: swav(**{"queue_size": 48, "queue_epochs": 1, **o}), id="SwAV"),
]


@pytest.mark.parametrize("how", ["autocast", "bfloat16", "float16", "double"])
@pytest.mark.parametrize("make", KINDS)
def test_other_precisions(make, how):
    method = make()
    views = views_of(method, 8)
    want = copy.deepcopy(method)
    torch.manual_seed(0)
    want = want(views)
    torch.manual_seed(0)
    if how == "autocast":
        with torch.autocast("cpu", torch.bfloat16):
            loss = method(views)
    else:
        dtype = getattr(torch, how)
        method = method.to(dtype)
        loss = method([view.to(dtype) for view in views])
    wide = torch.float64 if how == "double" else torch.float32
    assert loss.dtype == wide
    assert loss.shape == ()
    torch.testing.assert_close(loss.float(), want, rtol=0.1, atol=0.1)
    for name, kept in method.state_dict().items():
        if "teacher" in name or "center" in name:
            assert kept.dtype in (wide, torch.int64), name
    loss.backward()
    assert all(p.grad.isfinite().all() for p in trained(method))
    method.before_step(1, 10)
    method.after_step(1, 10)


@pytest.mark.parametrize("make", KINDS)
def test_a_step_does_not_wait_for_the_device(make):
    method = make()
    method(views_of(method, 4)).backward()
    with NoSync():
        method.before_step(1, 10)
        method.after_step(1, 10)


@pytest.mark.parametrize("make", KINDS)
def test_nothing_moves_in_eval_mode(make):
    method = make().eval()
    views = views_of(method, 8)
    before = copy.deepcopy(method.state_dict())
    torch.manual_seed(0)
    first = method(views)
    method.after_step(1, 10)
    torch.manual_seed(0)
    assert torch.equal(method(views), first)
    for name, value in method.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("make", KINDS)
def test_a_compiled_encoder_gives_the_same_step(make):
    method = make()
    twin = copy.deepcopy(method)
    views = views_of(method, 6)
    twin.encoder.forward = torch.compile(twin.encoder.forward, backend="aot_eager")
    torch.manual_seed(0)
    plain = method(views)
    torch.manual_seed(0)
    compiled = twin(views)
    torch.testing.assert_close(plain, compiled, rtol=1e-4, atol=1e-5)
    compiled.backward()
    twin.before_step(3, 10)
    twin.after_step(3, 10)
    assert twin(views).isfinite()


@pytest.mark.parametrize("make", KINDS)
def test_runs_resume_bit_for_bit(tmp_path, make):
    """Stopped in the first epoch by an error; teacher, centre, queues and schedules come back with the rest."""
    check_resume(partial(make, steps_per_epoch=None), fit, tmp_path, step=4, images=320)


@pytest.mark.parametrize("make", KINDS)
def test_a_state_dict_is_all_there_is(make):
    """A loop of one's own goes on from it: the next steps are those of a run that was not stopped."""
    method, twin = make(), make(seed=5)
    optimizer = torch.optim.SGD(trained(method), 0.1)
    batches = [views_of(method, 8, seed) for seed in range(6)]
    for step, views in enumerate(batches[:3]):
        step_of(method, optimizer, views, step + 1, 6)
    twin.load_state_dict(copy.deepcopy(method.state_dict()))
    optimizers = optimizer, torch.optim.SGD(trained(twin), 0.1)
    for step, views in enumerate(batches[3:], start=3):
        losses = []
        for each, by in zip((method, twin), optimizers, strict=True):
            torch.manual_seed(step)
            losses.append(step_of(each, by, views, step + 1, 6))
        assert torch.equal(*losses)


def test_two_processes(tmp_path):
    """Under DistributedDataParallel, against one process with all images; see dino_methods_worker.py."""
    worker = Path(__file__).with_name("dino_methods_worker.py")
    command = [sys.executable, str(worker)]
    running = [subprocess.Popen([*command, str(rank), "2", str(tmp_path)], stderr=subprocess.PIPE) for rank in range(2)]
    for process in running:
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err.decode()[-3000:]


@pytest.mark.parametrize("name", ["dino", "dinov2", "swav"])
def test_the_command_line(capsys, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    train = ("pretrain", name, "--data", "digits", "--epochs", "1", "--knn-every", "0", "--quiet", "--overwrite")
    prototypes = "--prototypes" if name == "swav" else "--out-dim"
    for encoder in ("small-resnet", "small-vit")[name == "dinov2" :]:
        assert cli.main((*train, "--encoder", encoder, prototypes, "32", "--local-views", "1")) == 0
        assert (tmp_path / "runs" / f"{name}-digits" / "encoder.safetensors").exists()
    assert cli.main((*train, prototypes, "0")) == 1
    assert f"fastssl: error: {prototypes[2:].replace('-', '_')}: got 0, want an int >= 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ([(4, 8)], "views: got 1, want two global views of one size"),
        ([(4, 8), (4, 6)], r"views: got sizes \[\(8, 8\), \(6, 6\)\], want two global views of one size"),
        ([(4, 8), (4, 8), (3, 4)], "views: got 4 and 3 images, want the same number in each view"),
    ],
)
@pytest.mark.parametrize("make", KINDS)
def test_bad_views(make, sizes, says):
    with pytest.raises(ValueError, match=says):
        make()([torch.zeros(n, 1, side, side) for n, side in sizes])


@pytest.mark.parametrize("kind", [methods.DINO, methods.DINOv2])
def test_an_encoder_of_one_size_says_what_to_do(kind):
    method = kind(methods.small_vit(1, 8), **HEAD, steps_per_epoch=1)
    with pytest.raises(ValueError, match=r"got \(4, 4\) pixels for an encoder that takes \(8, 8\) alone; make it with"):
        method(views_of(method, 4))
    with pytest.raises(ValueError, match="encoder: got a classifier of 1000"):
        kind(timm.create_model("resnet10t"))
