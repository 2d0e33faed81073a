"""The command ``fastssl``: pretrain, evaluate, export, compare, report, augment, bench, info."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from . import __version__, _cli_compare, _cli_evaluate, _cli_export, _cli_report, _cli_train
from ._cli_options import NO_DEFAULT

EXAMPLES = """examples:
  fastssl pretrain simclr --data shapes --epochs 20      train on generated pictures, no download
  fastssl pretrain simclr --data photos/ --encoder resnet50 --epochs 100 --out runs/photos
  fastssl pretrain moco --data digits                    the same from small batches, with a queue of negatives
  fastssl pretrain byol --data shapes                    no negatives at all: a slow copy makes the targets
  fastssl pretrain mae --data digits                     hide three quarters of an image, and fill them in
  fastssl evaluate runs/photos                           judge its encoder beside an untrained one
  fastssl evaluate runs/mae-digits --finetune            and what it learns from ten labels a class
  fastssl export runs/photos --format onnx               its encoder for those who do not have fastssl
  fastssl compare --methods simclr dino mae --data shapes    train several small, and judge them alike
  fastssl report runs/photos runs/mae-digits             one HTML page of one run or several
  fastssl augment --recipe dino photo.jpg                see the views that a recipe makes of an image
  fastssl bench ntxent --pairs 512 4096                  time the loss on this machine
  fastssl bench augment --recipe simclr dino             time a recipe's views against torchvision
  fastssl bench masking --batch-size 64                  time masking, restoring and the masked loss
  fastssl info                                           versions, and which backends are on
"""


# The keys of fastssl.transforms.RECIPES, which would have to import torch to be asked.
_RECIPES = ("simclr", "simclr-small", "mocov2", "byol", "dino", "swav", "mae")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"fastssl: error: {message} (see '{self.prog} --help')\n")


def _parser() -> argparse.ArgumentParser:
    top = _Parser(
        prog="fastssl",
        description="Self-supervised learning with fused kernels.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"fastssl {__version__}")
    top.add_argument("--traceback", action="store_true", help="show Python's traceback of an error")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    settings: dict[str, Any] = {"formatter_class": argparse.ArgumentDefaultsHelpFormatter}

    _cli_train.add_parsers(commands, settings)
    _cli_evaluate.add_parsers(commands, settings)
    _cli_export.add_parsers(commands, settings)
    _cli_compare.add_parsers(commands, settings)
    _cli_report.add_parsers(commands, settings)

    p = commands.add_parser("augment", help="draw the views that a recipe makes of your images", **settings)
    p.add_argument("images", nargs="+", metavar="IMAGE", help="an image file, or a folder, of which four are taken")
    p.add_argument("--recipe", choices=_RECIPES, required=True, help="the recipe", **NO_DEFAULT)
    p.add_argument("--size", type=int, help="pixels a side of the large views (default: by recipe)", **NO_DEFAULT)
    p.add_argument("--seed", type=int, default=0, help="of the draws")
    p.add_argument("--rounding", choices=["none", "uint8"], default="none", help="between the steps")
    p.add_argument("--out", help="PNG or JPEG file to write (default: views-RECIPE.png)", **NO_DEFAULT)
    p.set_defaults(run=augment)

    ops = commands.add_parser("bench", help="time an op on this machine").add_subparsers(
        dest="op", required=True, metavar="OP"
    )
    p = ops.add_parser("ntxent", help="the loss against eager PyTorch", **settings)
    p.add_argument("--pairs", type=int, nargs="+", default=[128, 512, 2048], help="batch sizes N")
    p.add_argument("--dim", type=int, default=128, help="width d of the embeddings")
    p.add_argument("--temperature", type=float, default=0.5, help="temperature")
    p.add_argument("--dtype", choices=["float32", "float16", "bfloat16", "float64"], default="float32", help="type")
    p.set_defaults(run=bench_ntxent)
    p = ops.add_parser("augment", help="the views of a recipe against torchvision's transforms", **settings)
    p.add_argument("--recipe", choices=_RECIPES, nargs="+", default=["simclr"], help="the recipes")
    p.add_argument("--batch-size", type=int, default=32, help="images a call")
    p.add_argument("--image-size", type=int, default=256, help="pixels a side of the images")
    p.set_defaults(run=bench_augment)
    p = ops.add_parser("masking", help="masking, restoring and the masked loss against eager PyTorch", **settings)
    p.add_argument("--batch-size", type=int, default=64, help="images a step")
    p.add_argument("--dim", type=int, default=768, help="width of the tokens")
    p.add_argument("--image-size", type=int, default=224, help="pixels a side, cut into patches of 16 x 16")
    p.add_argument("--mask-ratio", type=float, default=0.75, help="part of the patches that is removed")
    p.add_argument("--dtype", choices=["float32", "float16", "bfloat16", "float64"], default="float32", help="type")
    p.set_defaults(run=bench_masking)
    for p in ops.choices.values():
        p.add_argument("--device", help="cpu or cuda (default: cuda where there is one)", **NO_DEFAULT)
        p.add_argument("--repeats", type=int, default=9, help="measurements, whose median counts")

    p = commands.add_parser("info", help="versions, and every backend with the reason it is on or off")
    p.set_defaults(run=info)
    return top


def augment(args: argparse.Namespace) -> None:
    """Run ``fastssl augment``."""
    from ._extras import require

    require("PIL", "fastssl augment")
    from . import transforms
    from ._contact_sheet import contact_sheet, read_images

    given = vars(args)
    out = Path(given.get("out") or f"views-{args.recipe}.png")
    if out.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise ValueError(f"out: got {str(out)!r}, want a name that ends in .png or .jpg")
    size = {"size": given["size"]} if "size" in given else {}
    transform = transforms.RECIPES[args.recipe](**size, rounding=args.rounding)
    print(f"recipe   {transform}")
    sheet = contact_sheet(read_images(args.images), transform, args.seed)
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out, quality=95)  # of a JPEG
    print(f"written  {out}, {sheet.width} x {sheet.height} pixels")


def _bench_device(args: argparse.Namespace, counts: Sequence[str]) -> Any:
    """Check that the named arguments are positive, and return the device."""
    import torch

    for name in counts:
        values = getattr(args, name)
        for value in values if isinstance(values, list) else [values]:
            if value < 1:
                raise ValueError(f"{name}: got {value}, want an int >= 1")
    return torch.device(vars(args).get("device") or ("cuda" if torch.cuda.is_available() else "cpu"))


def bench_ntxent(args: argparse.Namespace) -> None:
    """Run ``fastssl bench ntxent``."""
    import torch

    from ._bench import compare

    device = _bench_device(args, ("pairs", "dim", "repeats"))
    print(f"NT-Xent forward + backward, {args.dtype} on {device}, {torch.get_num_threads()} threads, d = {args.dim}")
    print(f"{'pairs':>8}{'fastssl ms':>14}{'eager ms':>14}{'eager / fastssl':>18}")
    dtype = getattr(torch, args.dtype)
    for row in compare(args.pairs, args.dim, args.temperature, dtype, device, args.repeats):
        print(f"{row.pairs:8}{row.fastssl_ms:14.3f}{row.eager_ms:14.3f}{row.speedup:18.2f}", flush=True)


def bench_augment(args: argparse.Namespace) -> None:
    """Run ``fastssl bench augment``."""
    import torch

    from ._bench import compare_views

    device = _bench_device(args, ("batch_size", "image_size", "repeats"))
    size, threads = args.image_size, torch.get_num_threads()
    print(f"milliseconds a view of {args.batch_size} images of {size} x {size}, float32 on {device}, {threads} threads")
    print(f"{'recipe':12}{'views':>8}{'fastssl ms':>14}{'torchvision ms':>18}{'torchvision / fastssl':>24}")
    for row in compare_views(args.recipe, args.batch_size, size, device, args.repeats):
        times = f"{row.fastssl_ms:14.4f}{row.torchvision_ms:18.4f}{row.speedup:24.2f}"
        print(f"{row.recipe:12}{row.views:8}{times}", flush=True)


def bench_masking(args: argparse.Namespace) -> None:
    """Run ``fastssl bench masking``."""
    import torch

    from ._bench_masking import compare_masking

    device = _bench_device(args, ("batch_size", "dim", "image_size", "repeats"))
    tokens = f"{args.batch_size} images of {args.image_size} x {args.image_size}, patches of 16, d = {args.dim}"
    print(f"forward + backward, {tokens}, {args.dtype} on {device}, {torch.get_num_threads()} threads")
    print(f"{'op':12}{'fastssl ms':>14}{'eager ms':>14}{'eager / fastssl':>18}")
    sizes = (args.batch_size, args.dim, args.image_size, args.mask_ratio)
    for row in compare_masking(*sizes, getattr(torch, args.dtype), device, args.repeats):
        print(f"{row.op:12}{row.fastssl_ms:14.3f}{row.eager_ms:14.3f}{row.speedup:18.2f}", flush=True)


def info(args: argparse.Namespace) -> None:
    """Run ``fastssl info``."""
    from . import _backend
    from ._extras import EXTRAS

    print(f"fastssl      {__version__}")
    print(f"python       {platform.python_version()}, {platform.system()} {platform.machine()}")
    extras = (package for packages in EXTRAS.values() for package in packages.values())
    for package in ("torch", "triton", "numpy", *extras):
        print(f"{package:12} {_version(package)}")
    print(f"\n{'op':22}{'backend':10}{'state':8}why")
    for op, backend, on, why in _backend.report():
        print(f"{op:22}{backend:10}{'on' if on else 'off':8}{why}")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 1 for an error, 2 for wrong usage, 130 when stopped.

    Args:
        argv: the arguments; by default those of the process.

    Returns:
        The exit code. An error is one line on stderr that starts with ``fastssl: error:``.
    """
    args = _parser().parse_args(argv)
    warnings.formatwarning = lambda message, *_, **__: f"fastssl: warning: {message}\n"
    try:
        args.run(args)
    except KeyboardInterrupt as stopped:
        print(f"fastssl: {stopped or 'stopped'}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, TypeError, OSError, RuntimeError, ImportError) as error:
        if args.traceback:
            raise
        print(f"fastssl: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
