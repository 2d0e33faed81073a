"""Inpainting: its loss, whom it teaches what, the hole, and that its neighbours do not fill it."""

from __future__ import annotations

import copy
import math

import pretexts
import pytest
import torch
from sklearn.linear_model import Ridge
from small_methods import check_resume, fit, tiny, uint8
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from fastssl import RaggedImages, data, methods
from fastssl.methods.inpainting import Discriminator

SMALL = {"decoder_dim": 16, "discriminator_dim": 4, "image_size": 8}


def make(seed=0, **options):
    torch.manual_seed(seed)
    return methods.ContextEncoder(tiny(), **{**SMALL, **options})


def explained(seen, hidden):
    """The part of the variance of hidden pixels [n, k] that a linear probe of seen ones [n, j] explains: R^2."""
    half = len(seen) // 2
    probe = Ridge(10).fit(seen[:half], hidden[:half])
    return probe.score(seen[half:], hidden[half:])


def filled_by_a_probe(**options):
    """How well neighbours fill the middle of a hole in images of short textures."""
    method = methods.ContextEncoder(methods.small_resnet(), image_size=32, decoder_dim=16, **options)
    view = pretexts.woven(3000, 32)[:, :1]
    hidden, _ = method.hide(1, view.device)
    seen = view.masked_fill(hidden, 0)[:, 0, 8:24, 8:24].flatten(1)
    return explained(seen.numpy(), view[:, 0, 15:17, 15:17].flatten(1).numpy())


def test_a_large_hole_cannot_be_interpolated():
    """R^2, as what is to be told is numbers: none of the middle of the hole, and much of that of a small one."""
    assert filled_by_a_probe() < 0.02
    assert filled_by_a_probe(hole=1 / 8) > 0.5


@pytest.mark.parametrize("region", ["center", "blocks"])
def test_nothing_of_the_hole_reaches_the_encoder(region):
    method = methods.ContextEncoder(methods.small_resnet(1, 8), region, **SMALL).eval()
    view = torch.randn(6, 1, 8, 8)
    hidden, band = method.hide(6, view.device, seed=1)
    other = torch.where(hidden, torch.randn_like(view), view)
    assert not torch.equal(other, view)
    assert torch.equal(method.fill(view, hidden), method.fill(other, hidden))
    other = torch.where(band, torch.randn_like(view), view)
    assert not torch.equal(method.fill(view, hidden), method.fill(other, hidden))


def test_the_published_hole():
    method = methods.ContextEncoder(methods.small_resnet(), image_size=128)
    hidden, band = method.hide(2, torch.device("cpu"))
    want = torch.zeros(128, 128, dtype=torch.bool)
    want[36:92, 36:92] = True
    region = torch.zeros(128, 128, dtype=torch.bool)
    region[32:96, 32:96] = True
    assert torch.equal(hidden, want.expand(2, 1, 128, 128))
    assert torch.equal(band, (region & ~want).expand(2, 1, 128, 128))
    assert method.fill(torch.zeros(2, 3, 128, 128), hidden).shape == (2, 3, 64, 64)


@pytest.mark.parametrize("size", [7, (9, 14), 32])
def test_holes_of_any_size(size):
    method = make(image_size=size)
    hidden, band = method.hide(1, torch.device("cpu"))
    height, width = (size, size) if isinstance(size, int) else size
    region = hidden | band
    assert region.sum() == round(height / 2) * round(width / 2)
    view = torch.randn(2, 1, height, width)
    assert method([view]).isfinite()
    assert method.pictures(uint8(2, 1, height, width))["filled in"].shape == view.shape


def test_blocks():
    method = make(region="blocks", image_size=32)
    hidden, band = method.hide(200, torch.device("cpu"), seed=1)
    assert torch.equal(hidden, method.hide(200, torch.device("cpu"), seed=1)[0])
    assert not torch.equal(hidden, method.hide(200, torch.device("cpu"), seed=2)[0])
    assert hidden.float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert hidden.flatten(1).any(1).all()
    assert not (hidden & band).any()
    wide = nn.functional.pad(hidden, (1, 1, 1, 1))
    near = torch.stack([wide[..., y : y + 32, x : x + 32] for y in range(3) for x in range(3)]).any(0)
    assert torch.equal(hidden | band, near)
    places = hidden.float().mean((0, 1))
    assert places.min() > 0.02  # anywhere
    assert make(region="blocks", image_size=32, overlap=0).hide(3, torch.device("cpu"))[1].sum() == 0


def by_hand(method, view, hidden, band):
    """The two losses of the paper, in plain PyTorch."""
    top, left = (side.start for side in method.box[1:])
    made = method.decoder(method.encoder(torch.where(hidden, 0.0, view)))
    total, count = 0.0, 0
    fake = view[method.box].clone()
    for i in range(len(view)):
        for y in range(made.shape[2]):
            for x in range(made.shape[3]):
                at = (i, 0, top + y, left + x)
                if hidden[at] or band[at]:
                    weight = 10 if band[at] else 1
                    total = total + weight * (made[i, 0, y, x] - view[i, 0, top + y, left + x]) ** 2
                    count += 1
                    fake[i, 0, y, x] = made[i, 0, y, x]
    ones = torch.ones(len(view), dtype=view.dtype)
    fooled = binary_cross_entropy_with_logits(method.discriminator(fake), ones)
    real = binary_cross_entropy_with_logits(method.discriminator(view[method.box]), ones)
    caught = binary_cross_entropy_with_logits(method.discriminator(fake.detach()), 0 * ones)
    return 0.999 * total / count + 0.001 * fooled, real + caught


@pytest.mark.parametrize("region", ["center", "blocks"])
def test_a_step_by_hand(region):
    """One backward pass gives each network the gradient of its own loss."""
    method = make(region=region).double()
    twin = copy.deepcopy(method)
    view = torch.randn(3, 1, 8, 8, dtype=torch.float64)
    hidden, band = method.hide(3, view.device, seed=3)
    loss = method([view], seed=3)
    loss.backward()
    filling, judging = by_hand(twin, view, hidden, band)
    torch.testing.assert_close(loss, filling)
    filler = [*twin.encoder.parameters(), *twin.decoder.parameters()]
    grads = [*torch.autograd.grad(filling, filler), *torch.autograd.grad(judging, [*twin.discriminator.parameters()])]
    for p, grad in zip(method.parameters(), grads, strict=True):
        torch.testing.assert_close(p.grad, grad)


def test_the_loss_at_chance():
    """Of a filling of nothing, and a discriminator that cannot tell."""
    method = make(overlap=0)
    for last in (method.decoder.last, method.discriminator.layers[-1]):
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
    (view,) = method.augment(uint8(8, 1, 8, 8))
    want = 0.999 * view[:, :, 2:6, 2:6].square().mean() + 0.001 * math.log(2)
    torch.testing.assert_close(method([view]), want)


def test_without_an_adversary():
    method = make(adversarial=0)
    assert method.discriminator is None
    (view,) = method.augment(uint8(8, 1, 8, 8))
    hidden, band = method.hide(8, view.device)
    weight = (hidden + 10 * band)[method.box]
    want = (weight * (method.fill(view, hidden) - view[method.box]).square()).mean()
    torch.testing.assert_close(method([view]), want)


def test_it_learns():
    pretexts.check_learning(methods.ContextEncoder(methods.small_resnet(1, 8), **SMALL), 0.7)


def test_the_discriminator_learns():
    method = make(discriminator_dim=16)
    (view,) = method.augment(data.load("digits").images[:128])
    optimizer = torch.optim.Adam(method.discriminator.parameters(), 1e-2)
    for _ in range(30):
        optimizer.zero_grad()
        method([view]).backward()
        optimizer.step()
    with torch.no_grad():
        made = method.fill(view, method.hide(128, view.device)[0])
        assert method.discriminator(view[method.box]).sigmoid().mean() > 0.9
        assert method.discriminator(made).sigmoid().mean() < 0.1


def test_resume(tmp_path):
    state = check_resume(make, fit, tmp_path, 3, images=128)
    assert any(key.startswith("discriminator.") for key in state)


def test_the_optimizer_changes_the_discriminator_in_a_loop_of_ones_own():
    method = make(region="blocks")
    optimizer = torch.optim.Adam(method.parameters(), 1e-3)
    before = copy.deepcopy(method.state_dict())
    method(method.augment(uint8(8, 1, 8, 8))).backward()
    optimizer.step()
    changed = {name.split(".")[0] for name, p in method.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {"encoder", "decoder", "discriminator"}


@pytest.mark.parametrize(("size", "features"), [(64, 512 * 4 * 4), (16, 256 * 4 * 4), (4, 64 * 4 * 4), (7, 64 * 7 * 7)])
def test_the_discriminator_s_sizes(size, features):
    judge = Discriminator((3, size, size), 64)
    assert judge.layers[-1].in_features == features
    assert judge(torch.randn(2, 3, size, size)).shape == (2,)


def test_pictures():
    method = make()
    rows = pretexts.check_pictures(make(region="blocks"), uint8(6, 1, 8, 8))
    assert list(rows) == ["image", "with a hole", "filled in"]
    image, hole, filled = method.pictures(uint8(6, 1, 8, 8)).values()
    hidden, _ = method.hide(6, image.device)
    assert torch.equal(filled[~hidden], image[~hidden])
    assert torch.equal(hole[~hidden], image[~hidden])
    assert (hole[hidden] == hole[hidden][0]).all()


def test_ragged_images_and_names():
    method = methods.ContextEncoder("resnet10t", image_size=48, decoder_dim=16, discriminator_dim=4)
    views = method.augment(RaggedImages.from_images([uint8(3, 60, 90), uint8(3, 70, 50)]))
    assert method(views).isfinite()


@pytest.mark.parametrize("region", ["center", "blocks"])
def test_autocast(region):
    method = methods.ContextEncoder(methods.small_resnet(), region, image_size=32, decoder_dim=16, discriminator_dim=4)
    pretexts.check_autocast(method, uint8(8, 3, 32, 32))


@pytest.mark.parametrize(
    ("run", "error", "says"),
    [
        (lambda: make(region="edge"), ValueError, "region: got 'edge', want 'center', 'blocks'"),
        (lambda: make(hole=1.0), ValueError, "hole: got 1.0"),
        (lambda: make(hole=0.1), ValueError, "hole: got 0.1, a region of 1 x 1 pixels, want more than twice the 1"),
        (lambda: make(overlap=-1), ValueError, "overlap: got -1"),
        (lambda: make(overlap_weight=0), ValueError, "overlap_weight: got 0"),
        (lambda: make(adversarial=1), ValueError, "adversarial: got 1"),
        (lambda: make(decoder_dim=0), ValueError, "decoder_dim: got 0"),
        (lambda: make(discriminator_dim=0), ValueError, "discriminator_dim: got 0"),
        (lambda: make(image_size=None), ValueError, "image_size: got None"),
        (lambda: make()([torch.zeros(2, 1, 8, 9)]), ValueError, r"views: got images \(1, 8, 9\), want \(1, 8, 8\)"),
        (lambda: make()([]), ValueError, "views: got 0, want 1"),
    ],
)
def test_bad_input(run, error, says):
    with pytest.raises(error, match=says):
        run()
