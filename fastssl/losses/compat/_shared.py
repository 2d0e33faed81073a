"""What several of the modules need."""

from __future__ import annotations

import torch
from torch import Tensor


def scaled_gradient(x: Tensor, factor: float) -> Tensor:
    """Return x with a gradient of `factor` times what it would be."""
    if factor == 1 or not x.requires_grad or not torch.is_grad_enabled():
        return x
    x = x.view_as(x)
    x.register_hook(lambda grad: grad * factor)
    return x


def scalar(x: float | Tensor) -> float | Tensor:
    """Return a tensor of one element, such as a parameter of shape [1], as a 0-d tensor."""
    return x.reshape(()) if isinstance(x, Tensor) and x.numel() == 1 else x
