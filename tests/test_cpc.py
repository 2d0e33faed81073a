"""CPC on images and on signals: the loss by its formula, its defences as properties, and a few steps of training."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from small_methods import check_resume, fit, uint8
from torch import nn

import fastssl
from fastssl import data, evaluate, methods


def layer_normed(seed=0, in_chans=1):
    torch.manual_seed(seed)
    return methods.build_encoder(
        "resnet18",
        in_chans=in_chans,
        stem="small",
        layers=(1, 1, 1, 1),
        channels=(4, 4, 8, 8),
        norm_layer="layernorm2d",
    )


def of_images(seed=0, **kwargs):
    return methods.CPC(layer_normed(seed), **{"context_dim": 16, "grid": 3, **kwargs})


def of_signals(seed=0, **kwargs):
    torch.manual_seed(seed)
    encoder = methods.signal_encoder(1, 16, (8, 4), (4, 4))
    return methods.CPC(encoder, context_dim=16, **{"steps_ahead": 3, **kwargs})


def tones(n, length=256, seed=0):
    """Sines of four frequencies and any phase, in noise; the class is the frequency."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 4
    phase = 2 * math.pi * torch.rand(n, 1, generator=generator)
    cycles = torch.tensor([0.045, 0.05, 0.055, 0.06])[labels][:, None]
    x = (2 * math.pi * cycles * torch.arange(length) + phase).sin()
    return data.TensorSignals((x + torch.randn(x.shape, generator=generator))[:, None], labels)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("kind", ["images", "signals"])
def test_a_step_is_the_formula(kind, normalize):
    """In float64, with loops over the steps ahead and a softmax over candidates: no other axis gives this loss."""
    method = (of_images if kind == "images" else of_signals)(normalize=normalize, temperature=0.2).double()
    view = torch.randn((4, 1, 12, 12) if kind == "images" else (4, 1, 100), dtype=torch.float64)
    loss = method([view], seed=1)
    z = method.embed(view, seed=1)
    n, columns, steps, width = z.shape
    mixed = method.mix(z.permute(0, 3, 2, 1)).relu().permute(0, 3, 2, 1).reshape(n * columns, steps, -1)
    contexts, _ = method.context(mixed)
    z = z.reshape(n * columns, steps, width)
    by_row, by_column = [], []
    for k, predictor in enumerate(method.predictors, 1):
        p, later = (x.reshape(-1, width) for x in (predictor(contexts[:, : steps - k]), z[:, k:]))
        if normalize:
            p, later = (nn.functional.normalize(x) for x in (p, later))
        scores = p @ later.T / 0.2
        own = torch.arange(len(scores))
        by_row.append(nn.functional.cross_entropy(scores, own))
        by_column.append(nn.functional.cross_entropy(scores.T, own))
    assert loss.item() == pytest.approx(torch.stack(by_row).mean().item(), rel=1e-6)
    assert abs(loss.item() - torch.stack(by_column).mean().item()) > 1e-3


@pytest.mark.parametrize("kind", ["images", "signals"])
def test_chance_is_the_log_of_the_candidates(kind):
    method = (of_images if kind == "images" else of_signals)()
    for predictor in method.predictors:
        nn.init.zeros_(predictor.weight)
    view = torch.randn((4, 1, 8, 8) if kind == "images" else (4, 1, 100))
    sequences, steps = method.embed(view, seed=0).flatten(0, 1).shape[:2]
    assert (sequences, steps) == ((12, 3) if kind == "images" else (4, 6))
    chance = sum(math.log(sequences * (steps - k)) for k in range(1, len(method.predictors) + 1))
    assert method([view]).item() == pytest.approx(chance / len(method.predictors), rel=1e-6)


def test_the_patches_are_those_of_the_paper():
    method = methods.CPC(layer_normed())
    assert method.layout(256) == (60, -28, 2)
    patches, corners = method.cut(torch.randn(2, 1, 256, 256), seed=0)
    assert patches.shape == (2, 49, 1, 60, 60)
    rows = corners[0, :, 0].view(7, 7)
    assert ((rows - 32 * torch.arange(7)[:, None]) >= 0).all()
    assert ((rows - 32 * torch.arange(7)[:, None]) <= 4).all()
    assert len(set(corners.flatten().tolist())) > 14  # each is moved on its own


def test_a_context_knows_what_is_above_and_nothing_below():
    method = of_images(grid=4, jitter=0, standardize=False).eval()
    z = torch.randn(2, 4, 4, 8, requires_grad=True)  # sequences are columns
    first, second = method.predict(z)[:2]
    (seen,) = torch.autograd.grad(first.view(2, 4, 3, -1)[0, 1, 1].sum(), z, retain_graph=True)
    seen = seen.abs().sum(-1) > 0  # image, column, row
    assert not seen[1].any()
    assert seen[0, :3, :2].all()
    assert not seen[0, 3].any()
    assert not seen[0, :, 2:].any()
    assert second.shape == (8, 2, 8)


def tinted(n, seed):
    """Noise that no two patches share, in colours and a contrast that all patches of an image do."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(n, 3, 32, 32, generator=generator)
    tint, contrast = torch.randn(n, 3, 1, 1, generator=generator), torch.rand(n, 3, 1, 1, generator=generator) + 0.5
    return tint + contrast * noise


def retrieved(method, seed=0):
    """Share of the images whose lowest patch is found by a linear probe of colour and contrast of the topmost one."""

    def halves(n, seed):
        patches, _ = method.cut(tinted(n, seed), seed=seed)
        patches = patches.view(n, 3, 3, 3, -1)
        stats = torch.cat([patches.mean(-1), patches.std(-1)], -1)
        return stats[:, 0, 1], stats[:, 2, 1]  # the middle column

    above, below = halves(600, 1)
    weights = torch.linalg.lstsq(nn.functional.pad(above, (0, 1), value=1.0), below).solution
    above, below = halves(200, 2)
    guess = nn.functional.pad(above, (0, 1), value=1.0) @ weights
    found = torch.cdist(guess, below).argmin(1)
    return (found == torch.arange(200)).double().mean().item()


def test_colours_do_not_tell_which_image_a_patch_is_of():
    encoder = layer_normed(in_chans=3)
    defended = retrieved(methods.CPC(encoder, grid=3, jitter=1))
    open_to_it = retrieved(methods.CPC(encoder, grid=3, jitter=1, keep_channel_p=0, standardize=False))
    assert defended < 0.03  # chance is 0.005
    assert open_to_it > 0.25


def test_batch_norm_is_refused_unless_asked_for():
    with pytest.raises(ValueError, match=r"encoder: got batch norm, .*norm_layer='layernorm2d'"):
        methods.CPC(methods.small_resnet(1, 8))
    methods.CPC(methods.small_resnet(1, 8), batch_norm=True)
    named = methods.CPC("resnet10t", grid=2)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in named.encoder.modules())


def test_no_patch_knows_another():
    """The reason for layer norm: a patch has the same features whatever else is in the batch."""
    method = of_images(keep_channel_p=0)
    view = torch.randn(4, 1, 12, 12)
    torch.testing.assert_close(method.embed(view, seed=0)[:2], method.embed(view[:2], seed=0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["images", "signals"])
def test_the_loss_falls_and_the_pictures_fit(kind):
    if kind == "images":
        method, images = of_images(normalize=True, temperature=0.1), data.load("digits").images[:64]
    else:
        method, images = of_signals(), tones(64).signals
    optimizer = torch.optim.AdamW(method.parameters(), 4e-3)
    losses = []
    for _ in range(40):
        loss = method(method.augment(images))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.97 * sum(losses[:5])
    before = copy.deepcopy(method.state_dict())
    rows = method.pictures(images[:6])
    assert list(rows) == (["image", "seen", "predicted"] if kind == "images" else ["1 ahead", "3 ahead"])
    assert all(row.dtype == torch.float32 and 0 <= row.min() <= row.max() <= 1 for row in rows.values())
    assert all(torch.equal(before[key], value) for key, value in method.state_dict().items())
    assert all(torch.equal(row, method.pictures(images[:6])[name]) for name, row in rows.items())
    if kind == "signals":
        assert rows["1 ahead"].shape == (6, 1, 14, 14)
        return
    torch.testing.assert_close(rows["image"], images[:6] / 255, atol=1e-6, rtol=0)
    seen = slice(0, 6)  # two of three rows of patches of 4, each 2 below the last
    for row in ("seen", "predicted"):
        assert torch.equal(rows[row][:, :, seen], rows["image"][:, :, seen])
    assert (rows["seen"][:, :, 6:] == rows["seen"][0, 0, 7, 7]).all()
    assert not torch.equal(rows["predicted"], rows["seen"])


def test_predictions_of_what_is_there_show_it():
    """A method whose predictions are the futures themselves draws the image as it is."""

    class Pixels(nn.Flatten):
        num_features = 16

    method = methods.CPC(Pixels(), grid=3, jitter=0, normalize=True)
    method.predict = lambda z: [z.flatten(0, 1)[:, k:] for k in (1, 2)]
    images = uint8(5, 1, 8, 8)
    rows = method.pictures(images)
    assert torch.equal(rows["predicted"], rows["image"])


def test_signals_are_told_apart_by_their_frequency():
    train, test = tones(256), tones(128, seed=1)
    torch.manual_seed(0)
    method = methods.CPC(methods.signal_encoder(1, 32, (8, 8, 4), (4, 2, 2)), context_dim=32, steps_ahead=3)
    untrained = evaluate.knn(method.encoder, train, test, k=10).accuracy
    optimizer = torch.optim.AdamW(method.parameters(), 3e-3)
    for step in range(120):
        at = torch.randperm(256, generator=torch.Generator().manual_seed(step))[:64]
        loss = method(method.augment(train.signals[at]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    trained = evaluate.knn(method.encoder, train, test, k=10).accuracy
    assert trained > untrained + 0.1, (trained, untrained)


def test_a_run_resumes_bit_for_bit(tmp_path):
    check_resume(of_images, fit, tmp_path, step=7, images=320)


def test_signals_train_in_a_run(tmp_path):
    signals = tones(48)
    result = fastssl.fit(
        of_signals(), signals, epochs=2, batch_size=16, out=tmp_path, eval_data=(signals, tones(16, seed=1)),
        knn_every=1, progress=False, accelerator="cpu",
    )  # fmt: skip
    assert result.knn is not None
    for name in ("pictures.png", "embedding.png", "knn.png"):
        assert (tmp_path / name).stat().st_size > 0
    again = methods.load_encoder(tmp_path)
    assert torch.equal(again(signals.signals), result.method.encoder.eval()(signals.signals))


@pytest.mark.parametrize("kind", ["images", "signals"])
def test_autocast(kind):
    method = (of_images if kind == "images" else of_signals)()
    view = torch.randn((8, 1, 8, 8) if kind == "images" else (8, 1, 100))
    plain = method([view], seed=0)
    with torch.autocast("cpu", torch.bfloat16):
        half = method([view], seed=0)
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(plain.item(), rel=0.03)
    half.backward()


BAD = [
    (lambda: methods.CPC(5), TypeError, "encoder: got int"),
    (lambda: of_images(steps_ahead=0), ValueError, "steps_ahead: got 0"),
    (lambda: of_images(temperature=0), ValueError, "temperature: got 0"),
    (lambda: of_images(grid=1), ValueError, "grid: got 1"),
    (lambda: of_images(jitter=-1), ValueError, "jitter: got -1"),
    (lambda: of_images(keep_channel_p=2), ValueError, "keep_channel_p: got 2"),
    (lambda: of_images(context_dim=0), ValueError, "context_dim: got 0"),
    (
        lambda: of_images(grid=7)([torch.zeros(2, 1, 7, 7)]),
        ValueError,
        "views: got images of 7 pixels, want at least 8",
    ),
    (lambda: of_images()([torch.zeros(2, 1, 30)]), ValueError, r"views: got shape \(2, 1, 30\), want images"),
    (lambda: of_images()([]), ValueError, "views: got 0, want 1"),
    (lambda: of_signals()([torch.zeros(2, 1, 8, 8)]), ValueError, r"views: got shape \(2, 1, 8, 8\), want signals"),
    (lambda: of_signals()([torch.zeros(2, 1, 24)]), ValueError, "of which the encoder makes one step; want at least 2"),
    (lambda: of_signals().augment(uint8(2, 1, 8, 8)), ValueError, r"images: want signals \[B, C, T\]"),
    (lambda: methods.signal_encoder(0), ValueError, "in_chans: got 0"),
    (lambda: methods.signal_encoder(1, 8, (4,), (2, 2)), ValueError, "strides: got 2 for 1 kernels"),
    (lambda: data.TensorSignals(torch.zeros(2, 1, 8, dtype=torch.float64)), TypeError, "signals: got torch.float64"),
    (lambda: data.TensorSignals(torch.zeros(2, 8)), ValueError, r"signals: got shape \[2, 8\]"),
]


@pytest.mark.parametrize(("make", "error", "says"), BAD)
def test_bad_input(make, error, says):
    with pytest.raises(error, match=says):
        make()
