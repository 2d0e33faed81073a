"""Training: the loss curve of the fused loss, resume after a kill, what a run leaves, and bad input."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import textwrap

import pytest
import torch
from PIL import Image
from small_methods import check_resume
from torch import nn

import fastssl
from fastssl import data, methods
from fastssl.evaluate import plots
from fastssl.train import WRITTEN


def simclr(seed=0):
    torch.manual_seed(seed)
    encoder = methods.build_encoder("resnet18", in_chans=1, stem="small", layers=(1, 1, 1, 1), channels=(4, 4, 8, 8))
    return methods.SimCLR(encoder, projection_dim=16)


def mae(seed=0):
    torch.manual_seed(seed)
    return methods.MAE(methods.small_vit(1, 8), decoder_dim=16, decoder_depth=1, decoder_heads=2)


def fit(method, out, **kwargs):
    settings = {"epochs": 2, "batch_size": 64, "knn_every": 0, "progress": False, "accelerator": "cpu"}
    return fastssl.fit(method, kwargs.pop("data", "digits"), out=out, **{**settings, **kwargs})


@pytest.fixture
def some():
    return data.load("digits").take(range(320))


class EagerNTXent(nn.Module):
    def __init__(self, temperature):
        super().__init__()
        self.temperature = temperature

    def forward(self, z0, z1):
        z = nn.functional.normalize(torch.cat([z0, z1]), dim=1)
        logits = (z @ z.T / self.temperature).fill_diagonal_(float("-inf"))
        return nn.functional.cross_entropy(logits, torch.arange(len(z)).roll(len(z0)))


class ExactNTXent(EagerNTXent):
    def forward(self, z0, z1):
        return super().forward(z0.double(), z1.double()).float()


def test_the_fused_loss_trains_like_eager_pytorch(tmp_path):
    curves = []
    for criterion in (None, EagerNTXent(0.5), ExactNTXent(0.5)):
        method = simclr()
        if criterion is not None:
            method.criterion = criterion
        # 22 steps an epoch: the first 50 steps. The rate is small, as chaos would amplify any rounding.
        result = fit(method, tmp_path / str(len(curves)), epochs=3, lr=1e-4, log_every=1)
        curves.append([row["loss"] for row in result.history if row["loss"] is not None][:50])
    fused, eager, exact = (torch.tensor(curve, dtype=torch.float64) for curve in curves)
    assert len(fused) == 50
    # Training amplifies roundings in time: no further from the exact loss's curve than twice what eager has been.
    errors = [((curve - exact) / exact).abs().cummax(0).values for curve in (fused, eager)]
    assert (errors[0] <= 2 * errors[1] + 2e-5).all()


def test_the_curve_falls_and_features_improve(tmp_path):
    result = fit(simclr(), tmp_path, epochs=4, batch_size=128, knn_every=4, lr=4e-3)
    knns = [row["knn"] for row in result.history if row["knn"] is not None]
    assert len(knns) == 2  # before the first step and after the last
    assert knns[1] == result.knn > knns[0] + 0.1
    assert result.loss < result.history[1]["loss"] - 0.05


def test_a_run_leaves_everything_behind(tmp_path):
    result = fit(simclr(), tmp_path / "run", epochs=1, knn_every=1)
    for name in WRITTEN:
        assert (result.out / name).stat().st_size > 0, name
    assert list((result.out / "tensorboard").glob("events*"))
    assert not list(result.out.glob("*.tmp"))
    config = json.loads((result.out / "config.json").read_text())
    assert config["data"] == "digits"
    assert config["settings"]["batch_size"] == 64
    rows = list(csv.DictReader((result.out / "metrics.csv").open()))
    assert [int(row["step"]) for row in rows] == list(range(23))
    assert float(rows[-1]["knn"]) == result.knn
    again = methods.load_encoder(result.out)
    for key, value in result.method.encoder.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])


def test_a_run_of_mae_leaves_pictures_too(tmp_path, some, monkeypatch):
    drawn = []
    real = plots.pictures
    monkeypatch.setattr(plots, "pictures", lambda rows, *args: drawn.append(rows) or real(rows, *args))
    result = fit(mae(), tmp_path, data=some, epochs=4, eval_data=(some, some), knn_every=2)
    for name in WRITTEN:
        assert (result.out / name).stat().st_size > 0, name
    assert len(drawn) == 4  # before the first step, after two epochs, after four, and the last plot
    assert all(rows["original"].shape == (8, 1, 8, 8) for rows in drawn)
    assert torch.equal(drawn[0]["seen"], drawn[3]["seen"])  # the same patches are hidden each time
    assert not torch.equal(drawn[0]["reconstruction"], drawn[2]["reconstruction"])
    again = methods.load_encoder(result.out)
    for key, value in result.method.encoder.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])


def test_a_method_brings_its_own_settings(tmp_path, some):
    def settings(method, **kwargs):
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        fit(method, out, data=some, epochs=1, batch_size=128, **kwargs)
        return json.loads((out / "config.json").read_text())["settings"]

    own = settings(mae())
    assert own["lr"] == 0.75e-4  # published for 256
    assert own["weight_decay"] == 0.05
    assert own["betas"] == [0.9, 0.95]
    assert settings(mae(), lr=0.01, weight_decay=0.1)["lr"] == 0.01
    other = settings(mae(), optimizer="sgd")
    assert other["lr"] == 0.03
    assert other["weight_decay"] == 5e-4
    plain = settings(simclr())
    assert plain["lr"] == 1e-3
    assert plain["betas"] == [0.9, 0.999]


@pytest.mark.parametrize("make", [mae, lambda seed=0: methods.DenoisingAutoencoder(mae(seed).encoder, "dropout")])
def test_masked_runs_resume_bit_for_bit(tmp_path, some, make):
    """Stopped in the middle by an error, whose checkpoint is that of the step before."""
    check_resume(make, fit, tmp_path, step=7, data=some)


def test_a_checkpoint_of_version_0_1_resumes(tmp_path, some):
    """It does not tell the betas of AdamW."""
    first = fit(simclr(), tmp_path, data=some, epochs=1)
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    del checkpoint["fastssl"]["settings"]["betas"]
    torch.save(checkpoint, tmp_path / "last.ckpt")
    assert fit(simclr(), tmp_path, data=some, epochs=1, resume=True).loss == first.loss
    with pytest.raises(RuntimeError, match=r"had other settings .*betas \(0.9, 0.999\) -> \(0.9, 0.95\)"):
        fit(mae(), tmp_path, data=some, epochs=1, resume=True)


def test_a_folder_trains_the_same_whoever_reads_it(tmp_path):
    (tmp_path / "photos").mkdir()
    for i in range(12):
        pixels = torch.randint(0, 256, (20 + i, 40 - i, 3), dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(tmp_path / "photos" / f"{i}.png")
    weights = []
    for workers in (0, 2):
        torch.manual_seed(0)
        encoder = methods.build_encoder("resnet18", stem="small", layers=(1, 1, 1, 1), channels=(4, 4, 8, 8))
        images = data.load(tmp_path / "photos", image_size=16)
        method = methods.SimCLR(encoder, projection_dim=16)
        fit(method, tmp_path / f"run{workers}", data=images, epochs=2, batch_size=6, workers=workers)
        assert method.image_size == 16  # of the views, as of the images that are evaluated
        weights.append(encoder.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(weights[0].values(), weights[1].values(), strict=True))


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lars"])
def test_optimizers_and_after_step(tmp_path, some, optimizer):
    seen = []
    method = simclr()
    method.after_step = lambda step, total: seen.append((step, total))
    before = [p.clone() for p in method.parameters()]
    fit(method, tmp_path, data=some, epochs=1, optimizer=optimizer)
    assert seen == [(step, 5) for step in range(1, 6)]
    assert any(not torch.equal(a, b) for a, b in zip(before, method.parameters(), strict=True))


def test_the_same_seed_gives_the_same_weights(tmp_path, some):
    runs = [fit(simclr(), tmp_path / str(i), data=some, seed=seed).method for i, seed in enumerate((1, 1, 2))]
    first, again, other = [torch.cat([p.detach().flatten() for p in method.parameters()]) for method in runs]
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_schedule_warms_up_and_ends_at_zero(tmp_path, some):
    history = fit(simclr(), tmp_path, data=some, epochs=10, lr=0.5e-3, warmup_epochs=2, log_every=1).history
    rates = [row["learning_rate"] for row in history]
    peak = rates.index(max(rates))
    assert peak == 11  # the eleventh step, after two epochs of five
    assert rates[peak] == 0.5e-3
    assert rates[1 : peak + 1] == sorted(rates[1 : peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert 0 < rates[-1] < 1e-5


SCRIPT = """
    import os, signal, sys, time
    import torch
    import fastssl
    from fastssl import data, methods

    out, how, at = sys.argv[1], sys.argv[2], int(sys.argv[3])
    torch.set_num_threads(1)
    torch.manual_seed(0)
    encoder = methods.build_encoder("resnet18", in_chans=1, stem="small", layers=(1, 1, 1, 1), channels=(4, 4, 8, 8),
                                    drop_rate=0.1)

    class Method(methods.SimCLR):
        steps = 0
        def forward(self, views):
            self.steps += 1
            if how != "run" and self.steps == at:
                os.kill(os.getpid(), getattr(signal, how))
            return super().forward(views)

    method = Method(encoder, projection_dim=16)
    images = data.load("digits").take(range(320))
    fastssl.fit(method, images, epochs=3, batch_size=64, out=out, resume=True, progress=False, log_every=2,
                checkpoint_minutes=0 if how != "run" else 10, accelerator="cpu")
    torch.save(method.state_dict(), out + "/weights.pt")
"""


def launch(tmp_path, out, how="run", at=0):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    command = [sys.executable, str(script), str(tmp_path / out), how, str(at)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    done = launch(folder, "run")
    assert done.returncode == 0, done.stderr
    return folder / "run"


@pytest.mark.parametrize("at", [1, 4, 6, 15])
def test_a_killed_run_resumes_bit_for_bit(tmp_path, unbroken, at):
    """Kills in the first step, inside an epoch, in an epoch's first step, and in the last step of all."""
    killed = launch(tmp_path, "killed", "SIGKILL", at)
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "killed" / "last.ckpt").exists() == (at > 1)
    resumed = launch(tmp_path, "killed")
    assert resumed.returncode == 0, resumed.stderr
    want, got = (torch.load(run / "weights.pt") for run in (unbroken, tmp_path / "killed"))
    assert want.keys() == got.keys()
    for key, value in want.items():
        assert torch.equal(value, got[key]), key
    assert (unbroken / "metrics.csv").read_text() == (tmp_path / "killed" / "metrics.csv").read_text()


@pytest.mark.parametrize("how", ["SIGINT", "SIGTERM"])
def test_an_interrupted_run_says_what_to_do_and_resumes(tmp_path, how):
    stopped = launch(tmp_path, "stopped", how, 7)
    assert stopped.returncode != 0
    assert "KeyboardInterrupt: stopped at step 7 of 15" in stopped.stderr
    assert "resume=True continues" in stopped.stderr
    assert (tmp_path / "stopped" / "last.ckpt").exists()
    resumed = launch(tmp_path, "stopped")
    assert resumed.returncode == 0, resumed.stderr
    rows = list(csv.DictReader((tmp_path / "stopped" / "metrics.csv").open()))
    assert [int(row["step"]) for row in rows] == [0, 2, 4, 5, 6, 8, 10, 12, 14, 15]


def test_a_finished_run_resumes_to_itself(tmp_path, some):
    first = fit(simclr(), tmp_path, data=some)
    again = fit(simclr(seed=9), tmp_path, data=some, resume=True)
    assert again.history == first.history
    assert again.loss == first.loss
    for a, b in zip(first.method.parameters(), again.method.parameters(), strict=True):
        assert torch.equal(a, b)


def test_an_existing_run_is_not_overwritten_by_accident(tmp_path, some):
    fit(simclr(), tmp_path, data=some, epochs=1)
    with pytest.raises(FileExistsError, match=r"out: .* already holds a run; resume it \(resume=True\)"):
        fit(simclr(), tmp_path, data=some, epochs=1)
    with pytest.raises(RuntimeError, match=r"out: the run in .* had other settings .*epochs 1 -> 2"):
        fit(simclr(), tmp_path, data=some, epochs=2, resume=True)
    assert fit(simclr(), tmp_path, data=some, epochs=2, overwrite=True).history[-1]["epoch"] == 2


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "foreign"])
def test_a_damaged_checkpoint_says_so(tmp_path, some, damage):
    fit(simclr(), tmp_path, data=some, epochs=1)
    checkpoint = tmp_path / "last.ckpt"
    whole = checkpoint.read_bytes()
    if damage == "foreign":
        torch.save({"model": 1}, checkpoint)
    else:
        checkpoint.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "text": b"hello"}[damage])
    with pytest.raises(RuntimeError, match=r"out: the checkpoint .*last\.ckpt is damaged .*overwrite=True") as caught:
        fit(simclr(), tmp_path, data=some, epochs=1, resume=True)
    assert "\n" not in str(caught.value)


def test_another_model_does_not_fit_the_checkpoint(tmp_path, some):
    fit(simclr(), tmp_path, data=some, epochs=1)
    with pytest.raises(RuntimeError, match=r"method: .* does not fit the checkpoint"):
        fit(methods.SimCLR(methods.small_resnet(1, 8)), tmp_path, data=some, epochs=1, resume=True)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, some):
    method = simclr()
    method.project = lambda view: view.flatten(1) * method.projector[0].weight.sum() * float("nan")
    with pytest.raises(RuntimeError, match="the loss is nan at step 1"):
        fit(method, tmp_path, data=some)


@pytest.mark.parametrize(
    ("kwargs", "error", "says"),
    [
        ({"epochs": 0}, ValueError, "epochs: got 0, want an int >= 1"),
        ({"epochs": 1.5}, TypeError, "epochs: got float 1.5, want an int >= 1"),
        ({"batch_size": 1}, ValueError, "batch_size: got 1, want an int >= 2: one image alone has no negatives"),
        ({"batch_size": 5000}, ValueError, "batch_size: got 5000, want at most the number of images, 1442"),
        ({"lr": 0}, ValueError, "lr: got 0, want a number > 0"),
        ({"lr": float("nan")}, ValueError, "lr: got nan"),
        ({"optimizer": "adam"}, ValueError, "optimizer: got 'adam', want 'adamw', 'sgd', 'lars'"),
        ({"precision": "8"}, ValueError, "precision: got '8'"),
        ({"warmup_epochs": -1}, ValueError, "warmup_epochs: got -1"),
        ({"weight_decay": -1}, ValueError, "weight_decay: got -1"),
        ({"seed": -1}, ValueError, "seed: got -1"),
        ({"knn_every": -1}, ValueError, "knn_every: got -1"),
        ({"workers": -1}, ValueError, "workers: got -1"),
        ({"log_every": 0}, ValueError, "log_every: got 0"),
        ({"devices": 2}, ValueError, "devices: got 2, want 1: fit trains in one process"),
        (
            {"method": methods.MAE(methods.small_vit(1, 16), decoder_dim=16, decoder_depth=1, decoder_heads=2)},
            ValueError,
            "image_size: got images of 8 x 8 for an encoder that takes 16 x 16 alone; load them at that size",
        ),
        ({"accelerator": "abacus"}, ValueError, "accelerator: got 'abacus'"),
        ({"data": "no/such/folder"}, FileNotFoundError, "data: .*no/such/folder"),
    ],
)
def test_bad_input(tmp_path, kwargs, error, says):
    with pytest.raises(error, match=says):
        fit(kwargs.pop("method", None) or simclr(), tmp_path / "run", **kwargs)
    assert not (tmp_path / "run" / "last.ckpt").exists()


def test_bad_methods(tmp_path):
    for method in (5, nn.Linear(2, 2)):
        with pytest.raises(TypeError, match=r"method: got .*want a method such as"):
            fit(method, tmp_path)


def test_a_missing_extra_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning", None)
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    with pytest.raises(ImportError, match=r"^fastssl.fit needs lightning: pip install 'fastssl\[train\]'$"):
        fit(simclr(), tmp_path)


def test_importing_fastssl_loads_no_extra():
    check = """
        import sys
        import fastssl
        extras = {"timm", "lightning", "torchvision", "sklearn", "matplotlib", "safetensors", "tensorboard"}
        from fastssl import data, functional, losses, methods, transforms
        from fastssl import cli
        assert not extras & set(sys.modules), extras & set(sys.modules)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(check)], check=True, timeout=60)
