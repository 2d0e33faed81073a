"""Gradient caching with compiled encoders, over processes, in `fit` and in memory."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import cached_worker
import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from test_cached import assert_near_exact, gradients, loss, mlp, one_shot, two_views
from torch import nn

import fastssl
from fastssl import _loop, cached_step, cli, data, methods, transforms

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import cached_memory


def test_a_compiled_encoder():
    torch.compiler.reset()
    encoder, views = mlp(), two_views(12)
    wanted = one_shot(encoder, views)
    encoder.zero_grad()
    value = cached_step(torch.compile(encoder, fullgraph=True, backend="aot_eager"), views, loss, 4)
    torch.testing.assert_close((value, gradients(encoder)), wanted)


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """What two processes found."""
    folder = tmp_path_factory.mktemp("processes")
    command = [sys.executable, cached_worker.__file__]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    running = [subprocess.Popen([*command, str(rank), "2", str(folder)], env=env) for rank in range(2)]
    try:
        assert [process.wait(timeout=120) for process in running] == [0, 0]
    finally:
        for process in running:
            process.kill()
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("case", ["local", "global", "whole chunk", "function", "method", "uneven"])
def test_gradients_are_reduced_once(processes, case):
    assert [found[case]["reduced"] for found in processes] == [(1, 2)] * 2  # of one step, and of two
    for name, grad in processes[0][case]["gradients"].items():
        assert torch.equal(grad, processes[1][case]["gradients"][name])


@pytest.mark.parametrize("case", ["local", "uneven"])
def test_two_processes_step_like_plain_ones(processes, case):
    for found in processes:
        torch.testing.assert_close(found[case]["gradients"], found[f"{case}, one shot"], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("case", ["global", "whole chunk", "function", "method"])
def test_two_processes_that_gather_step_like_one(processes, case):
    encoder, views = cached_worker.encoder(), cached_worker.all_views(cached_worker.ROWS)
    value, eager = one_shot(encoder, views, cached_worker.local_loss)
    exact = one_shot(copy.deepcopy(encoder).double(), [view.double() for view in views], cached_worker.local_loss)
    assert_near_exact((value, processes[0][case]["gradients"]), (value, eager), exact)


def test_buffers_are_those_of_a_replica_that_accumulates(processes):
    for cached, accumulated in (found["statistics"] for found in processes):
        for name, buffer in accumulated.items():
            assert torch.equal(cached[name], buffer), name


def simclr(seed=0, norm=nn.BatchNorm1d, **kwargs):
    torch.manual_seed(seed)
    encoder = methods.build_encoder(
        "resnet18", in_chans=1, stem="small", layers=(1, 1, 1, 1), channels=(4, 4, 8, 8), **kwargs
    )
    method = methods.SimCLR(encoder, projection_dim=16)
    method.projector[1] = norm(8)
    return method


def without_batch():
    """Nothing is normed over the batch, and nothing is drawn, so that chunks make no difference."""
    method = simclr(norm=nn.LayerNorm, norm_layer="groupnorm1")
    method.transform = lambda images: [transforms.normalize(images), transforms.normalize(images.flip(3))]
    return method


@pytest.fixture
def some():
    return data.load("digits").take(range(320))


def fit(method, out, **kwargs):
    settings = {"epochs": 2, "batch_size": 64, "knn_every": 0, "progress": False, "accelerator": "cpu", "log_every": 1}
    return fastssl.fit(method, kwargs.pop("data"), out=out, **{**settings, **kwargs})


def losses(result):
    return torch.tensor([row["loss"] for row in result.history if row["loss"] is not None], dtype=torch.float64)


def test_a_run_in_chunks_is_the_run_without(tmp_path, some):
    whole = fit(without_batch(), tmp_path / "whole", data=some, lr=1e-4)
    chunks = fit(without_batch(), tmp_path / "chunks", data=some, lr=1e-4, chunk_size=24)
    assert len(losses(chunks)) == 10
    torch.testing.assert_close(losses(chunks), losses(whole), rtol=1e-5, atol=0)
    assert losses(chunks)[-1] < losses(chunks)[0]
    assert json.loads((tmp_path / "chunks" / "config.json").read_text())["settings"]["chunk_size"] == 24


def test_a_run_in_half_precision_is_scaled(tmp_path, some, monkeypatch):
    """As on a GPU; on a CPU Lightning takes bfloat16. SGD, other than Adam, minds how large gradients are."""
    trainer = _loop._trainer

    def with_scaler(*args):
        made = trainer(*args)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
        made.strategy.precision_plugin = MixedPrecision("16-mixed", "cpu", scaler)
        return made

    monkeypatch.setattr(_loop, "_trainer", with_scaler)
    how = {"data": some, "optimizer": "sgd", "lr": 0.05}
    whole = fit(without_batch(), tmp_path / "whole", **how)
    chunks = fit(without_batch(), tmp_path / "chunks", **how, chunk_size=24)
    eps = torch.finfo(torch.float16).eps
    torch.testing.assert_close(losses(chunks), losses(whole), rtol=eps, atol=0)
    assert losses(chunks)[-1] < losses(chunks)[0] * (1 - 2 * eps)


def test_one_chunk_is_the_plain_step(tmp_path, some):
    """Batch norm, augmentation and dropout included."""
    runs = [
        fit(simclr(drop_rate=0.1), tmp_path / str(i), data=some, epochs=1, lr=1e-4, chunk_size=chunk_size)
        for i, chunk_size in enumerate((None, 64, 1000))
    ]
    assert losses(runs[0])[0] == losses(runs[1])[0]
    assert torch.equal(losses(runs[1]), losses(runs[2]))
    torch.testing.assert_close(losses(runs[1]), losses(runs[0]), rtol=1e-5, atol=0)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_run_embeds_a_chunk_at_a_time(tmp_path, some, precision):
    method, seen = simclr(), []
    method.projector.register_forward_hook(lambda module, args, z: seen.append((len(z), z.dtype)))
    encoded = []
    method.encoder.register_forward_hook(lambda module, args, h: encoded.append(len(h)))
    fit(method, tmp_path, data=some, chunk_size=16, precision=precision, knn_every=1, eval_data=(some, some))
    dtype = torch.float32 if precision == "32-true" else torch.bfloat16
    assert seen == [(16, dtype)] * (2 * 2 * 4 * 10)  # passes, views, chunks, steps
    assert max(encoded[: 16 * 10]) == 16  # kNN on the way as well; the last plot has batches of its own


@pytest.mark.parametrize("how", ["error", "SIGTERM"])
def test_a_run_in_chunks_resumes_bit_for_bit(tmp_path, some, how):
    unbroken = fit(simclr(drop_rate=0.1), tmp_path / "unbroken", data=some, chunk_size=24)

    class Stop(Exception):
        pass

    method = simclr(drop_rate=0.1)
    real, calls = method.projector[3].forward, []

    def forward(x):
        calls.append(1)
        if len(calls) == 6 * 12 + 8:  # in the second pass of the seventh step
            if how == "error":
                raise Stop
            os.kill(os.getpid(), signal.SIGTERM)
        return real(x)

    method.projector[3].forward = forward
    with pytest.raises(Stop if how == "error" else KeyboardInterrupt):
        fit(method, tmp_path / "broken", data=some, chunk_size=24, checkpoint_minutes=0)
    if how == "SIGTERM":
        assert len(calls) == 7 * 12  # the step is finished
    again = {"data": some, "checkpoint_minutes": 0, "resume": True}
    with pytest.raises(RuntimeError, match=r"had other settings \(chunk_size 24 -> 32\)"):
        fit(simclr(), tmp_path / "broken", chunk_size=32, **again)
    resumed = fit(simclr(drop_rate=0.1), tmp_path / "broken", chunk_size=24, **again)
    assert resumed.history == unbroken.history
    for key, value in unbroken.method.state_dict().items():
        assert torch.equal(value, resumed.method.state_dict()[key]), key


def test_a_checkpoint_without_chunks_resumes(tmp_path, some):
    """One that does not tell a chunk size is of a run without."""
    first = fit(simclr(), tmp_path, data=some, epochs=1)
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    del checkpoint["fastssl"]["settings"]["chunk_size"]
    torch.save(checkpoint, tmp_path / "last.ckpt")
    assert fit(simclr(), tmp_path, data=some, epochs=1, resume=True).loss == first.loss
    with pytest.raises(RuntimeError, match=r"had other settings \(chunk_size None -> 32\)"):
        fit(simclr(), tmp_path, data=some, epochs=1, resume=True, chunk_size=32)


def test_what_cannot_go_in_chunks_says_so(tmp_path, some):
    torch.manual_seed(0)
    mae = methods.MAE(methods.small_vit(1, 8), decoder_dim=16, decoder_depth=1, decoder_heads=2)
    says = r"chunk_size: got 16, want None: MAE has no project\(view\) and criterion\(z, ...\), as methods have"
    with pytest.raises(ValueError, match=says):
        fit(mae, tmp_path, data=some, chunk_size=16)
    with pytest.raises(ValueError, match="chunk_size: got 0, want an int >= 1"):
        fit(simclr(), tmp_path, data=some, chunk_size=0)
    with pytest.raises(TypeError, match=r"chunk_size: got float 2.0, want an int >= 1"):
        fit(simclr(), tmp_path, data=some, chunk_size=2.0)


def test_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train = (
        "pretrain simclr --data digits --epochs 1 --batch-size 1024 --chunk-size 128 --knn-every 0 --quiet --out run"
    )
    assert cli.main(train.split()) == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["settings"]["chunk_size"] == 128


def test_32768_rows_train_in_little_memory():
    """The plain step takes a gigabyte for half of them; the matrix of the loss alone would be four."""
    small, large = (cached_memory.peak_bytes(n) for n in (2048, 16384))
    assert large < 50e6
    # What grows with the batch is embeddings, their gradients, and what the loss keeps of them.
    assert large - small < 6 * 4 * cached_memory.DIM * 2 * (16384 - 2048)
