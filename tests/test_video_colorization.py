"""Video colourisation: the pointer's loss, what it costs to be right, clips made of images, training and tracking."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from small_methods import check_resume, uint8
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import fastssl
from fastssl import RaggedImages, data, evaluate, methods, transforms
from fastssl.methods._clips import moving, pick_frames
from fastssl.methods.video_colorization import point, pointer_loss


class Tiny(nn.Sequential):
    """Grey frames -> a map of half their height and width."""

    num_features = 16

    def __init__(self):
        layers, inner = [], 1
        for stride in (2, 1, 1):
            layers += [nn.Conv2d(inner, 16, 3, stride, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
            inner = 16
        super().__init__(*layers)


def make(seed=0, **options):
    torch.manual_seed(seed)
    return methods.VideoColorization(Tiny(), **{"embed_dim": 16, **options})


def formula(features, labels, temperature):
    """Softmax over all places of all references, and the probability of what is there, place by place."""
    b, _, h, w = features.shape[1:]
    losses = []
    for clip in range(b):
        keys = features[:-1, clip].movedim(1, -1).flatten(0, 2)
        for y in range(h):
            for x in range(w):
                scores = keys @ features[-1, clip, :, y, x] / temperature
                same = labels[:-1, clip].flatten() == labels[-1, clip, y, x]
                if same.any():
                    losses.append(-(scores.softmax(0)[same].sum()).log())
    return torch.stack(losses).mean()


@pytest.mark.parametrize("classes", [4, 20])
@pytest.mark.parametrize("frames", [2, 4])
def test_the_loss_is_the_formula(frames, classes):
    features = torch.randn(frames, 2, 8, 3, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(classes, (frames, 2, 3, 4))  # some of 20 colours are in no reference
    loss, want = pointer_loss(features, labels, classes, 0.7), formula(features, labels, 0.7)
    torch.testing.assert_close(loss, want)
    torch.testing.assert_close(*(torch.autograd.grad(x, features)[0] for x in (loss, want)))


def test_a_right_pointer_costs_nothing():
    """Where probabilities are taken for logits, the least that being right can cost is 1.8746."""
    labels = torch.arange(16).view(4, 4).expand(4, 2, 4, 4)
    features = 10 * nn.functional.one_hot(labels, 16).movedim(-1, 2).float()
    assert pointer_loss(features, labels, 16).item() < 1e-5
    values = nn.functional.one_hot(labels[:-1].transpose(0, 1).flatten(1), 16).float()
    pointed = point(features, values, 1.0)
    torch.testing.assert_close(pointed, nn.functional.one_hot(labels[-1].flatten(1), 16).float())
    taken_for_logits = nn.functional.cross_entropy(pointed.flatten(0, 1), labels[-1].flatten())
    assert (
        taken_for_logits.item() == pytest.approx(math.log(1 + 15 / math.e), abs=1e-4) == pytest.approx(1.8746, abs=1e-4)
    )


def test_pointing_anywhere_costs_the_entropy_of_the_colours():
    labels = torch.arange(16).repeat(4).view(1, 1, 8, 8).expand(4, 2, 8, 8)
    loss = pointer_loss(torch.zeros(4, 2, 8, 8, 8), labels, 16)
    assert loss.item() == pytest.approx(math.log(16), rel=1e-6)
    method = make()
    nn.init.zeros_(method.embed.weight)
    nn.init.zeros_(method.embed.bias)
    views = method.augment(data.clips(8, 4, image_size=16).clips)
    loss = method(views).item()
    labels = method.nearest(method.look(views)[1])
    shares = [labels[:-1, i].flatten().bincount(minlength=16) / labels[:-1, i].numel() for i in range(8)]
    nll = torch.stack([-share.log()[labels[-1, i]] for i, share in enumerate(shares)])
    assert loss == pytest.approx(nll[nll.isfinite()].mean().item(), rel=1e-5)


def test_places_without_an_answer_do_not_count():
    labels = torch.zeros(2, 1, 2, 2, dtype=torch.int64)
    labels[1, 0, 0, 0] = 3
    features = torch.randn(2, 1, 4, 2, 2, requires_grad=True)
    loss = pointer_loss(features, labels, 5)
    assert loss.item() == pytest.approx(0, abs=1e-6)
    labels[1] = 3
    loss = pointer_loss(features, labels, 5)
    loss.backward()
    assert loss.item() == 0
    assert not features.grad.any()


@pytest.mark.parametrize(("width", "classes"), [(64, 16), (8, 16)])
def test_no_scores_are_stored(width, classes):
    """Fused attention takes it, which alone is allowed here."""
    features, labels = torch.randn(4, 2, width, 8, 8, requires_grad=True), torch.randint(classes, (4, 2, 8, 8))
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        pointer_loss(features, labels, classes).backward()
    assert features.grad.isfinite().all()


def test_the_loss_is_taken_in_float32():
    features, labels = torch.randn(4, 2, 16, 4, 4), torch.randint(4, (4, 2, 4, 4))
    want = pointer_loss(features.bfloat16().float(), labels, 4)
    with torch.autocast("cpu", torch.bfloat16):
        found = pointer_loss(features.bfloat16(), labels, 4)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, want)


def test_clusters_are_those_of_the_first_batch_and_stay():
    method = make()
    views = [method.augment(data.clips(8, 4, seed=seed, image_size=16).clips) for seed in range(2)]
    method.eval()(views[0])
    assert not method.clusters.any()
    method.train()(views[0])
    first = method.clusters.clone()
    colors = method.look(views[0])[1].movedim(2, -1).reshape(-1, 2)
    near = torch.cdist(colors, first).amin(1).mean()
    assert near < 0.5 * (colors - colors.mean(0)).norm(dim=1).mean()
    method(views[1])
    assert torch.equal(first, method.clusters)
    twin = make(seed=1)
    twin.load_state_dict(method.state_dict())
    twin(views[1])
    assert torch.equal(first, twin.clusters)


def test_frames_follow_each_other():
    clips = data.clips(20, 8, image_size=16).clips
    torch.manual_seed(0)
    frames = pick_frames(clips, 4, None)
    assert len(frames) == 4
    first = []
    for i, clip in enumerate(clips):
        of_clip = transforms.normalize(clip)
        at = [int((of_clip - frame[i]).abs().flatten(1).amax(1).argmin()) for frame in frames]
        assert at == list(range(at[0], at[0] + 4))
        first.append(at[0])
    assert set(first) == set(range(5))
    assert pick_frames(clips, 8, 8)[0].shape == (20, 3, 8, 8)


def test_images_are_set_in_motion():
    view = transforms.normalize(data.shapes(8).images)
    torch.manual_seed(0)
    frames = moving(view, 4)
    assert [frame.shape for frame in frames] == [view.shape] * 4
    assert all(view.amin() - 1e-5 <= frame.min() <= frame.max() <= view.amax() + 1e-5 for frame in frames)
    steps = [(a - b).abs().mean() for a, b in itertools.pairwise(frames)]
    far = (frames[0] - frames[-1]).abs().mean()
    assert 0.02 < min(steps) <= max(steps) < far
    # Most of the first frame is the image itself; the rest is a piece of the next one.
    same = (frames[0] - view).abs().amax(1) < 1e-4
    assert (same.float().mean((1, 2)) > 0.4).all()
    assert not same.all()
    torch.manual_seed(0)
    assert all(torch.equal(a, b) for a, b in zip(frames, moving(view, 4), strict=True))


def test_clips_are_made_of_any_images():
    method = make(image_size=16)
    ragged = RaggedImages.from_images([uint8(3, 20, 30), uint8(3, 17, 9)])
    for images in (uint8(2, 3, 20, 20), ragged, uint8(2, 6, 3, 20, 20)):
        assert [view.shape for view in method.augment(images)] == [(2, 3, 16, 16)] * 4


def fit(method, out, **settings):
    clips = data.clips(48, 5, image_size=16)
    settings = {"epochs": 2, "batch_size": 16, "knn_every": 0, "progress": False, "accelerator": "cpu", **settings}
    return fastssl.fit(method, clips, out=out, **settings)


def test_runs_resume_bit_for_bit(tmp_path):
    state = check_resume(make, fit, tmp_path, step=4)
    assert state["clusters"].any()


def test_tracking_emerges():
    """Masks are carried further than by an untrained encoder, and than by leaving them where they are."""
    clips = data.clips(30, 6, seed=9, image_size=32)
    train = data.clips(120, 6, image_size=32)
    method = make()
    untrained = evaluate.label_propagation(copy.deepcopy(method.encoder), clips)
    optimizer = torch.optim.AdamW(method.parameters(), 5e-3)
    losses = []
    for _ in range(60):
        batch, _ = train.native_batch(torch.randint(120, (8,)))
        loss = method(method.augment(batch))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < 0.75 * sum(losses[:10])
    trained = evaluate.label_propagation(method.encoder, clips)
    assert trained.copied == untrained.copied
    assert trained.similarity > untrained.similarity + 0.1
    assert trained.similarity > trained.copied + 0.1


def test_pictures():
    method = make()
    images = uint8(3, 3, 16, 24)
    rows = method.pictures(images, seed=1)
    assert list(rows) == ["reference", "target in grey", "colours pointed at", "target"]
    assert all(row.shape == images.shape for row in rows.values())
    assert not torch.equal(rows["target"], method.pictures(images, seed=2)["target"])
    of_clips = method.pictures(data.clips(2, 4, image_size=16).clips)
    assert of_clips["target"].shape == (2, 3, 16, 16)


@pytest.mark.parametrize(
    ("make_it", "error", "says"),
    [
        (lambda: make(references=0), ValueError, "references: got 0"),
        (lambda: make(clusters=0), ValueError, "clusters: got 0"),
        (lambda: make(embed_dim=0), ValueError, "embed_dim: got 0"),
        (lambda: make(temperature=0.0), ValueError, "temperature: got 0"),
        (lambda: make().augment(uint8(2, 3, 3, 8, 8)), ValueError, "images: got clips of 3 frames, want at least 4"),
        (lambda: make()([torch.zeros(2, 3, 8, 8)]), ValueError, "views: got 1 frames"),
    ],
)
def test_bad_input(make_it, error, says):
    with pytest.raises(error, match=says):
        make_it()
