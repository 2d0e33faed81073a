"""Self-supervised methods: plain modules with an encoder, `augment` and a loss, for any training loop."""

from __future__ import annotations

from ._encoder import build_encoder, encode, export_encoder, load_encoder, rebuild, small_resnet
from .simclr import SimCLR

__all__ = [
    "METHODS",
    "SimCLR",
    "build_encoder",
    "encode",
    "export_encoder",
    "load_encoder",
    "rebuild",
    "small_resnet",
]

# What `fastssl pretrain <method>` knows.
METHODS: dict[str, type[SimCLR]] = {"simclr": SimCLR}
