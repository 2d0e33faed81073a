"""Self-supervised methods: plain modules with an encoder, `augment` and a loss, for any training loop."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from ._encoder import build_encoder, encode, export_encoder, load_encoder, rebuild, small_resnet, small_vit
from .denoising import DenoisingAutoencoder, denoising_loss
from .mae import MAE
from .moco import MoCo
from .simclr import SimCLR
from .simmim import SimMIM

__all__ = [
    "MAE",
    "METHODS",
    "DenoisingAutoencoder",
    "MoCo",
    "SimCLR",
    "SimMIM",
    "build_encoder",
    "denoising_loss",
    "encode",
    "export_encoder",
    "load_encoder",
    "rebuild",
    "small_resnet",
    "small_vit",
]

# What `fastssl pretrain <method>` knows.
METHODS: dict[str, Callable[..., nn.Module]] = {
    "simclr": SimCLR,
    "moco": MoCo,
    "mae": MAE,
    "simmim": SimMIM,
    "dae": DenoisingAutoencoder,
}
