"""What tests of methods have in common: small images and encoders, short runs, and runs that are stopped."""

from __future__ import annotations

import pytest
import torch

import fastssl
from fastssl import data, methods


def uint8(*shape, seed=0):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def tiny():
    return methods.build_encoder("resnet18", in_chans=1, stem="small", layers=(1, 1, 1, 1), channels=(4, 4, 8, 8))


def views_of(method, n, seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    return [view.to(dtype) for view in method.augment(uint8(n, 1, 8, 8, seed=seed))]


def trained(method):
    return [p for p in method.parameters() if p.requires_grad]


def fit(method, out, **settings):
    images = data.load("digits")
    images = images.take(range(settings.pop("images", len(images))))
    settings = {"epochs": 2, "batch_size": 64, "knn_every": 0, "progress": False, "accelerator": "cpu", **settings}
    return fastssl.fit(method, images, out=out, **settings)


def check_resume(make, fit, out, step, **settings):
    """A run that an error stops in a step goes on, by another method, to what an unbroken one ends with; that state."""
    unbroken = fit(make(), out / "unbroken", log_every=1, **settings)

    class Stop(Exception):
        pass

    method = make()
    real, steps = method.forward, []

    def forward(views):
        steps.append(1)
        if len(steps) == step:
            raise Stop
        return real(views)

    method.forward = forward
    with pytest.raises(Stop):
        fit(method, out / "broken", log_every=1, checkpoint_minutes=0, **settings)
    resumed = fit(make(seed=5), out / "broken", log_every=1, checkpoint_minutes=0, resume=True, **settings)
    assert resumed.history == unbroken.history
    want, got = unbroken.method.state_dict(), resumed.method.state_dict()
    assert want.keys() == got.keys()
    for key, value in want.items():
        assert torch.equal(value, got[key]), key
    return got
