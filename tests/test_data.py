"""The data sets: what they hold, that they never change, how batches travel, and what a broken folder says."""

from __future__ import annotations

import io
import pickle
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from fastssl import RaggedImages, data, evaluate


def write_images(folder, count, size=(20, 16), seed=0):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for i in range(count):
        Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(folder / f"{i:03}.png")


def write_formats(folder):
    """Files of every mode that decoding turns into RGB, of different sizes."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    pictures = {"a.jpg": (64, 48, 3), "b.png": (20, 31), "c.png": (9, 7, 4), "d.bmp": (1, 3, 3), "e.jpeg": (33, 64)}
    for name, (width, height, *channels) in pictures.items():
        smooth = rng.integers(0, 256, (3, 3, *channels), dtype=np.uint8)  # as JPEG likes it
        Image.fromarray(smooth).resize((width, height), Image.Resampling.BILINEAR).save(folder / name)
    Image.open(folder / "a.jpg").convert("P").save(folder / "f.gif")
    return sorted(folder.iterdir())


def decoded(file):
    """The file as PIL decodes it, uint8 [3, H, W]."""
    return torch.from_numpy(np.array(Image.open(file).convert("RGB"))).permute(2, 0, 1)


def shown(file, size):
    """The file as evaluation sees it: the shorter side resized, the centre cropped."""
    image = Image.open(file).convert("RGB")
    width, height = (max(size, round(side * size / min(image.size))) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(resized.crop((left, top, left + size, top + size)))).permute(2, 0, 1)


@pytest.fixture(params=["in memory", "on disk"])
def where(request, monkeypatch):
    if request.param == "on disk":
        monkeypatch.setattr(data, "IN_MEMORY_BYTES", 0)
    return request.param


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
    assert train.batch(range(16))[0].shape == (16, 3, 12, 12)
    assert test.labels.tolist() == [0, 0, 1, 1]
    again = data.load(tmp_path, split="train", image_size=12)
    assert torch.equal(train.batch(range(16))[0], again.batch(range(16))[0])


def test_training_gets_the_pixels_of_the_files(tmp_path, where):
    files = write_formats(tmp_path)
    images = data.load(tmp_path, image_size=8)
    assert images.in_memory == (where == "in memory")
    batch, labels = images.native_batch([3, 0, 1, 2, 5, 4, 3])
    assert isinstance(batch, RaggedImages)
    assert batch.sizes.tolist() == [[3, 1], [48, 64], [31, 20], [7, 9], [48, 64], [64, 33], [3, 1]]
    assert labels.tolist() == [-1] * 7
    for image, index in zip(batch, [3, 0, 1, 2, 5, 4, 3], strict=True):
        assert torch.equal(image, decoded(files[index]))
    assert torch.equal(images.take([4, 2]).native_batch([1])[0][0], decoded(files[2]))


def test_evaluation_gets_one_size(tmp_path, where):
    files = write_formats(tmp_path)
    images = data.load(tmp_path, image_size=16)
    batch, _ = images.batch(range(6))
    assert batch.shape == (6, 3, 16, 16)
    for image, file in zip(batch, files, strict=True):
        assert torch.equal(image, shown(file, 16))
    assert torch.equal(images[4][0], batch[4])


def test_images_of_one_size_are_trained_on_as_they_are():
    images = data.shapes(10)
    assert torch.equal(images.native_batch([3, 1])[0], images.images[[3, 1]])


def test_large_photographs_may_be_decoded_smaller(tmp_path, where):
    write_formats(tmp_path)
    sizes = data.load(tmp_path, decode_size=20).native_batch(range(6))[0].sizes
    assert sizes.tolist() == [[24, 32], [31, 20], [7, 9], [3, 1], [64, 33], [48, 64]]  # half of a.jpg
    assert data.load(tmp_path, decode_size=7).native_batch([0])[0].sizes.tolist() == [[12, 16]]


def test_memory_is_bounded_in_decoded_bytes(tmp_path, monkeypatch):
    write_images(tmp_path, 4, (20, 16))
    for most, fits in ((3840, True), (3839, False)):
        monkeypatch.setattr(data, "IN_MEMORY_BYTES", most)
        assert data.load(tmp_path).in_memory == fits


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
    assert in_memory.in_memory
    assert not on_disk.in_memory
    assert len(on_disk) == 6
    with pytest.warns(UserWarning, match=r"cannot decode .*001\.png"):
        batch, labels = on_disk.batch([0, 1])
    assert batch.dtype == torch.uint8
    assert torch.equal(batch, in_memory.batch([0, 2])[0])
    assert labels.tolist() == [0, 0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # reported once
        on_disk.batch([1])
        native, _ = on_disk.native_batch([0, 1])
    assert torch.equal(native[1], in_memory.native_batch([2])[0][0])


def test_a_loader_gives_the_same_batches_with_and_without_workers(tmp_path, where):
    write_formats(tmp_path / "a")
    images = data.load(tmp_path, split="all", image_size=8)
    batches = [[0, 1, 5], [3, 4]]
    for native in (False, True):
        here = list(data.loader(images, batches, native=native))
        there = list(data.loader(images, batches, workers=2, native=native))
        for (x, y), (u, v), indices in zip(here, there, batches, strict=True):
            assert isinstance(x, RaggedImages) == isinstance(u, RaggedImages) == native
            assert len(x) == len(u) == len(indices)
            for i, index in enumerate(indices):
                want = images.native_batch([index])[0][0] if native else images[index][0]
                assert torch.equal(x[i], want)
                assert torch.equal(u[i], want)
            assert torch.equal(y, v)
            assert y.tolist() == [0] * len(indices)


def test_an_ordinary_loader_works_too():
    images, labels = next(iter(torch.utils.data.DataLoader(data.load("digits"), batch_size=3)))
    assert images.shape == (3, 1, 8, 8)
    assert labels.tolist() == data.load("digits").labels[:3].tolist()


@pytest.fixture
def ragged():
    return RaggedImages.from_images([torch.arange(3 * h * w).view(3, h, w).byte() for h, w in ((5, 4), (2, 7), (1, 1))])


def test_a_ragged_batch_is_pickled(ragged):
    file = io.BytesIO()
    pickle.dump(ragged, file)
    file.seek(0)
    again = pickle.load(file)
    assert again.sizes.tolist() == [[5, 4], [2, 7], [1, 1]]
    assert all(torch.equal(a, b) for a, b in zip(ragged, again, strict=True))


def test_lightning_moves_a_ragged_batch(ragged):
    from lightning.fabric.utilities import move_data_to_device

    there, labels = move_data_to_device((ragged, torch.zeros(3)), torch.device("meta"))
    assert there.device == there.pixels.device == there.extents.device == labels.device == torch.device("meta")
    assert there.sizes.tolist() == ragged.sizes.tolist()  # the host keeps the sizes


def test_a_loader_pins_all_of_a_ragged_batch(ragged, monkeypatch):
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: pinned.append(x) or x.clone())  # as with a GPU
    from torch.utils.data._utils.pin_memory import pin_memory

    images, _ = pin_memory((ragged, torch.zeros(3)))
    assert pinned[0] is ragged.pixels
    assert pinned[1] is ragged.extents
    assert images.pixels is not ragged.pixels
    assert all(torch.equal(a, b) for a, b in zip(ragged, images, strict=True))


def test_taking_some_images():
    images = data.load("digits")
    some = images.take([5, 2, 9])
    assert torch.equal(some.batch([0, 2])[0], images.images[[5, 9]])
    assert some.labels.tolist() == images.labels[[5, 2, 9]].tolist()
    assert torch.equal(some[1][0], images[2][0])


@pytest.mark.parametrize(
    ("source", "kwargs", "error", "says"),
    [
        ("nowhere/at/all", {}, FileNotFoundError, "data: .*nowhere/at/all.*'digits', 'shapes'"),
        (5, {}, TypeError, "data: got int"),
        ("digits", {"split": "validation"}, ValueError, "split: got 'validation', want 'train', 'test' or 'all'"),
        ("digits", {"image_size": 32}, ValueError, "image_size: got 32 for 'digits', want 8"),
        ("shapes", {"image_size": -1}, ValueError, "image_size: got -1"),
        ("nowhere", {"decode_size": 0}, ValueError, "decode_size: got 0, want an int >= 1"),
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


def test_photos_have_two_classes_and_a_test_set_of_their_own():
    train, test = data.load("photos"), data.load("photos", split="test")
    assert train.images.shape == (2000, 3, 64, 64)
    assert test.images.shape == (400, 3, 64, 64)
    assert train.classes == ("china", "flower")
    assert train.labels.bincount().tolist() == [1000, 1000]
    assert data.load("photos", split="test", image_size=16).images.shape == (400, 3, 16, 16)
    assert len(data.load("photos", split="all", image_size=8)) == 2400
    seen = {bytes(image.numpy()) for image in train.images}
    assert not any(bytes(image.numpy()) in seen for image in test.images)
    again = data.photos(image_size=64)
    assert torch.equal(train.images, again.images)
    assert again.source == ""
    assert train.source == "photos"


def test_clips_depend_on_the_seed_alone():
    first, again, other = data.clips(3, 5, seed=3), data.clips(3, 5, seed=3), data.clips(3, 5, seed=4)
    assert first.clips.shape == (3, 5, 3, 64, 64)
    assert first.masks.shape == (3, 5, 64, 64)
    assert torch.equal(first.clips, again.clips)
    assert torch.equal(first.masks, again.masks)
    assert not torch.equal(first.clips, other.clips)


def test_objects_of_clips_move_and_keep_their_colours():
    clips = data.clips(50, 8, seed=1)
    assert clips.masks.unique().tolist() == [0, 1, 2]
    moved = (clips.masks[:, 0] != clips.masks[:, -1]) & (clips.masks[:, 0] > 0)
    assert moved.sum() > 0.3 * (clips.masks[:, 0] > 0).sum()
    # The one in front is all there in every frame, with the same mixture of its two colours.
    front = (clips.masks == 2)[:, :, None].float()
    mean = (clips.clips.float() * front).sum((3, 4)) / front.sum((3, 4)).clamp_min(1)
    drift = (mean - mean.mean(1, keepdim=True)).abs().mean()
    assert drift < 0.2 * (mean - mean.mean(0)).abs().mean()


def test_training_gets_whole_clips_and_evaluation_first_frames():
    clips = data.load("clips", split="test")
    assert repr(clips) == "Clips('clips', 100 clips of 8 frames 3x64x64)"
    assert not clips.labelled
    assert torch.equal(clips.batch([4, 2])[0], clips.clips[[4, 2], 0])
    assert torch.equal(clips.take([4, 2]).native_batch([1])[0], clips.clips[[2]])


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: data.clips(0), ValueError, "n: got 0"),
        (lambda: data.clips(1, 0), ValueError, "frames: got 0"),
        (lambda: data.clips(1, image_size=4), ValueError, "image_size: got 4"),
        (lambda: data.Clips(torch.zeros(1, 2, 3, 8, 8), None), TypeError, "clips: got torch.float32"),
        (lambda: data.Clips(torch.zeros(1, 2, 3, 8, 8).byte(), None), TypeError, "masks: got NoneType"),
        (
            lambda: data.Clips(torch.zeros(2, 3, 8, 8).byte(), torch.zeros(2, 8, 8).byte()),
            ValueError, "clips: got shape",
        ),
        (
            lambda: data.Clips(torch.zeros(1, 2, 3, 8, 8).byte(), torch.zeros(1, 1, 8, 8).byte()),
            ValueError, "masks: got shape",
        ),
    ],
)  # fmt: skip
def test_bad_clips(make, error, says):
    with pytest.raises(error, match=says):
        make()
