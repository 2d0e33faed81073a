"""Small methods with two views, and what their tests have in common."""

from __future__ import annotations

import torch
from torch import nn

import fastssl
from fastssl import data, methods


def uint8(*shape, seed=0):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def tiny():
    return methods.build_encoder("resnet18", in_chans=1, stem="small", layers=(1, 1, 1, 1), channels=(4, 4, 8, 8))


SMALL = {
    methods.BYOL: {"projection_dim": 16, "hidden_dim": 24},
    methods.SimSiam: {"projection_dim": 16, "hidden_dim": 24, "predictor_dim": 8},
    methods.MoCoV3: {"projection_dim": 16, "hidden_dim": 24},
}
FOLLOWED = (methods.BYOL, methods.MoCoV3)  # by a momentum copy


def make(kind, seed=0, encoder=None, **options):
    """A method around a tiny ResNet for grey images, or around another encoder."""
    torch.manual_seed(seed)
    return kind(encoder or tiny(), **{**SMALL[kind], **options})


def copy_of(method):
    """The momentum copy, None where there is none."""
    return getattr(method, "target", getattr(method, "key_encoder", None))


def views_of(method, n, seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    return [view.to(dtype) for view in method.augment(uint8(n, 1, 8, 8, seed=seed))]


def trained(method):
    return [p for p in method.parameters() if p.requires_grad]


def linear_widths(head):
    """Widths of a head, and whether each linear layer has a bias."""
    layers = [layer for layer in head if isinstance(layer, nn.Linear)]
    return [layers[0].in_features, *(layer.out_features for layer in layers)], [x.bias is not None for x in layers]


def fit(method, out, **settings):
    images = data.load("digits")
    images = images.take(range(settings.pop("images", len(images))))
    settings = {"epochs": 2, "batch_size": 64, "knn_every": 0, "progress": False, "accelerator": "cpu", **settings}
    return fastssl.fit(method, images, out=out, **settings)
