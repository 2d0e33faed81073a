"""Images that carry a shortcut, and probes that find it: what the tests of pretexts have in common."""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fastssl import data, transforms


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(n, channels=3, size=32, seed=0):
    """Views whose pixels are independent: nothing but what is put into them can be found."""
    return torch.randn(n, channels, size, size, generator=rng(seed))


def grey(view):
    return view[:, :1].expand(-1, 3, -1, -1)


def woven(n, size=64, reach=3, seed=0):
    """Grey noise whose pixels are alike up to fewer than `reach` pixels apart, and independent beyond."""
    return grey(reach * F.avg_pool2d(noise(n, 1, size + reach - 1, seed), reach, 1))


def periodic(n, period, size=32, seed=0):
    """Grey noise that repeats itself in rows and columns, from a random place on."""
    times = -(-size // period)
    return grey(noise(n, 1, period, seed).repeat(1, 1, times, times)[..., :size, :size])


def lit(n, slope=0.05, size=32, seed=0):
    """Noise under a light from the lower right, the same in every image."""
    place = torch.arange(size) - size / 2
    return noise(n, 3, size, seed) + slope * (place[:, None] + place)


def aberrant(n, size=32, seed=0, period=None):
    """Grey noise whose red is larger by a pixel in each direction: an image seen through a bad lens."""
    view = noise(n, 1, size, seed) if period is None else periodic(n, period, size, seed)[:, :1]
    away = torch.arange(size) + torch.tensor([-1, 0, 1]).repeat_interleave(-(-size // 3))[:size]
    away = away.clamp(0, size - 1) if period is None else away % size
    return torch.cat([view[..., away, :][..., away], view, view], 1)


def sharper(n, size=32, seed=0):
    """Smooth noise with fine columns that grow from left to right, and fine rows that grow downwards."""
    fine = noise(n, 2, 1, seed + 1) * torch.linspace(0, 1.5, size) * (-1) ** torch.arange(size)
    return grey(woven(n, size, 3, seed) + fine[:, :1] + fine[:, 1:].mT)


def finest(patches):
    """How much of the finest columns and of the finest rows there is in patches [N, h, w]."""
    sign = (-1) ** torch.arange(patches.shape[2])
    return torch.stack([(patches * by).mean((1, 2)).abs() for by in (sign, sign[:, None])], 1)


def colorful(n, size=32, seed=0):
    """Noise with noise of its colours, which grows to the lower right and is not in its grey version."""
    place = torch.linspace(0, 1.5, size)
    color = noise(n, 1, size, seed + 1) * (place[:, None] + place)
    share = torch.tensor([0.229 * 0.299, -0.224 * 0.587, torch.inf])[:, None, None]  # of red, green and blue in grey
    return noise(n, 1, size, seed) + 0.07 * color / share


def correlations(a, b, reach=1):
    """Mean products of a [..., h, w] and b moved by up to `reach` pixels: what no linear probe sees by itself."""
    h, w = a.shape[-2:]
    middle = a[..., reach : h - reach, reach : w - reach]
    moves = [(y, x) for y in range(2 * reach + 1) for x in range(2 * reach + 1)]
    return torch.stack(
        [(middle * b[..., y : y + h - 2 * reach, x : x + w - 2 * reach]).mean((-1, -2)) for y, x in moves], -1
    )


def seams(a, b):
    """Mean products of those pixels of a and b [..., h, w] that would touch if b were next to a, for 8 directions."""
    ends = {-1: (0, -1), 1: (-1, 0)}
    found = []
    for y in (-1, 0, 1):
        for x in (-1, 0, 1):
            if y or x:
                rows, columns = (ends.get(by, (slice(None), slice(None))) for by in (y, x))
                product = a[..., rows[0], :][..., columns[0]] * b[..., rows[1], :][..., columns[1]]
                found.append(product.flatten(a.ndim - 2).mean(-1) if product.ndim > a.ndim - 2 else product)
    return torch.stack(found, -1)


def probed(x, y):
    """Accuracy of logistic regression on half of the rows, after training on the others, and their number."""
    x, half = x.flatten(1).numpy(), len(x) // 2
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=200))
    return probe.fit(x[:half], y[:half]).score(x[half:], y[half:]), len(y) - half


def check_defence(question, classes, defended, undefended):
    """A probe of the x that ``x, y = question(**options)`` gives is at chance for y with a defence, and not without."""
    chance = 1 / classes
    accuracy, count = probed(*question(**defended))
    error = math.sqrt(chance * (1 - chance) / count)
    assert abs(accuracy - chance) < 3.5 * error
    accuracy, _ = probed(*question(**undefended))
    assert accuracy > chance + 8 * error


def check_learning(method, part, steps=30):
    """The loss of a method on digits falls to a part of what it was."""
    images = data.load("digits").images[:64]
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(method.parameters(), 4e-3)
    losses = []
    for _ in range(steps):
        loss = method(method.augment(images))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < part * sum(losses[:5]), losses


def check_autocast(method, images):
    """In bfloat16 the loss is about that in float32, is one itself, and has finite gradients.

    Maps of one pixel are too small for it: of convolutions of stride 2 over such, oneDNN leaves gradients unwritten.
    """
    views = method.augment(images)
    losses = {}
    for low in (False, True):
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            losses[low] = method(views)
    assert losses[True].dtype == torch.float32
    torch.testing.assert_close(losses[True], losses[False], rtol=0.1, atol=0)
    losses[True].backward()
    assert all(p.grad.isfinite().all() for p in method.parameters())


def check_pictures(method, images):
    """Pictures have the shape of the images, and are the same for a seed; drawing them changes nothing. The rows."""
    method.encoder.layer1.eval()
    before, modes = copy.deepcopy(method.state_dict()), [m.training for m in method.modules()]
    rows = method.pictures(images)
    assert modes == [m.training for m in method.modules()]
    assert all(torch.equal(before[key], value) for key, value in method.state_dict().items())
    for row in rows.values():
        assert row.shape == images.shape
        assert row.dtype == torch.float32
        assert 0 <= row.min() <= row.max() <= 1
    torch.testing.assert_close(rows["image"], images / 255, atol=1e-6, rtol=0)
    assert all(torch.equal(row, rows[name]) for name, row in method.pictures(images).items())
    second = list(rows)[1]
    assert not torch.equal(method.pictures(images, seed=1)[second], rows[second])
    return rows


def painted(row):
    """Where a row of pictures shows patches, and not the mean colour behind them."""
    return (row - transforms.to_pixels(torch.zeros(1, row.shape[1], 1, 1))).abs() > 1e-6
