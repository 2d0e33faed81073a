"""Exported encoders give the same features to those who do not have fastssl."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import nn

from fastssl import cli, data, methods, transforms
from fastssl._cli_build import prepare
from fastssl._cli_methods import METHODS
from fastssl.methods import encode, export
from fastssl.methods._encoder import Wrapper, recipe_of

WORKER = Path(__file__).parent / "export_worker.py"


def used(encoder, x):
    """An encoder whose running statistics are not those of the first day."""
    torch.manual_seed(1)
    for name, parameter in encoder.named_parameters():
        if "norm" in name or "bn" in name:
            nn.init.uniform_(parameter, 0.5, 1.5)
    with torch.no_grad():
        encode(encoder.train(), x)
    return encoder.eval()


def read_elsewhere(folder, batches):
    """The features that a process without fastssl has of batches, by the names of the exported files."""
    files = {}
    for name, x in batches.items():
        np.save(folder / f"{name}.npy", x.numpy())
        files[name] = f"{name}.npy"
    (folder / "manifest.json").write_text(json.dumps(files))
    done = subprocess.run([sys.executable, str(WORKER), str(folder)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return {name: torch.from_numpy(np.load(folder / f"{name}.features.npy")) for name in batches}


def check(found, encoder, x):
    with torch.no_grad():
        wanted = encode(encoder, x)
    assert wanted.std() > 1e-3  # features that differ from image to image
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def of_methods(tmp_path_factory):
    """Of each method of the command line, its encoder on small data, a batch, and what others read of its exports."""
    folder = tmp_path_factory.mktemp("exports")
    words = folder / "words"
    for kind in ("a", "b"):
        (words / kind).mkdir(parents=True)
        for i in range(5):
            (words / kind / f"{i}.txt").write_text(f"some words of {kind}, {i} " * 20)
    known = {"images": data.shapes(8), "text": data.texts(words, length=12, vocab_size=270)}
    encoders, batches, read, graphs = {}, {}, {}, {}
    for kind, method in METHODS.items():
        source = known[method.reads]
        encoder = prepare(
            kind, source, {"seed": 0, **({"encoder": "bert-tiny"} if method.reads == "text" else {})}
        ).method.encoder
        batch = source.to_input(source.batch(range(3))[0])
        encoders[kind], batches[kind] = used(encoder, batch), batch
        recipe = recipe_of(encoder)
        forms = {"timm": "pth", "safetensors": "safetensors"} if "name" in recipe else {}
        for form, end in ({"timm": "pth"} if isinstance(encoder, Wrapper) else forms).items():
            export(encoder, folder / f"{kind}-{form}.{end}", form, image_size=32)
            read[f"{kind}-{form}"] = batch
        # Methods share architectures, each of which takes seconds: its graph has the weights of the first method.
        if (graph := repr(recipe)) not in graphs:
            graphs[graph] = kind
            export(encoder, folder / f"{kind}-onnx.onnx", "onnx", image_size=32)
            read[f"{kind}-onnx"] = batch
    return folder, encoders, batches, read_elsewhere(folder, read), graphs


@pytest.mark.parametrize("kind", METHODS)
def test_every_method_for_timm_and_safetensors(of_methods, kind, tmp_path):
    _, encoders, batches, found, _ = of_methods
    encoder = encoders[kind]
    if "name" in recipe_of(encoder):
        check(found[f"{kind}-timm"], encoder, batches[kind])
        check(found[f"{kind}-safetensors"], encoder, batches[kind])
        return
    if isinstance(encoder, Wrapper):
        check(found[f"{kind}-timm"], encoder, batches[kind])
    else:
        assert not hasattr(encoder, "pretrained_cfg")
        with pytest.raises(
            ValueError, match=f"format: got 'timm' for {type(encoder).__name__}, which timm.create_model"
        ):
            export(encoder, tmp_path / "encoder.pth")
    path = export(encoder, tmp_path / "encoder.safetensors", "safetensors", image_size=32)
    weights = load_file(path)
    assert weights.keys() == encoder.state_dict().keys()
    assert all(torch.equal(weights[key], value) for key, value in encoder.state_dict().items())
    assert "load_file('encoder.safetensors')" in path.with_suffix(".txt").read_text()


@pytest.mark.parametrize("kind", METHODS)
def test_every_method_for_onnx(of_methods, kind):
    _, encoders, batches, found, graphs = of_methods
    first = graphs[repr(recipe_of(encoders[kind]))]
    check(found[f"{first}-onnx"], encoders[first], batches[first])


@pytest.mark.parametrize("kind", METHODS)
def test_every_method_for_torchvision(of_methods, kind, tmp_path):
    """Small encoders are none of torchvision's: narrow, or without a class token."""
    encoder = of_methods[1][kind]
    with pytest.raises(ValueError, match=r"format: got 'torchvision', which has no .*; want 'timm', 'safetensors' or"):
        export(encoder, tmp_path / "encoder.pth", "torchvision", image_size=32)
    assert not list(tmp_path.iterdir())


SAME = {
    "resnet18": lambda: timm.create_model("resnet18", num_classes=0),
    "resnet50-grey": lambda: methods.build_encoder("resnet50", in_chans=1, layers=(1, 1, 1, 1)),
    "resnet18-no-pool": lambda: methods.build_encoder("resnet18", stem="no-pool", layers=(1, 1, 1, 1)),
    "resnet18-small": lambda: methods.build_encoder("resnet18", stem="small", in_chans=1, layers=(1, 1, 1, 1)),
    "resnext": lambda: methods.build_encoder("resnext50_32x4d", layers=(1, 1, 1, 1)),
    "wide": lambda: methods.build_encoder("wide_resnet50_2", layers=(1, 1, 1, 1)),
    "vit": lambda: methods.build_encoder("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2),
    "vit-of-timm": lambda: timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=32, patch_size=8, depth=3),
}


def test_torchvision_gives_the_same(tmp_path):
    encoders, batches = {}, {}
    for i, (name, make) in enumerate(SAME.items()):
        encoder = make()
        x = torch.randn(3, next(encoder.parameters()).shape[1] if "vit" not in name else 3, 32, 32)
        encoders[name], batches[name] = used(encoder, x), x
        export(encoder, tmp_path / f"{name}.{('pth', 'pt', 'safetensors')[i % 3]}", "torchvision", image_size=32)
    found = read_elsewhere(tmp_path, batches)
    for name, encoder in encoders.items():
        check(found[name], encoder, batches[name])


def vit(**kwargs):
    return methods.build_encoder("vit_tiny_patch16_224", img_size=32, depth=1, **kwargs)


@pytest.mark.parametrize(
    ("make", "lacks"),
    [
        (lambda: methods.small_resnet(), r"no ResNet with channels=\(16, 32, 64, 128\)"),
        (lambda: methods.build_encoder("resnet18", stem_type="deep"), "no ResNet with stem_type='deep'"),
        (lambda: methods.build_encoder("resnet26t"), "no resnet26t that it could be"),
        (lambda: methods.build_encoder("convnext_atto"), "no convnext_atto that it could be"),
        (lambda: methods.small_vit(), "no vision transformer without a class token"),
        (lambda: vit(reg_tokens=2), "no register tokens"),
        (lambda: vit(init_values=0.1), "no layer scale"),
        (lambda: vit(in_chans=1), "vision transformers of 3 channels alone"),
        (lambda: vit(pre_norm=True), "no norm before the blocks"),
        (lambda: methods.mlp_encoder(), "no MLPEncoder that it could be"),
    ],
)  # fmt: skip
def test_what_torchvision_lacks(tmp_path, make, lacks):
    with pytest.raises(ValueError, match=f"format: got 'torchvision', which has {lacks}"):
        export(make(), tmp_path / "encoder.pth", "torchvision", image_size=32)


def test_a_changed_encoder_is_not_taken_for_what_it_was(tmp_path):
    encoder = methods.build_encoder("resnet18", layers=(1, 1, 1, 1))
    encoder.maxpool = nn.Identity()  # which no weight tells
    with pytest.raises(ValueError, match="format: got 'timm', whose form of the encoder is another: Tensor-likes are"):
        export(encoder, tmp_path / "encoder.pth", image_size=32)
    assert not list(tmp_path.iterdir())


def test_timm_reads_its_file_by_checkpoint_path(tmp_path):
    encoder = used(methods.build_encoder("resnet18", layers=(1, 1, 1, 1)), torch.randn(4, 3, 32, 32))
    path = export(encoder, tmp_path / "encoder.pth")
    read = timm.create_model("resnet18", num_classes=0, layers=(1, 1, 1, 1), checkpoint_path=str(path)).eval()
    x = torch.randn(2, 3, 32, 32)
    check(read(x).detach(), encoder, x)


def test_a_graph_that_normalises_takes_images_as_they_are(tmp_path):
    encoder = methods.build_encoder("resnet18", in_chans=1, layers=(1, 1, 1, 1), channels=(4, 4, 8, 8), stem="small")
    images = torch.randint(256, (5, 1, 8, 8), dtype=torch.uint8)
    used(encoder, transforms.normalize(images))
    path = export(encoder, tmp_path / "encoder.onnx", "onnx", image_size=8, normalize=True)
    assert "# Input: uint8 [B, 1, 8, 8]. Output: float32 [B, 8]." in path.with_suffix(".txt").read_text()
    check(read_elsewhere(tmp_path, {"encoder": images})["encoder"], encoder, transforms.normalize(images))


def test_graphs_take_texts_and_signals_of_any_length(tmp_path):
    text, signals = methods.text_encoder(300, 20, "bert-tiny").eval(), methods.signal_encoder(width=8).eval()
    tokens = torch.randint(1, 300, (3, 9))
    tokens[1, 4:] = 0
    batches = {"text": tokens, "signals": torch.randn(5, 1, 3000)}
    for name, encoder in (("text", text), ("signals", signals)):
        export(encoder, tmp_path / f"{name}.onnx", "onnx")
    found = read_elsewhere(tmp_path, batches)
    check(found["text"], text, tokens)
    check(found["signals"], signals, batches["signals"])
    told = (tmp_path / "text.txt").read_text()
    assert "# Input: int64 [B, T]. Output: float32 [B, 128].\n# At most 20 tokens; 0 stands for none" in told


def test_the_encoder_stays_as_it_was(tmp_path):
    encoder = methods.small_resnet(1, 8).train()
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    state = torch.get_rng_state()
    export(encoder, tmp_path / "encoder.pth", image_size=8)
    assert encoder.training
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())


def test_signals_and_an_example(tmp_path):
    signals = methods.signal_encoder(width=8)
    path = export(signals, tmp_path / "signals.safetensors", "safetensors")
    assert "# Input: float32 [B, 1, T]. Output: float32 [B, 8]." in path.with_suffix(".txt").read_text()
    own = nn.Sequential(nn.Linear(7, 5))
    path = export(own, tmp_path / "own.safetensors", "safetensors", example=torch.zeros(2, 7))
    assert "# Input: float32 [B, 7]. Output: float32 [B, 5]." in path.with_suffix(".txt").read_text()


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"encoder": 5}, TypeError, "encoder: got int, want a torch.nn.Module"),
        ({"format": "keras"}, ValueError, "format: got 'keras', want 'timm', 'torchvision', 'safetensors', 'onnx'"),
        ({"path": "encoder.onnx"}, ValueError, "path: got '.*encoder.onnx', want a name that ends in .pth or .pt or"),
        ({"format": "onnx"}, ValueError, "path: got '.*encoder.pth', want a name that ends in .onnx for onnx"),
        ({"image_size": 0}, ValueError, "image_size: got 0, want an int >= 1"),
        ({"normalize": True}, ValueError, "normalize: got True, want False: only images in ONNX"),
        ({"encoder": methods.small_vit(1, 8), "image_size": 9}, ValueError, "image_size: got 9, want 8 x 8"),
    ],
)
def test_bad_input(tmp_path, change, error, says):
    given = {"encoder": methods.small_resnet(1, 8), "path": "encoder.pth", "format": "timm", "image_size": 8, **change}
    with pytest.raises(error, match=says):
        export(given.pop("encoder"), tmp_path / given.pop("path"), given.pop("format"), **given)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("module", "format"), [("onnx", "onnx"), ("onnxscript", "onnx")])
def test_a_missing_extra(tmp_path, monkeypatch, module, format):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=f"format='onnx' needs {module}: pip install 'fastssl\\[export\\]'"):
        export(methods.small_resnet(1, 8), tmp_path / "encoder.onnx", format, image_size=8)


def test_the_command(tmp_path, capsys):
    encoder = methods.small_resnet(1, 8)
    methods.export_encoder(encoder, tmp_path / "run", image_size=8, in_chans=1)
    assert cli.main(["export", str(tmp_path / "run")]) == 0
    out = capsys.readouterr().out
    assert f"written  {tmp_path}/run/encoder-timm.pth" in out
    assert "model = timm.create_model('resnet18'" in out
    other = tmp_path / "elsewhere" / "e.safetensors"
    assert cli.main(["export", str(tmp_path / "run"), "--format", "safetensors", "--out", str(other)]) == 0
    assert load_file(other).keys() == encoder.state_dict().keys()
    assert cli.main(["export", str(tmp_path / "run"), "--format", "torchvision"]) == 1
    assert "fastssl: error: format: got 'torchvision', which has no ResNet with channels" in capsys.readouterr().err
