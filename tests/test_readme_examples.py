"""The loops of the README: each is short, and does as printed what it says, on a smaller net and a few images."""

from __future__ import annotations

import random
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

README = (Path(__file__).parent.parent / "README.md").read_text()
EXAMPLES = dict(re.findall(r"<!-- example:(\w+) -->\n```python\n(.*?)```", README, re.DOTALL))
# What is printed is for a GPU and an evening; the sizes alone become those of a test.
SMALLER = {
    "resnet50": "resnet18", "2048": "512", "batch_size=256": "batch_size=4", "num_workers=8": "num_workers=0",
    "max_epochs=100": "max_epochs=2", "epochs=100": "epochs=2", "range(100)": "range(2)", "224": "32",
    'data.load("path/to/images")': 'data.load("path/to/images", image_size=32)',
}  # fmt: skip


@pytest.fixture(autouse=True)
def _images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 36, 40, 3), dtype=np.uint8)
    for index, image in enumerate(pixels):
        path = tmp_path / "path" / "to" / "images" / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)


def run(code):
    """The names that an example leaves."""
    for printed, tried in SMALLER.items():
        code = code.replace(printed, tried)
    names = {"__name__": "example"}
    for seed in (torch.manual_seed, np.random.seed, random.seed):  # lightly draws from all of them
        seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Lightning, about its own defaults
        exec(code, names)
    return names


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_is_short(name):
    assert len(EXAMPLES[name].splitlines()) <= 25


def test_there_are_three():
    assert list(EXAMPLES) == ["lightning", "pytorch", "lightly"]
    text = "".join(EXAMPLES.values())
    assert all(printed in text for printed in SMALLER)


def test_lightning():
    names = run(EXAMPLES["lightning"])
    trainer = names["trainer"]
    assert trainer.global_step == 4
    assert 0 < trainer.callback_metrics["loss"].item() < 5
    encoder = trainer.lightning_module.method.encoder
    assert all(p.grad is not None for p in encoder.parameters())


def test_pytorch(capsys):
    names = run(EXAMPLES["pytorch"])
    assert re.fullmatch(r"epoch 1: loss \d\.\d{3}\nepoch 2: loss \d\.\d{3}\n", capsys.readouterr().out)
    assert names["scheduler"].last_epoch == 4
    assert names["loss"].dtype == torch.float32
    assert all(p.isfinite().all() for p in names["model"].parameters())


def test_lightly(capsys):
    """The line of the import is all that differs, and losses stay as they were."""
    code = EXAMPLES["lightly"].replace("range(100)", "range(1)")  # then roundings have grown to the whole loss
    ours = run(code)
    now, was = re.search(r"^(from fastssl.*NTXentLoss)  # was: (.*)$", code, re.MULTILINE).groups()
    theirs = run(code.replace(now, was))
    assert type(ours["criterion"]) is not type(theirs["criterion"])
    assert capsys.readouterr().out.count("epoch 1: loss ") == 2
    torch.testing.assert_close(ours["loss"], theirs["loss"], rtol=1e-3, atol=0.0)
