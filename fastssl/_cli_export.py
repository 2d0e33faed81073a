"""The command ``fastssl export``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ._cli_options import NO_DEFAULT

# What a file is called in the folder of the run, by its form.
_NAMES = {
    "timm": "encoder-timm.pth",
    "torchvision": "encoder-torchvision.pth",
    "safetensors": "encoder-weights.safetensors",
    "onnx": "encoder.onnx",
}


def add_parsers(commands: Any, settings: dict[str, Any]) -> None:
    """Add the parser of the command."""
    p = commands.add_parser(
        "export",
        help="write a trained encoder for those who do not have fastssl",
        description="Write the encoder of a run for timm, torchvision, safetensors or ONNX, and a text beside it: the "
        "lines of Python that read it without fastssl.",
        **settings,
    )
    p.add_argument("folder", metavar="RUN", help="folder of a run, as pretrain leaves it")
    p.add_argument("--format", choices=list(_NAMES), default="timm", help="whose form")
    p.add_argument("--out", help="the file to write (default: in RUN, by format)", **NO_DEFAULT)
    p.add_argument(
        "--normalize", action="store_true", help="onnx: take uint8 images as they are, and normalise them in the graph"
    )
    p.set_defaults(run=export)


def export(args: argparse.Namespace) -> None:
    """Run ``fastssl export``."""
    from ._extras import require

    require("torch", "fastssl export")
    from . import methods
    from .methods._encoder import read_about

    folder = Path(args.folder)
    encoder = methods.load_encoder(folder)
    size = read_about(folder / "encoder.safetensors").get("image_size")
    out = Path(vars(args).get("out") or folder / _NAMES[args.format])
    path = methods.export(encoder, out, args.format, image_size=size, normalize=args.normalize)
    print(f"written  {path}, {path.stat().st_size / 1e6:.1f} MB")
    print(f"to read  {path.with_suffix('.txt')}")
    print(path.with_suffix(".txt").read_text().rstrip())
