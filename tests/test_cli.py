"""The command line from end to end, and what it says when something is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings

import pytest

from fastssl import cli


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # main changes it for its process


def run(capsys, *argv):
    try:
        code = cli.main(argv)
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_pretrain_and_evaluate_digits(capsys, tmp_path):
    train = ("pretrain", "simclr", "--data", "digits", "--epochs", "1", "--batch-size", "128", "--quiet")
    code, out, err = run(capsys, *train)
    assert code == 0, err
    assert "1442 images 1x8x8" in out
    assert "fastssl evaluate runs/simclr-digits" in out
    folder = tmp_path / "runs" / "simclr-digits"
    assert (folder / "encoder.safetensors").exists()

    code, out, err = run(capsys, "evaluate", str(folder))
    assert code == 0, err
    table = json.loads((folder / "evaluation.json").read_text())
    assert set(table) == {"trained encoder", "untrained encoder", "pixels"}
    assert table["pixels"]["kNN"] > 0.95
    assert (folder / "evaluation.png").exists()
    assert "linear, 10 labels a class" in out

    code, _, err = run(capsys, *train)
    assert code == 1
    assert "already holds a run" in err
    code, out, err = run(capsys, *train, "--resume")
    assert code == 0, err


@pytest.mark.parametrize(
    ("argv", "code", "says"),
    [
        ((), 2, "the following arguments are required: COMMAND"),
        (("train",), 2, "invalid choice: 'train'"),
        (("pretrain", "simclr"), 2, "the following arguments are required: --data"),
        (("pretrain", "byol", "--data", "digits"), 2, "invalid choice: 'byol' (choose from"),
        (
            ("pretrain", "simclr", "--data", "digits", "--epochs", "two"),
            2,
            "argument --epochs: invalid int value: 'two'",
        ),
        (("pretrain", "simclr", "--data", "missing/folder"), 1, "data: no folder 'missing/folder'"),
        (("pretrain", "simclr", "--data", "digits", "--epochs", "0"), 1, "epochs: got 0, want an int >= 1"),
        (("pretrain", "simclr", "--data", "digits", "--batch-size", "1"), 1, "batch_size: got 1"),
        (("pretrain", "simclr", "--data", "digits", "--temperature", "0"), 1, "temperature: got 0"),
        (("pretrain", "simclr", "--data", "digits", "--encoder", "resnet5000"), 1, "encoder: got 'resnet5000'"),
        (("pretrain", "simclr", "--data", "digits", "--image-size", "9"), 1, "image_size: got 9"),
        (("pretrain", "simclr", "--data", "digits", "--accelerator", "gpux"), 1, "accelerator: got 'gpux'"),
        (("evaluate", "missing/run"), 1, "folder: got 'missing/run'"),
        (("bench", "ntxent", "--pairs", "0"), 1, "pairs: got 0"),
        (("bench", "softmax"), 2, "invalid choice: 'softmax'"),
    ],
)
def test_errors_are_one_line(capsys, argv, code, says):
    got, out, err = run(capsys, *argv)
    assert got == code
    assert err.startswith("fastssl: error: ")
    assert says in err
    assert err.count("\n") == 1
    assert "Traceback" not in err + out


def test_a_damaged_checkpoint(capsys, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last.ckpt").write_bytes(b"damaged")
    code, _, err = run(capsys, "pretrain", "simclr", "--data", "digits", "--epochs", "1", "--out", "run", "--resume")
    assert code == 1
    assert "out: the checkpoint run/last.ckpt is damaged" in err
    assert err.count("\n") == 1


def test_a_missing_extra(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    code, _, err = run(capsys, "pretrain", "simclr", "--data", "digits")
    assert code == 1
    assert err == "fastssl: error: an encoder by name needs timm: pip install 'fastssl[train]'\n"


def test_a_corrupt_file_is_a_warning_line(capsys, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"no")
    code, _, err = run(capsys, "pretrain", "simclr", "--data", "photos")
    assert code == 1
    assert "fastssl: error: data: none of the 1 image files" in err


def test_bench(capsys):
    code, out, err = run(capsys, "bench", "ntxent", "--pairs", "8", "16", "--dim", "4", "--repeats", "1")
    assert code == 0, err
    assert [line.split()[0] for line in out.splitlines()[2:]] == ["8", "16"]
    assert "eager / fastssl" in out


def test_info_and_help_and_version(capsys):
    code, out, _ = run(capsys, "info")
    assert code == 0
    for name in ("fastssl", "python", "torch", "lightning", "ntxent"):
        assert f"\n{name} " in "\n" + out
    code, out, _ = run(capsys, "--help")
    assert code == 0
    assert "examples:" in out
    for command in ("pretrain", "evaluate", "bench", "info"):
        code, out, _ = run(capsys, command, "--help")
        assert code == 0
        assert "default: None" not in out
    assert run(capsys, "--version")[1].startswith("fastssl ")


def test_the_module_runs_as_a_process():
    done = subprocess.run([sys.executable, "-m", "fastssl.cli", "evaluate", "nowhere"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("fastssl: error: ")
    assert "Traceback" not in done.stderr
