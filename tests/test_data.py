"""The data sets: what they hold, that they never change, and what a broken folder says."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from fastssl import data, evaluate


def write_images(folder, count, size=(20, 16), seed=0):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for i in range(count):
        Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(folder / f"{i:03}.png")


def test_digits_are_scaled_split_and_stratified():
    train, test = data.load("digits"), data.load("digits", split="test")
    assert train.images.shape == (1442, 1, 8, 8)
    assert len(test) == 355
    assert len(data.load("digits", split="all")) == 1797
    assert train.images.dtype == torch.uint8
    assert train.images.max() == 255
    assert train.labels.dtype == torch.int64
    shares = test.labels.bincount() / (test.labels.bincount() + train.labels.bincount())
    assert (shares - 0.2).abs().max() < 0.01
    seen = {bytes(image.numpy()) for image in train.images}
    assert sum(bytes(image.numpy()) in seen for image in test.images) == 0


def test_shapes_depend_on_the_seed_alone():
    first, again, other = data.shapes(200, seed=3), data.shapes(200, seed=3), data.shapes(200, seed=4)
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.images, other.images)
    assert first.images.shape == (200, 3, 32, 32)
    assert first.images.dtype == torch.uint8
    assert first.labels.bincount().tolist() == [20] * 10


def test_shapes_defeat_raw_pixels():
    train, test = data.load("shapes"), data.load("shapes", split="test")
    assert evaluate.knn(None, train, test).accuracy < 0.3
    assert evaluate.linear_probe(None, train, test, labels_per_class=50, subsets=1).accuracy < 0.2


def test_shape_and_nuisances_are_independent():
    images = data.shapes(4000, seed=0)
    colour = images.images.float().mean((2, 3))
    means = torch.stack([colour[images.labels == c].mean(0) for c in range(10)])
    standard_error = colour.std(0) / 20
    assert ((means - colour.mean(0)).abs() < 4.5 * standard_error).all()


def test_a_folder_of_classes(tmp_path):
    write_images(tmp_path / "cat", 10, (20, 16), seed=1)
    write_images(tmp_path / "dog", 10, (9, 30), seed=2)
    train, test = (data.load(tmp_path, split=split, image_size=12) for split in ("train", "test"))
    assert train.classes == ("cat", "dog")
    assert (len(train), len(test)) == (16, 4)
    assert train.images.shape == (16, 3, 12, 12)
    assert test.labels.tolist() == [0, 0, 1, 1]
    again = data.load(tmp_path, split="train", image_size=12)
    assert torch.equal(train.images, again.images)


def test_a_folder_that_is_split_already(tmp_path):
    for part, count in (("train", 3), ("val", 2)):
        for name in ("a", "b"):
            write_images(tmp_path / part / name, count)
    assert len(data.load(tmp_path, image_size=8)) == 6
    assert len(data.load(tmp_path, split="test", image_size=8)) == 4
    assert len(data.load(tmp_path, split="all", image_size=8)) == 10


def test_a_flat_folder_is_unlabelled(tmp_path):
    write_images(tmp_path, 4)
    images = data.load(tmp_path, image_size=8)
    assert not images.labelled
    assert images.labels.tolist() == [-1] * 4
    with pytest.raises(ValueError, match="no labels"):
        data.load(tmp_path, split="test", image_size=8)


def test_corrupt_files_are_reported_once_and_skipped(tmp_path):
    write_images(tmp_path / "a", 4)
    (tmp_path / "a" / "broken.jpg").write_bytes(b"not an image")
    whole = (tmp_path / "a" / "000.png").read_bytes()
    (tmp_path / "a" / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.warns(UserWarning, match=r"skipped 2 of 6 .*broken\.jpg.*cut\.png") as caught:
        images = data.load(tmp_path, split="all", image_size=8)
    assert len(caught) == 1
    assert len(images) == 4


def test_a_large_folder_stays_on_disk(tmp_path, monkeypatch):
    write_images(tmp_path / "a", 6)
    (tmp_path / "a" / "zero.png").write_bytes(b"")
    with pytest.warns(UserWarning, match="skipped 1 of 7"):
        in_memory = data.load(tmp_path, split="all", image_size=8)
    monkeypatch.setattr(data, "IN_MEMORY_FILES", 3)
    whole = (tmp_path / "a" / "001.png").read_bytes()
    (tmp_path / "a" / "001.png").write_bytes(whole[: len(whole) // 2])  # the header is whole, the pixels are not
    with pytest.warns(UserWarning, match="skipped 1 of 7"):
        on_disk = data.load(tmp_path, split="all", image_size=8)
    assert isinstance(on_disk, data.FolderImages)
    assert len(on_disk) == 6
    with pytest.warns(UserWarning, match=r"cannot decode .*001\.png"):
        batch, labels = on_disk.batch([0, 1])
    assert batch.dtype == torch.uint8
    assert torch.equal(batch[0], in_memory.images[0])
    assert torch.equal(batch[1], in_memory.images[2])
    assert labels.tolist() == [0, 0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # reported once
        on_disk.batch([1])


def test_a_loader_gives_uint8_batches_with_and_without_workers(tmp_path):
    write_images(tmp_path / "a", 5)
    images = data.load(tmp_path, split="all", image_size=8)
    batches = [[0, 1, 2], [3, 4]]
    here = list(data.loader(images, batches))
    there = list(data.loader(images, batches, workers=2))
    for (x, y), (u, v) in zip(here, there, strict=True):
        assert x.dtype == torch.uint8
        assert torch.equal(x, u)
        assert torch.equal(y, v)


def test_taking_some_images():
    images = data.load("digits")
    some = images.take([5, 2, 9])
    assert torch.equal(some.batch([0, 2])[0], images.images[[5, 9]])
    assert some.labels.tolist() == images.labels[[5, 2, 9]].tolist()
    assert torch.equal(some[1][0], images[2][0])


@pytest.mark.parametrize(
    ("source", "kwargs", "error", "says"),
    [
        ("nowhere/at/all", {}, FileNotFoundError, "data: .*nowhere/at/all.*'digits' and 'shapes'"),
        (5, {}, TypeError, "data: got int"),
        ("digits", {"split": "validation"}, ValueError, "split: got 'validation', want 'train', 'test' or 'all'"),
        ("digits", {"image_size": 32}, ValueError, "image_size: got 32 for 'digits', want 8"),
        ("shapes", {"image_size": -1}, ValueError, "image_size: got -1"),
        ("shapes", {"image_size": 4}, ValueError, "image_size: got 4, want an int >= 8"),
    ],
)
def test_bad_input(source, kwargs, error, says):
    with pytest.raises(error, match=says):
        data.load(source, **kwargs)


def test_folders_without_images(tmp_path):
    with pytest.raises(ValueError, match="data: no image files under"):
        data.load(tmp_path)
    file = tmp_path / "notes.txt"
    file.write_text("")
    with pytest.raises(NotADirectoryError, match="data: got the file"):
        data.load(file)
    (tmp_path / "a.png").write_bytes(b"no")
    with (
        pytest.warns(UserWarning, match="skipped 1"),
        pytest.raises(ValueError, match="data: none of the 1 image files"),
    ):
        data.load(tmp_path)


@pytest.mark.parametrize(
    ("images", "labels", "error", "says"),
    [
        (torch.zeros(2, 3, 4, 4), None, TypeError, "images: got torch.float32, want a uint8"),
        (torch.zeros(2, 3, 4, 5, dtype=torch.uint8), None, ValueError, r"images: got shape \[2, 3, 4, 5\]"),
        (torch.zeros(0, 3, 4, 4, dtype=torch.uint8), None, ValueError, "images: got 0"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(3).long(), ValueError, r"labels: .*want int64 \[2\]"),
    ],
)
def test_bad_tensors(images, labels, error, says):
    with pytest.raises(error, match=says):
        data.TensorImages(images, labels)
