"""The command ``fastssl``: pretrain, evaluate, augment, bench, info."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from . import __version__

EXAMPLES = """examples:
  fastssl pretrain simclr --data shapes --epochs 20      train on generated pictures, no download
  fastssl pretrain simclr --data photos/ --encoder resnet50 --epochs 100 --out runs/photos
  fastssl evaluate runs/photos                           kNN and linear accuracy of its encoder
  fastssl augment --recipe dino photo.jpg                see the views that a recipe makes of an image
  fastssl bench ntxent --pairs 512 4096                  time the loss on this machine
  fastssl bench augment --recipe simclr dino             time a recipe's views against torchvision
  fastssl info                                           versions, and which backends are on
"""


# The keys of fastssl.transforms.RECIPES, which would have to import torch to be asked.
_RECIPES = ("simclr", "simclr-small", "mocov2", "byol", "dino", "swav", "mae")

# Keeps argparse's formatter from printing "(default: None)" where the help tells the default in words.
_NO_DEFAULT: dict[str, Any] = {"default": argparse.SUPPRESS}


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

    p = commands.add_parser("pretrain", help="train an encoder without labels", **settings)
    p.add_argument("method", choices=["simclr"], help="the method")
    p.add_argument(
        "--data", required=True, help="digits, shapes, or a folder of images (sub-folders are classes)", **_NO_DEFAULT
    )
    p.add_argument(
        "--encoder",
        help="name of a timm model, or small: a ResNet of four blocks (default: small up to 64 pixels, else resnet18)",
        default=argparse.SUPPRESS,
    )
    p.add_argument(
        "--image-size", type=int, help="pixels a side (default: of the data; 224 for a folder)", **_NO_DEFAULT
    )
    p.add_argument(
        "--decode-size",
        type=int,
        help="for large photographs: decode JPEGs at 1/2, 1/4 or 1/8 while both sides keep so many pixels "
        "(default: at their own size)",
        **_NO_DEFAULT,
    )
    p.add_argument("--epochs", type=int, default=100, help="passes through the data")
    p.add_argument("--batch-size", type=int, default=256, help="images a step")
    p.add_argument("--optimizer", choices=["adamw", "sgd", "lars"], default="adamw", help="optimizer")
    p.add_argument(
        "--lr", type=float, help="peak learning rate (default: by optimizer, see fastssl.fit)", **_NO_DEFAULT
    )
    p.add_argument("--weight-decay", type=float, help="weight decay (default: by optimizer)", **_NO_DEFAULT)
    p.add_argument("--warmup-epochs", type=float, help="warmup (default: a tenth of the epochs)", **_NO_DEFAULT)
    p.add_argument("--temperature", type=float, default=0.5, help="temperature of the loss")
    p.add_argument("--projection-dim", type=int, default=128, help="width of the projections")
    p.add_argument("--seed", type=int, default=0, help="of the initial weights, the data order and the augmentation")
    p.add_argument("--precision", choices=["32-true", "16-mixed", "bf16-mixed"], default="32-true", help="arithmetic")
    p.add_argument("--accelerator", default="auto", help="auto, cpu, gpu ...")
    p.add_argument("--workers", type=int, help="processes that read images (default: by data)", **_NO_DEFAULT)
    p.add_argument("--knn-every", type=int, default=10, help="epochs between kNN measurements, 0 for none")
    p.add_argument("--out", help="folder of the run (default: runs/METHOD-DATA)", **_NO_DEFAULT)
    p.add_argument("--resume", action="store_true", help="continue the run in --out, if there is one")
    p.add_argument("--overwrite", action="store_true", help="replace the run in --out")
    p.add_argument("--quiet", action="store_true", help="no progress bar")
    p.set_defaults(run=pretrain)

    p = commands.add_parser("evaluate", help="kNN and linear accuracy of a trained encoder", **settings)
    p.add_argument("folder", metavar="RUN", help="folder of a run, as pretrain leaves it")
    p.add_argument("--data", help="labelled data (default: those of the run)", **_NO_DEFAULT)
    p.add_argument("--k", type=int, default=20, help="neighbours that vote")
    p.add_argument("--labels-per-class", type=int, default=10, help="labels of the small linear probe")
    p.add_argument("--seed", type=int, default=0, help="of the labelled subsets and the untrained encoder")
    p.set_defaults(run=evaluate)

    p = commands.add_parser("augment", help="draw the views that a recipe makes of your images", **settings)
    p.add_argument("images", nargs="+", metavar="IMAGE", help="an image file, or a folder, of which four are taken")
    p.add_argument("--recipe", choices=_RECIPES, required=True, help="the recipe", **_NO_DEFAULT)
    p.add_argument("--size", type=int, help="pixels a side of the large views (default: by recipe)", **_NO_DEFAULT)
    p.add_argument("--seed", type=int, default=0, help="of the draws")
    p.add_argument("--rounding", choices=["none", "uint8"], default="none", help="between the steps")
    p.add_argument("--out", help="PNG or JPEG file to write (default: views-RECIPE.png)", **_NO_DEFAULT)
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
    for p in ops.choices.values():
        p.add_argument("--device", help="cpu or cuda (default: cuda where there is one)", **_NO_DEFAULT)
        p.add_argument("--repeats", type=int, default=9, help="measurements, whose median counts")

    p = commands.add_parser("info", help="versions, and every backend with the reason it is on or off")
    p.set_defaults(run=info)
    return top


def pretrain(args: argparse.Namespace) -> None:
    """Run ``fastssl pretrain``."""
    from ._extras import require

    torch = require("torch", "fastssl pretrain")
    require("lightning.pytorch", "fastssl pretrain")
    from . import data, methods
    from .train import fit

    given = vars(args)
    images = data.load(args.data, image_size=given.get("image_size"), decode_size=given.get("decode_size"))
    out = given.get("out") or Path("runs") / f"{args.method}-{images.name}"
    print(f"data     {images}")
    torch.manual_seed(args.seed)
    name = given.get("encoder") or ("small" if images.image_size <= 64 else "resnet18")
    if name == "small":
        encoder = methods.small_resnet(images.channels, images.image_size)
    else:
        encoder = methods.build_encoder(name, in_chans=images.channels, image_size=images.image_size)
    method = methods.METHODS[args.method](
        encoder, temperature=args.temperature, projection_dim=args.projection_dim, image_size=images.image_size
    )
    weights = sum(p.numel() for p in encoder.parameters())
    print(f"encoder  {name}, {weights / 1e6:.2f} million weights, {encoder.num_features} features")
    measured = images.labelled and args.knn_every > 0
    result = fit(
        method,
        images,
        epochs=args.epochs,
        batch_size=args.batch_size,
        lr=given.get("lr"),
        optimizer=args.optimizer,
        weight_decay=given.get("weight_decay"),
        warmup_epochs=given.get("warmup_epochs"),
        out=out,
        seed=args.seed,
        precision=args.precision,
        accelerator=args.accelerator,
        workers=given.get("workers"),
        resume=args.resume,
        overwrite=args.overwrite,
        eval_data=(images, data.load(args.data, split="test", image_size=images.image_size)) if measured else None,
        knn_every=args.knn_every,
        progress=not args.quiet,
    )
    print(f"loss     {result.loss:.4f}")
    if result.knn is not None:
        print(f"kNN      {100 * result.knn:.1f} %")
    print(f"encoder  {result.encoder_path}")
    if images.labelled:
        print(f"next     fastssl evaluate {result.out}")


def evaluate(args: argparse.Namespace) -> None:
    """Run ``fastssl evaluate``."""
    from ._extras import require

    torch = require("torch", "fastssl evaluate")
    from . import data, methods
    from .evaluate import features, knn, linear_probe, plots

    folder = Path(args.folder)
    encoder = methods.load_encoder(folder)
    about = json.loads((folder / "encoder.json").read_text())
    source = vars(args).get("data")
    if source is None:
        config = folder / "config.json"
        source = json.loads(config.read_text()).get("data") if config.is_file() else None
        if source is None:
            raise ValueError(f"data: {config} does not tell the data of the run; pass --data")
    size = None if source in ("digits", "shapes") else about["image_size"]
    train, test = (data.load(source, split=split, image_size=size) for split in ("train", "test"))
    if train.channels != about["in_chans"]:
        raise ValueError(f"data: got images of {train.channels} channels, want {about['in_chans']} as in {folder}")
    if not train.labelled:
        raise ValueError(f"data: {source!r} has no labels, want one sub-folder a class")
    torch.manual_seed(args.seed)
    rows: dict[str, Any] = {"trained encoder": encoder, "untrained encoder": methods.rebuild(about["timm"])}
    table: dict[str, dict[str, float]] = {}
    few = f"linear, {args.labels_per_class} labels a class"
    print(f"{train.name}: {len(train)} training and {len(test)} test images, accuracy in %")
    print(f"{'':20}{'kNN':>10}{few:>30}{'linear, all labels':>22}")
    if train.channels * train.image_size**2 <= 4096:  # a linear probe on more pixels takes hours
        rows["pixels"] = None
    for name, module in rows.items():
        pair = features(module, train), features(module, test)
        table[name] = {
            "kNN": knn(None, *pair, k=args.k).accuracy,
            few: linear_probe(None, *pair, labels_per_class=args.labels_per_class, seed=args.seed).accuracy,
            "linear, all labels": linear_probe(None, *pair).accuracy,
        }
        a, b, c = (100 * value for value in table[name].values())
        print(f"{name:20}{a:10.1f}{b:30.1f}{c:22.1f}", flush=True)
    (folder / "evaluation.json").write_text(json.dumps(table, indent=2) + "\n")
    ordered = dict(reversed(table.items()))
    plots.accuracy_bars(ordered, folder / "evaluation.png", train.name, chance=1 / len(train.classes))
    print(f"written  {folder / 'evaluation.json'}, {folder / 'evaluation.png'}")


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


def info(args: argparse.Namespace) -> None:
    """Run ``fastssl info``."""
    from . import _backend
    from ._extras import TRAIN_EXTRA

    print(f"fastssl      {__version__}")
    print(f"python       {platform.python_version()}, {platform.system()} {platform.machine()}")
    for package in ("torch", "triton", "numpy", *TRAIN_EXTRA.values()):
        print(f"{package:12} {_version(package)}")
    print(f"\n{'op':15}{'backend':10}{'state':8}why")
    for op, backend, on, why in _backend.report():
        print(f"{op:15}{backend:10}{'on' if on else 'off':8}{why}")


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
