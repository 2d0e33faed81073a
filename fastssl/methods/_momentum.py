"""Momentum: networks that follow another as its moving average, and the shuffling of their batches."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .._queue import gather_rows
from .._wide import Wide
from ..functional import ema_update
from ..functional._peers import peers
from ._encoder import encode

_HALVES = (torch.float16, torch.bfloat16)
GROUP = 32  # images that share batch statistics: what each of the 8 devices of MoCo's authors had


class MomentumEncoder(Wide):
    """An encoder and its head that learn no gradients and follow another pair as its exponential moving average.

    They start as copies. Weights of 16 bits are kept in float32, whatever the module around them is cast to: in 16 bits
    a step of a thousandth of the way would round to none. Images of 16 bits are then encoded under autocast.

    Args:
        encoder: images [B, C, H, W] -> features.
        projector: features [B, f] -> projections [B, d].
    """

    def __init__(self, encoder: nn.Module, projector: nn.Module) -> None:
        super().__init__()
        self.encoder, self.projector = copy.deepcopy(encoder), copy.deepcopy(projector)
        self.requires_grad_(False)
        self._apply(lambda t: t.float() if t.dtype in _HALVES else t)

    @torch.no_grad()
    def forward(self, view: Tensor) -> Tensor:
        """Return the projections [B, d] of a view [B, C, H, W]."""
        with in_precision_of(view):
            projection: Tensor = self.projector(encode(self.encoder, view))
        return projection

    def follow(self, encoder: nn.Module, projector: nn.Module, momentum: float) -> None:
        """Move everything to momentum times itself plus (1 - momentum) times the followed one's, in float32.

        Integer buffers are copied; see `fastssl.functional.ema_update`.
        """
        # Under the names that they have here, so that both pairs move in one call.
        ema_update(self, nn.ModuleDict({"encoder": encoder, "projector": projector}), momentum)


def in_precision_of(view: Tensor) -> contextlib.AbstractContextManager[Any]:
    """Return the context in which weights of float32 take images of any type: of 16 bits under autocast."""
    return torch.autocast(view.device.type, view.dtype) if view.dtype in _HALVES else contextlib.nullcontext()


def cosine_momentum(base: float, step: int, total_steps: int) -> float:
    """Return the momentum of a step: `base` at step 0 and 1 at `total_steps`, along half a cosine between.

        1 - (1 - base) (1 + cos(pi step / total_steps)) / 2

    With ``total_steps=0``, of a run whose end is not known, it stays `base`.

    Source: Grill et al. 2020, section 3.2.
    """
    if total_steps < 1:
        return base
    return 1 - (1 - base) * (1 + math.cos(math.pi * min(max(0, step), total_steps) / total_steps)) / 2


def has_batch_norm(module: nn.Module) -> bool:
    """Tell whether outputs depend on the rest of the batch."""
    return any(isinstance(m, _BatchNorm) for m in module.modules())


@torch.no_grad()
def shuffled(network: Callable[[Tensor], Tensor], x: Tensor, group: int = GROUP) -> Tensor:
    """Return network(x), with batch statistics that are not those of the batch as a whole: MoCo's shuffled batch norm.

    Several processes encode each other's samples, in an order that rank 0 draws. One process encodes a random order in
    groups of at least `group` samples, one after the other; fewer than two groups are encoded as they are.
    """
    found, groups = peers(True, len(x), x.device), len(x) // group
    if found.count == 1 and groups < 2:
        return network(x)
    order = torch.randperm(found.total, device=x.device)
    if found.count == 1:
        encoded = torch.cat([network(x[part]) for part in order.tensor_split(groups)])
        return torch.empty_like(encoded).index_copy_(0, order, encoded)
    dist.broadcast(order, 0)
    own = slice(found.start, found.start + len(x))
    encoded = gather_rows(network(gather_rows(x, found)[order[own]]), found)
    return torch.empty_like(encoded).index_copy_(0, order, encoded)[own]
