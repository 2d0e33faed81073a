"""Small methods with global and local views, and what their tests have in common."""

from __future__ import annotations

import torch
from small_methods import tiny
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from fastssl import methods

HEAD = {"out_dim": 24, "hidden_dim": 12, "bottleneck_dim": 6}


def tiny_vit(**options):
    sizes = {"img_size": 8, "patch_size": 2, "embed_dim": 8, "depth": 2, "num_heads": 2, "dynamic_img_size": True}
    return methods.build_encoder("vit_tiny_patch16_224", in_chans=1, **{**sizes, **options})


def dino(kind="resnet", seed=0, **options):
    torch.manual_seed(seed)
    return methods.DINO(
        tiny_vit() if kind == "vit" else tiny(), **{**HEAD, "local_views": 2, "steps_per_epoch": 2, **options}
    )


def dinov2(seed=0, vit=None, **options):
    """With a mask token that is not 0, as it is at first."""
    torch.manual_seed(seed)
    method = methods.DINOv2(vit or tiny_vit(), **{**HEAD, "local_views": 2, "steps_per_epoch": 2, **options})
    nn.init.normal_(method.mask_token)
    return method


def swav(seed=0, **options):
    torch.manual_seed(seed)
    settings = {"prototypes": 24, "projection_dim": 6, "hidden_dim": 12, "local_views": 2, "steps_per_epoch": 2}
    return methods.SwAV(tiny(), **{**settings, **options})


def step_of(method, optimizer, views, step, total):
    """One training step as the docstrings have it; returns the loss."""
    optimizer.zero_grad()
    loss = method(views)
    loss.backward()
    method.before_step(step, total)
    optimizer.step()
    method.after_step(step, total)
    return loss.detach()


class NoSync(TorchDispatchMode):
    """Refuses what would wait for a device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func not in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default), func
        return func(*args, **(kwargs or {}))
