"""Self-supervised methods: plain modules with an encoder, `augment` and a loss, for any training loop."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from ._encoder import build_encoder, encode, export_encoder, load_encoder, rebuild, small_resnet, small_vit
from ._mlp import mlp_encoder
from .autoencoder import Autoencoder, denoising_loss
from .byol import BYOL
from .context import ContextPrediction
from .denoising import DenoisingAutoencoder
from .dino import DINO
from .dinov2 import DINOv2
from .inpainting import ContextEncoder
from .jigsaw import Jigsaw
from .mae import MAE
from .moco import MoCo
from .moco_v3 import MoCoV3
from .rotation import Rotation
from .simclr import SimCLR
from .simmim import SimMIM
from .simsiam import SimSiam
from .swav import SwAV
from .vae import VariationalAutoencoder

__all__ = [
    "BYOL",
    "DINO",
    "MAE",
    "METHODS",
    "Autoencoder",
    "ContextEncoder",
    "ContextPrediction",
    "DINOv2",
    "DenoisingAutoencoder",
    "Jigsaw",
    "MoCo",
    "MoCoV3",
    "Rotation",
    "SimCLR",
    "SimMIM",
    "SimSiam",
    "SwAV",
    "VariationalAutoencoder",
    "build_encoder",
    "denoising_loss",
    "encode",
    "export_encoder",
    "load_encoder",
    "mlp_encoder",
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
    "rotation": Rotation,
    "context": ContextPrediction,
    "jigsaw": Jigsaw,
    "inpainting": ContextEncoder,
    "ae": Autoencoder,
    "cae": Autoencoder,
    "dae": DenoisingAutoencoder,
    "vae": VariationalAutoencoder,
}
