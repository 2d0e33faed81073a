"""Self-supervised methods: plain modules with an encoder, `augment` and a loss, for any training loop."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from ._encoder import build_encoder, encode, export_encoder, load_encoder, rebuild, small_resnet, small_vit
from .byol import BYOL
from .denoising import DenoisingAutoencoder, denoising_loss
from .dino import DINO
from .dinov2 import DINOv2
from .mae import MAE
from .moco import MoCo
from .moco_v3 import MoCoV3
from .simclr import SimCLR
from .simmim import SimMIM
from .simsiam import SimSiam
from .swav import SwAV

__all__ = [
    "BYOL",
    "DINO",
    "MAE",
    "METHODS",
    "DINOv2",
    "DenoisingAutoencoder",
    "MoCo",
    "MoCoV3",
    "SimCLR",
    "SimMIM",
    "SimSiam",
    "SwAV",
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
    "mocov3": MoCoV3,
    "byol": BYOL,
    "simsiam": SimSiam,
    "swav": SwAV,
    "dino": DINO,
    "dinov2": DINOv2,
    "mae": MAE,
    "simmim": SimMIM,
    "dae": DenoisingAutoencoder,
}
