"""The command line from end to end, and what it says when something is wrong."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
import warnings

import numpy as np
import pytest
from PIL import Image

from fastssl import RaggedImages, _cli_methods, cli, methods, transforms
from fastssl import evaluate as evaluation


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
    assert table["pixels"]["knn"]["accuracy"] > 0.95
    assert table["trained encoder"].keys() == set(evaluation.QUICK)
    for result in table["trained encoder"].values():
        assert all(f"\n{name} " in out for name in result["scores"])
        assert result["protocol"]
    for picture in ("evaluation.png", "retrieval.png", "shortcut_audit.png"):
        assert (folder / picture).exists()
    assert "linear, 10 labels a class" in out

    code, _, err = run(capsys, *train)
    assert code == 1
    assert "already holds a run" in err
    code, out, err = run(capsys, *train, "--resume")
    assert code == 0, err


@pytest.mark.parametrize(
    ("method", "options", "settings"),
    [
        (
            "mae",
            ("--mask-ratio", "0.5", "--decoder-dim", "16", "--decoder-heads", "4"),
            {"lr": 1e-3, "weight_decay": 0.05},
        ),
        ("simmim", ("--mask-patch-size", "4", "--lr", "0.01"), {"lr": 0.01, "weight_decay": 0.05}),
        ("dae", ("--corruption", "mask", "--strength", "0.3"), {"lr": 1e-3, "weight_decay": 0.01}),
        ("dae", ("--encoder", "small-vit"), {"lr": 1e-3}),
    ],
)
def test_pretrain_with_masks_and_noise(capsys, tmp_path, method, options, settings):
    train = ("pretrain", method, "--data", "digits", "--epochs", "1", "--batch-size", "128", "--quiet", *options)
    code, out, err = run(capsys, *train)
    assert code == 0, err
    folder = tmp_path / "runs" / f"{method}-digits"
    assert f"picture  runs/{method}-digits/pictures.png" in out
    small = "small-resnet" if method == "dae" and "--encoder" not in options else "small-vit"
    assert f"encoder  {small}, " in out
    assert (folder / "pictures.png").stat().st_size > 0
    config = json.loads((folder / "config.json").read_text())
    assert {key: config["settings"][key] for key in settings} == settings


@pytest.mark.parametrize(
    ("method", "options", "want", "settings"),
    [
        (
            "byol",
            ("--momentum", "0.9", "--projection-dim", "8"),
            {"momentum": 0.9, "projection_dim": 8, "hidden_dim": 512},
            {"optimizer": "adamw"},
        ),
        ("moco", (), {"batch_norm": True, "momentum": 0.99}, {"optimizer": "sgd"}),
        ("moco", ("--no-batch-norm",), {"batch_norm": False}, {"optimizer": "sgd"}),
        ("byol", ("--optimizer", "lars"), {"momentum": 0.95}, {"optimizer": "lars", "lr": 0.1, "weight_decay": 1.5e-6}),
        ("simsiam", ("--predictor-dim", "8"), {"predictor_dim": 8, "hidden_dim": 128}, {"warmup_epochs": 0}),
        ("mocov3", ("--temperature", "0.3"), {"temperature": 0.3, "momentum": 0.99}, {"optimizer": "adamw"}),
        (
            "mocov3",
            ("--encoder", "small-vit", "--no-freeze-patches", "--weight-decay", "0.2"),
            {"freeze_patches": False},
            {"optimizer": "adamw", "weight_decay": 0.2},
        ),
    ],
)
def test_pretrain_without_negatives(capsys, tmp_path, monkeypatch, method, options, want, settings):
    made = []
    real = methods.METHODS[method]
    monkeypatch.setitem(methods.METHODS, method, lambda *a, **k: made.append(k) or real(*a, **k))
    train = ("pretrain", method, "--data", "digits", "--epochs", "1", "--batch-size", "128", "--knn-every", "0")
    code, _, err = run(capsys, *train, "--quiet", *options)
    assert code == 0, err
    assert {key: made[0][key] for key in want} == want
    config = json.loads((tmp_path / "runs" / f"{method}-digits" / "config.json").read_text())
    assert {key: config["settings"][key] for key in settings} == settings


def made_by(monkeypatch, name):
    """The methods that the command line makes from now on."""
    made, real = [], methods.METHODS[name]
    monkeypatch.setitem(methods.METHODS, name, lambda *a, **k: made.append(real(*a, **k)) or made[-1])
    return made


@pytest.mark.parametrize(
    ("method", "options", "crop_min", "jitter", "gray_p"),
    [
        ("byol", (), 0.5, (0.8, 0.8, 0.8, 0.5), 0.8),
        ("byol", ("--crop-min", "0.6", "--gray-p", "0"), 0.6, (0.8, 0.8, 0.8, 0.5), 0.0),
        ("moco", ("--jitter", "0.1", "0.2", "0.3", "0.4"), 0.5, (0.1, 0.2, 0.3, 0.4), 0.8),
    ],
)
def test_views_of_small_colour_images(capsys, tmp_path, monkeypatch, method, options, crop_min, jitter, gray_p):
    write_photos(tmp_path / "photos", ("a",), 6)
    made = made_by(monkeypatch, method)
    train = ("pretrain", method, "--data", "./photos", "--image-size", "16", "--epochs", "1", "--batch-size", "4")
    code, _, err = run(capsys, *train, "--quiet", *options)
    assert code == 0, err
    for view in made[0].transform.recipe.views:
        assert (view.size, view.scale, view.jitter, view.gray_p) == (16, (crop_min, 1.0), jitter, gray_p)


def test_only_large_views_take_the_least_crop(capsys, tmp_path, monkeypatch):
    write_photos(tmp_path / "photos", ("a",), 6)
    made = made_by(monkeypatch, "swav")
    train = ("pretrain", "swav", "--data", "./photos", "--image-size", "16", "--epochs", "1", "--batch-size", "4")
    code, _, err = run(capsys, *train, "--quiet", "--local-views", "2", "--crop-min", "0.4")
    assert code == 0, err
    recipe = made[0].transform.recipe
    assert recipe.sizes == ((16, 16),) * 2 + ((8, 8),) * 2
    assert [view.scale for view in recipe.views] == [(0.4, 1.0)] * 2 + [(0.1, 0.3)] * 2
    assert {view.gray_p for view in recipe.views} == {0.8}


def test_views_of_the_default_recipe(capsys, tmp_path, monkeypatch):
    """Of grey digits, and of methods whose small images want nothing else."""
    made = made_by(monkeypatch, "byol")
    assert run(capsys, "pretrain", "byol", "--data", "digits", "--epochs", "1", "--knn-every", "0", "--quiet")[0] == 0
    assert made[0].transform is None
    assert json.loads((tmp_path / "runs/byol-digits/config.json").read_text())["settings"]["batch_size"] == 64


def test_a_vision_transformer_is_made_for_the_images(capsys, tmp_path):
    write_photos(tmp_path / "photos", ("a",), 6)
    train = ("pretrain", "mocov3", "--data", "./photos", "--image-size", "32", "--epochs", "1", "--batch-size", "4")
    code, _, err = run(capsys, *train, "--encoder", "vit_tiny_patch16_224", "--quiet")
    assert code == 0, err
    (recipe,) = (json.loads(path.read_text())["timm"] for path in tmp_path.glob("runs/*/encoder.json"))
    assert (recipe["init"], recipe["kwargs"]) == ("mocov3", {"img_size": 32})


def test_the_command_line_knows_what_the_methods_take():
    """Names and defaults; they are written down twice, as help does not wait for torch."""
    assert _cli_methods.METHODS.keys() == methods.METHODS.keys()
    for name, known in _cli_methods.METHODS.items():
        arguments = {}
        for parent in reversed(methods.METHODS[name].__mro__[:-1]):
            arguments.update(inspect.signature(parent.__init__).parameters)
        for option in known.options:
            assert option.default == arguments[option.name].default, f"{name}: {option.name}"
        names = [option.name for option in (*known.options, *known.views)]
        assert len(set(names)) == len(names)


def test_help_does_not_import_torch():
    script = (
        "import sys\n"
        "from fastssl import cli\n"
        "try: cli.main(['pretrain', 'byol', '--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--hidden-dim" in done.stdout


def test_evaluate_by_fine_tuning(capsys, tmp_path):
    train = ("pretrain", "mae", "--data", "digits", "--epochs", "1", "--knn-every", "0", "--quiet")
    assert run(capsys, *train)[0] == 0
    code, out, err = run(
        capsys,
        "evaluate",
        "runs/mae-digits",
        "--finetune",
        "--finetune-epochs",
        "1",
        "--labels-per-class",
        "3",
        "--subsets",
        "1",
    )
    assert code == 0, err
    assert "fine-tuned, 3 labels a class" in out
    table = json.loads((tmp_path / "runs" / "mae-digits" / "evaluation.json").read_text())
    assert set(table["trained encoder"]) - set(table["pixels"]) == {"finetune"}
    assert set(table["trained encoder"]) == set(table["untrained encoder"])
    assert table["trained encoder"]["finetune"]["protocol"]["epochs"] == 1


def write_photos(folder, classes, count):
    """Photographs of different sizes, one colour a class and noise."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 100, (40 + i, 60 - 2 * i, 3), dtype=np.uint8)
            pixels[..., label] += 120
            Image.fromarray(pixels).save(folder / name / f"{i}.jpg")


@pytest.mark.parametrize("workers", ["0", "2"])
def test_pretrain_on_a_folder_of_photographs(capsys, tmp_path, monkeypatch, workers):
    write_photos(tmp_path / "photos", ("red", "green"), 10)
    seen = []
    call = transforms.Transform.__call__
    monkeypatch.setattr(
        transforms.Transform, "__call__", lambda self, x: seen.append((x, call(self, x))) or seen[-1][1]
    )
    code, out, err = run(
        capsys, "pretrain", "simclr", "--data", "./photos", "--image-size", "16", "--epochs", "1", "--batch-size", "8",
        "--workers", workers, "--decode-size", "20", "--out", "run", "--quiet",
    )  # fmt: skip
    assert code == 0, err
    assert "16 images 3x16x16, 2 classes" in out
    (images, views), *_ = (call for call in seen if isinstance(call[0], RaggedImages))  # pictures.png's are not
    assert len(images) == 8
    # The crops come from the photographs, here decoded at half their size; the views have the image size.
    assert 20 <= images.sizes.min() < images.sizes.max() <= 30
    assert [view.shape for view in views] == [(8, 3, 16, 16)] * 2
    code, out, err = run(
        capsys, "evaluate", "run", "--k", "3", "--labels-per-class", "2", "--all", "--finetune-epochs", "1",
        "--subsets", "1",
    )  # fmt: skip
    assert code == 0, err
    table = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert table["pixels"]["knn"]["accuracy"] == 1
    assert len(table["untrained encoder"]["label_efficiency"]["curves"]["from scratch"]) == 3
    assert "\nfrom scratch, 5 labels a class " in out
    assert "written  run/label_efficiency.png" in out


def test_augment_draws_a_contact_sheet(capsys, tmp_path):
    write_photos(tmp_path / "photos", ("a",), 6)
    code, out, err = run(capsys, "augment", "--recipe", "dino", "photos", "photos/a/5.jpg")
    assert code == 0, err
    assert "DINO(views 2 of 224x224, 8 of 96x96; bicubic)" in out
    assert "written  views-dino.png" in out
    sheet = Image.open(tmp_path / "views-dino.png")
    assert f"{sheet.width} x {sheet.height} pixels" in out
    assert 5 * 224 < sheet.height < 6 * 224  # four of the folder, and the file
    sizes = []
    for seed, rounding in (("1", "none"), ("1", "none"), ("2", "none"), ("1", "uint8")):
        code, _, err = run(
            capsys, "augment", "--recipe", "simclr", "--size", "64", "--seed", seed, "--rounding", rounding, "--out",
            "sheets/of/a.png", "photos/a/5.jpg",
        )  # fmt: skip
        assert code == 0, err
        sizes.append((tmp_path / "sheets" / "of" / "a.png").read_bytes())
    assert sizes[0] == sizes[1]
    assert len(set(sizes)) == 3


def test_every_recipe_has_its_name_on_the_command_line():
    assert tuple(transforms.RECIPES) == cli._RECIPES


@pytest.mark.parametrize(
    ("argv", "code", "says"),
    [
        ((), 2, "the following arguments are required: COMMAND"),
        (("train",), 2, "invalid choice: 'train'"),
        (("pretrain", "simclr"), 2, "the following arguments are required: --data"),
        (("pretrain", "gan", "--data", "digits"), 2, "invalid choice: 'gan' (choose from"),
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
        (("pretrain",), 2, "the following arguments are required: METHOD"),
        (("pretrain", "mae", "--data", "digits", "--temperature", "1"), 2, "unrecognized arguments: --temperature 1"),
        (("pretrain", "simclr", "--data", "digits", "--mask-ratio", "1"), 2, "unrecognized arguments: --mask-ratio 1"),
        (("pretrain", "mae", "--data", "digits", "--mask-ratio", "1"), 1, "mask_ratio: got 1.0"),
        (("pretrain", "mae", "--data", "digits", "--decoder-dim", "6"), 1, "decoder_dim: got 6, want a multiple of 4"),
        (
            ("pretrain", "simmim", "--data", "digits", "--encoder", "resnet18"),
            1,
            "encoder: got 'resnet18', which takes no img_size",
        ),
        (("pretrain", "mae", "--data", "digits", "--encoder", "small-resnet"), 1, "encoder: got ResNet, want a Vision"),
        (("pretrain", "simmim", "--data", "digits", "--mask-patch-size", "3"), 1, "mask_patch_size: got 3, want"),
        (("pretrain", "dae", "--data", "digits", "--corruption", "salt"), 2, "invalid choice: 'salt'"),
        (("pretrain", "dae", "--data", "digits", "--strength", "-1"), 1, "strength: got -1.0"),
        (("pretrain", "byol", "--data", "digits", "--momentum", "1"), 1, "momentum: got 1.0, want a number in [0, 1)"),
        (("pretrain", "byol", "--data", "digits", "--temperature", "1"), 2, "unrecognized arguments: --temperature 1"),
        (("pretrain", "simsiam", "--data", "digits", "--momentum", ".9"), 2, "unrecognized arguments: --momentum .9"),
        (("pretrain", "mocov3", "--data", "digits", "--temperature", "0"), 1, "temperature: got 0.0"),
        (("pretrain", "byol", "--data", "digits", "--crop-min", "0"), 1, "crop_min: got 0.0, want a number in (0, 1]"),
        (("pretrain", "byol", "--data", "digits", "--jitter", "1", "1"), 2, "argument --jitter: expected 4 arguments"),
        (("pretrain", "byol", "--data", "digits", "--gray-p", "2"), 1, "gray_p: got 2.0, want a probability in [0, 1]"),
        (("evaluate", "missing/run"), 1, "folder: got 'missing/run'"),
        (("pretrain", "simclr", "--data", "./photos", "--decode-size", "0"), 1, "decode_size: got 0"),
        (("augment", "photo.png"), 2, "the following arguments are required: --recipe"),
        (("augment", "--recipe", "dino"), 2, "the following arguments are required: IMAGE"),
        (("augment", "--recipe", "dinosaur", "photo.png"), 2, "invalid choice: 'dinosaur' (choose from"),
        (("augment", "--recipe", "dino", "missing.png"), 1, "image: no file or folder 'missing.png'"),
        (("augment", "--recipe", "dino", "."), 1, "image: no image files under '.'"),
        (("augment", "--recipe", "dino", "--size", "0", "."), 1, "size: got 0, want an int >= 1"),
        (("augment", "--recipe", "dino", "--out", "views.txt", "."), 1, "out: got 'views.txt', want a name that ends"),
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
    code, _, err = run(capsys, "pretrain", "simclr", "--data", "./photos")
    assert code == 1
    assert "fastssl: error: data: none of the 1 image files" in err


def test_a_file_that_is_no_image(capsys, tmp_path):
    (tmp_path / "a.png").write_bytes(b"no")
    code, _, err = run(capsys, "augment", "--recipe", "mae", "a.png")
    assert code == 1
    assert err == "fastssl: error: image: got 'a.png', which cannot be read as an image\n"
    assert not (tmp_path / "views-mae.png").exists()


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
    pretrains = [("pretrain", method) for method in methods.METHODS]
    others = ("pretrain", "evaluate", "export", "compare", "report", "augment", "bench", "info")
    for command in (*pretrains, *((name,) for name in others)):
        code, out, _ = run(capsys, *command, "--help")
        assert code == 0
        assert "default: None" not in out
    assert run(capsys, "--version")[1].startswith("fastssl ")


def test_the_module_runs_as_a_process():
    done = subprocess.run([sys.executable, "-m", "fastssl.cli", "evaluate", "nowhere"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("fastssl: error: ")
    assert "Traceback" not in done.stderr
