"""Small methods with two views, and what their tests have in common."""

from __future__ import annotations

import torch
from small_methods import tiny
from torch import nn

from fastssl import methods

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


def linear_widths(head):
    """Widths of a head, and whether each linear layer has a bias."""
    layers = [layer for layer in head if isinstance(layer, nn.Linear)]
    return [layers[0].in_features, *(layer.out_features for layer in layers)], [x.bias is not None for x in layers]
