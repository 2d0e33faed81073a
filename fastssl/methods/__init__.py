"""Self-supervised methods: plain modules with an encoder, `augment` and a loss, for any training loop."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from ._encoder import build_encoder, encode, export_encoder, load_encoder, rebuild, small_resnet, small_vit
from ._export import export
from ._mlp import mlp_encoder
from ._signal import signal_encoder
from ._text import text_encoder
from .autoencoder import Autoencoder, denoising_loss
from .bert import BERT
from .byol import BYOL
from .colorization import Colorization
from .context import ContextPrediction
from .cpc import CPC
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
from .split_brain import SplitBrain
from .swav import SwAV
from .vae import VariationalAutoencoder
from .video_colorization import VideoColorization

__all__ = [
    "BERT",
    "BYOL",
    "CPC",
    "DINO",
    "MAE",
    "METHODS",
    "Autoencoder",
    "Colorization",
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
    "SplitBrain",
    "SwAV",
    "VariationalAutoencoder",
    "VideoColorization",
    "build_encoder",
    "denoising_loss",
    "encode",
    "export",
    "export_encoder",
    "load_encoder",
    "mlp_encoder",
    "rebuild",
    "signal_encoder",
    "small_resnet",
    "small_vit",
    "text_encoder",
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
    "colorization": Colorization,
    "split-brain": SplitBrain,
    "video-colorization": VideoColorization,
    "ae": Autoencoder,
    "cae": Autoencoder,
    "dae": DenoisingAutoencoder,
    "vae": VariationalAutoencoder,
    "cpc": CPC,
    "bert": BERT,
}
