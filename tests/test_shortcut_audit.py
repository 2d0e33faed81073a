"""Shortcut audit: what looks at pixels falls for planted cues, what is blind to them does not care."""

from __future__ import annotations

import pytest
import torch
from judging import bars, check_result
from torch import nn

from fastssl import data, evaluate, methods
from fastssl.evaluate import CuedImages, cues


class Centre(nn.Module):
    """Sees the middle alone, where no watermark is."""

    def forward(self, x):
        return x[:, :, 2:-2, 2:-2].flatten(1)


class Green(nn.Module):
    """Sees the one channel that a chromatic shift leaves in its place."""

    def forward(self, x):
        return x[:, 1].flatten(1)


class Untinted(nn.Module):
    """Sees each channel without its mean, which is all that a tint moves where nothing is cut."""

    def forward(self, x):
        return (x - x.mean((2, 3), keepdim=True)).flatten(1)


def pictures(n, seed, size=12):
    """Noise of middle brightness with a patch whose quarter tells the class a little: there is something to learn."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 4
    images = torch.randint(60, 200, (n, 3, size, size), generator=generator)
    half = size // 2
    for i, label in enumerate(labels.tolist()):
        top, left = (label // 2) * (half - 2) + 2, (label % 2) * (half - 2) + 2
        images[i, :, top : top + half - 2, left : left + half - 2] -= 15
    return data.TensorImages(images.to(torch.uint8), labels)


TRAIN, TEST = pictures(400, 0), pictures(200, 1)
BLIND = {"watermark": Centre(), "tint": Untinted(), "chromatic shift": Green()}


@pytest.mark.parametrize("name", cues.CUES)
def test_pixels_fall_for_a_cue_and_the_blind_do_not(name):
    cue = {name: cues.CUES[name]}
    fallen = evaluate.shortcut_audit(None, TRAIN, TEST, cues=cue).accuracies[name]
    blind = evaluate.shortcut_audit(BLIND[name], TRAIN, TEST, cues=cue).accuracies[name]
    if name != "chromatic shift":  # which a linear classifier of pixels cannot read from noise; see below
        assert fallen["with"] > 0.95
        assert fallen["against"] < 0.15
        assert fallen["followed"] > 0.85
        assert fallen["without"] <= fallen["clean"]
    for way in ("with", "without", "against"):
        assert blind[way] == pytest.approx(blind["clean"], abs=0.03), way
    assert blind["clean"] > 0.5


def test_a_shift_is_told_by_what_compares_channels():
    """The correlation of red with green, moved by a pixel to either side, tells the direction."""

    class Correlations(nn.Module):
        def forward(self, x):
            red, green, blue = (x - x.mean((2, 3), keepdim=True)).unbind(1)
            moved = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
            return torch.stack(
                [(part.roll(move, (1, 2)) * green).mean((1, 2)) for part in (red, blue) for move in moved], 1
            )

    def grey(n, seed):
        generator = torch.Generator().manual_seed(seed)
        images = torch.randint(0, 256, (n, 1, 16, 16), generator=generator).expand(-1, 3, -1, -1)
        return data.TensorImages(images.contiguous().to(torch.uint8), torch.arange(n) % 8)

    result = evaluate.shortcut_audit(Correlations(), grey(200, 0), grey(80, 1), cues={"shift": cues.chromatic_shift})
    found = result.accuracies["shift"]
    assert found["with"] > 0.95
    assert found["followed"] > 0.95
    assert found["clean"] < 0.3


def test_an_encoder_may_be_trained_on_the_cue():
    seen = []

    def pretrain(images):
        seen.append(images)
        return Centre()

    chosen = {"watermark": cues.watermark, "tint": cues.tint}
    result = evaluate.shortcut_audit(None, TRAIN, TEST, cues=chosen, pretrain=pretrain)
    assert list(result.accuracies) == list(chosen)
    assert [len(images) for images in seen] == [400, 400]
    for images, cue in zip(seen, chosen.values(), strict=True):
        assert torch.equal(images.batch([3, 5])[0], cue(TRAIN.images[[3, 5]], TRAIN.labels[[3, 5]], 1.0))
    kept = check_result(result, "cues", "strength", "encoder", "normalisation", "classifier", "l2", "against", "seed")
    assert "trained on each cue by" in kept["protocol"]["encoder"]
    assert list(kept["scores"])[:3] == ["watermark, with", "watermark, without", "watermark, against"]


def test_the_seed_draws_the_wrong_cues_and_the_encoder_stays():
    encoder = methods.small_resnet(3, 12).train()
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    weak = {"cues": {"tint": cues.tint}, "strength": 0.3}
    runs = [evaluate.shortcut_audit(encoder, TRAIN, TEST, seed=seed, **weak) for seed in (0, 0, 1)]
    assert runs[0].accuracies == runs[1].accuracies
    ways = [[run.accuracies["tint"][way] for way in ("against", "followed")] for run in runs]
    assert ways[0] != ways[2]
    assert encoder.training
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())


def test_features_that_are_known_already():
    clean = evaluate.features(None, TRAIN), evaluate.features(None, TEST)
    chosen = {"watermark": cues.watermark}
    known = evaluate.shortcut_audit(None, TRAIN, TEST, cues=chosen, clean=clean)
    assert known.accuracies == evaluate.shortcut_audit(None, TRAIN, TEST, cues=chosen).accuracies


def test_grey_images_get_the_watermark_alone():
    assert list(evaluate.shortcut_audit(None, bars(60, 0), bars(30, 1)).accuracies) == ["watermark"]


def test_cued_images_are_the_images_but_for_the_cue():
    wrong = (TEST.labels + 1) % 4
    cued = CuedImages(TEST, cues.tint, wrong)
    images, labels = cued.batch([1, 7])
    assert torch.equal(labels, TEST.labels[[1, 7]])
    assert torch.equal(images, cues.tint(TEST.images[[1, 7]], wrong[[1, 7]]))
    assert torch.equal(cued[7][0], images[1])
    assert torch.equal(cued.take([1, 7]).batch([0, 1])[0], images)
    assert (cued.classes, cued.channels, cued.image_size, len(cued)) == (TEST.classes, 3, 12, 200)


@pytest.mark.parametrize("name", cues.CUES)
@pytest.mark.parametrize("size", [(8, 8), (9, 13), (64, 32)])
def test_a_cue_is_that_of_its_label(name, size):
    cue, generator = cues.CUES[name], torch.Generator().manual_seed(0)
    one = torch.randint(0, 256, (1, 3, *size), generator=generator, dtype=torch.uint8)
    images, labels = one.repeat(12, 1, 1, 1), torch.arange(12)
    cued = cue(images, labels, 1.0)
    assert (cued.shape, cued.dtype) == (images.shape, torch.uint8)
    assert torch.equal(cued, cue(images, labels, 1.0))
    assert torch.equal(cue(images[3:5], labels[3:5], 1.0), cued[3:5])
    assert len({row.numpy().tobytes() for row in cued}) == 12
    assert torch.equal(cue(images, labels, 0.0), images)
    assert torch.equal(images, one.repeat(12, 1, 1, 1))


def test_watermarks_cover_an_eighth_on_the_border():
    images = torch.full((120, 1, 32, 32), 100, dtype=torch.uint8)
    cued = cues.watermark(images, torch.arange(120))
    assert len({row.numpy().tobytes() for row in cued}) == 120
    changed = cued != images
    assert torch.equal(changed.sum((1, 2, 3)), torch.full((120,), 16))
    assert not changed[:, :, 4:-4, 4:-4].any()
    half = cues.watermark(images, torch.arange(120), 0.5).int() - 100
    torch.testing.assert_close(half, ((cued.int() - 100) / 2).round().int(), rtol=0, atol=1)


def test_tints_move_whole_channels_by_the_hue():
    images = torch.full((5, 3, 4, 4), 128, dtype=torch.uint8)
    moved = cues.tint(images, torch.arange(5)).float().mean((2, 3)) - 128
    assert torch.equal(moved[0], torch.tensor([32.0, -16.0, -16.0]))  # red
    assert moved.abs().max() <= 32
    torch.testing.assert_close(moved.sum(1), torch.zeros(5), rtol=0, atol=1.5)
    double = cues.tint(images, torch.arange(5), 2.0).float().mean((2, 3)) - 128
    torch.testing.assert_close(double, 2 * moved, rtol=0, atol=1.5)


def test_shifts_move_red_and_blue_against_each_other():
    images = torch.randint(0, 256, (9, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    cued = cues.chromatic_shift(images, torch.arange(9))
    assert torch.equal(cued[:, 1], images[:, 1])
    assert torch.equal(cued[0, 0, :, 1:], images[0, 0, :, :-1])  # red to the right
    assert torch.equal(cued[0, 2, :, :-1], images[0, 2, :, 1:])  # blue to the left
    assert torch.equal(cued[0, 0, :, 0], images[0, 0, :, 0])  # the edge goes on
    assert torch.equal(cued[1, 0, 1:], images[1, 0, :-1])
    assert torch.equal(cued[8, 0, :, 2:], images[8, 0, :, :-2])  # the first direction again, twice as far


GREY = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
RGB = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
ONES = torch.ones(2, dtype=torch.int64)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: cues.tint(GREY, ONES), ValueError, "images: got 1 channel, want 3: a grey image has no colours"),
        (lambda: cues.chromatic_shift(GREY, ONES), ValueError, "images: got 1 channel, want 3"),
        (lambda: cues.tint(RGB.float(), ONES), TypeError, r"images: got torch.float32, want a uint8 tensor"),
        (lambda: cues.tint(RGB[0], ONES), ValueError, r"images: got shape \(3, 8, 8\)"),
        (lambda: cues.tint(RGB, ONES[:1]), ValueError, r"labels: got torch.int64 \(1,\), want int64 \(2,\)"),
        (lambda: cues.watermark(RGB, ONES, 1.5), ValueError, r"strength: got 1.5, want a number in \[0, 1\]"),
        (lambda: cues.tint(RGB, ONES, -1), ValueError, "strength: got -1, want a number >= 0"),
        (lambda: evaluate.shortcut_audit(None, TRAIN, TEST, cues={}), ValueError, "cues: got none"),
        (lambda: evaluate.shortcut_audit(None, TRAIN, TEST, l2=0), ValueError, "l2: got 0"),
        (
            lambda: evaluate.shortcut_audit(Green(), TRAIN, TEST, pretrain=lambda x: Green()),
            ValueError,
            "encoder: got one as well as pretrain, want None",
        ),
        (
            lambda: evaluate.shortcut_audit(None, bars(6, 0, 1), bars(6, 0, 1)),
            ValueError,
            "train: got images of 1 class",
        ),
    ],
)
def test_bad_input(call, error, says):
    with pytest.raises(error, match=says):
        call()


def test_the_plot(tmp_path):
    result = evaluate.shortcut_audit(None, TRAIN, TEST)
    path = evaluate.plots.shortcut_audit(result, tmp_path / "new" / "audit.png", "pictures", chance=0.25)
    assert path.read_bytes().startswith(b"\x89PNG")
