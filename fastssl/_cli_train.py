"""The commands ``fastssl pretrain`` and ``fastssl evaluate``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ._cli_build import BATCH, ENCODERS, prepare
from ._cli_methods import METHODS, NO_DEFAULT, Method


def add_parsers(commands: Any, settings: dict[str, Any]) -> None:
    """Add the parsers of both commands."""
    ways = commands.add_parser("pretrain", help="train an encoder without labels").add_subparsers(
        dest="method", required=True, metavar="METHOD"
    )
    for name, method in METHODS.items():
        p = ways.add_parser(name, help=method.help, description=f"{name}: {method.help}", **settings)
        group = p.add_argument_group("of the method")
        for option in (*method.options, *method.views):
            option.add_to(group)
        _add_training(p, method)
        p.set_defaults(run=pretrain)

    p = commands.add_parser("evaluate", help="kNN, linear and fine-tuned accuracy of a trained encoder", **settings)
    p.add_argument("folder", metavar="RUN", help="folder of a run, as pretrain leaves it")
    p.add_argument("--data", help="labelled data (default: those of the run)", **NO_DEFAULT)
    p.add_argument("--k", type=int, default=20, help="neighbours that vote")
    p.add_argument(
        "--labels-per-class", type=int, default=10, help="labels of the small linear probe and of fine-tuning"
    )
    p.add_argument("--finetune", action="store_true", help="train the whole encoder on these labels, too")
    p.add_argument("--finetune-epochs", type=int, default=100, help="passes through them")
    p.add_argument("--seed", type=int, default=0, help="of the labelled subsets and the untrained encoder")
    p.set_defaults(run=evaluate)


def _add_training(p: argparse.ArgumentParser, method: Method) -> None:
    told = "digits, shapes, or a folder of images (sub-folders are classes)"
    p.add_argument("--data", required=True, help=told, **NO_DEFAULT)
    small, large = ENCODERS[method.encoder]
    p.add_argument(
        "--encoder",
        help="name of a timm model, or small-resnet or small-vit, which train on a CPU in minutes "
        f"(default: {small} up to 64 pixels, else {large})",
        **NO_DEFAULT,
    )
    p.add_argument(
        "--image-size", type=int, help="pixels a side (default: of the data; 224 for a folder)", **NO_DEFAULT
    )
    p.add_argument(
        "--decode-size",
        type=int,
        help="for large photographs: decode JPEGs at 1/2, 1/4 or 1/8 while both sides keep so many pixels "
        "(default: at their own size)",
        **NO_DEFAULT,
    )
    p.add_argument("--epochs", type=int, default=100, help="passes through the data")
    if method.chunks:
        told = "images in memory at a time, for batches that would not fit otherwise (default: the batch)"
        p.add_argument("--chunk-size", type=int, help=told, **NO_DEFAULT)
    for flag, kind, what, told in (
        ("--batch-size", int, "images a step", str(BATCH)),
        ("--optimizer", str, "optimizer", method.optimizer),
        ("--lr", float, "peak learning rate", "by method and optimizer, see fastssl.fit"),
        ("--weight-decay", float, "weight decay", "by method and optimizer"),
    ):
        small_value = method.small_fit.get(flag[2:].replace("-", "_"))
        told += "" if small_value is None else f"; {small_value} for small images"
        choices = ["adamw", "sgd", "lars"] if kind is str else None
        p.add_argument(flag, type=kind, choices=choices, help=f"{what} (default: {told})", **NO_DEFAULT)
    p.add_argument("--warmup-epochs", type=float, help="warmup (default: a tenth of the epochs)", **NO_DEFAULT)
    p.add_argument("--seed", type=int, default=0, help="of the initial weights, the data order and the augmentation")
    p.add_argument("--precision", choices=["32-true", "16-mixed", "bf16-mixed"], default="32-true", help="arithmetic")
    p.add_argument("--accelerator", default="auto", help="auto, cpu, gpu ...")
    p.add_argument("--workers", type=int, help="processes that read images (default: by data)", **NO_DEFAULT)
    p.add_argument("--knn-every", type=int, default=10, help="epochs between kNN measurements, 0 for none")
    p.add_argument("--out", help="folder of the run (default: runs/METHOD-DATA)", **NO_DEFAULT)
    p.add_argument("--resume", action="store_true", help="continue the run in --out, if there is one")
    p.add_argument("--overwrite", action="store_true", help="replace the run in --out")
    p.add_argument("--quiet", action="store_true", help="no progress bar")


def pretrain(args: argparse.Namespace) -> None:
    """Run ``fastssl pretrain``."""
    from ._extras import require

    require("torch", "fastssl pretrain")
    require("lightning.pytorch", "fastssl pretrain")
    from . import data
    from .train import fit

    given, kind = vars(args), args.method
    images = data.load(args.data, image_size=given.get("image_size"), decode_size=given.get("decode_size"))
    out = given.get("out") or Path("runs") / f"{kind}-{images.name}"
    print(f"data     {images}")
    prepared = prepare(kind, images, given)
    method, encoder = prepared.method, prepared.method.encoder
    weights = sum(p.numel() for p in encoder.parameters())
    print(f"encoder  {prepared.encoder}, {weights / 1e6:.2f} million weights, {encoder.num_features} features")
    measured = images.labelled and args.knn_every > 0
    result = fit(
        method,
        images,
        epochs=args.epochs,
        **prepared.settings,
        out=out,
        seed=args.seed,
        precision=args.precision,
        accelerator=args.accelerator,
        resume=args.resume,
        overwrite=args.overwrite,
        eval_data=(images, data.load(args.data, split="test", image_size=images.image_size)) if measured else None,
        knn_every=args.knn_every,
        progress=not args.quiet,
    )
    print(f"loss     {result.loss:.4f}")
    if result.knn is not None:
        print(f"kNN      {100 * result.knn:.1f} %")
    if hasattr(method, "pictures"):
        print(f"picture  {result.out / 'pictures.png'}")
    print(f"encoder  {result.encoder_path}")
    if images.labelled:
        print(f"next     fastssl evaluate {result.out}")


def evaluate(args: argparse.Namespace) -> None:
    """Run ``fastssl evaluate``."""
    from ._extras import require

    torch = require("torch", "fastssl evaluate")
    from . import data, methods
    from .evaluate import features, finetune, knn, linear_probe, plots

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
    tuned = f"fine-tuned, {args.labels_per_class} labels a class"
    print(f"{train.name}: {len(train)} training and {len(test)} test images, accuracy in %")
    print(f"{'':20}{'kNN':>10}{few:>30}{'linear, all labels':>22}{tuned if args.finetune else '':>34}".rstrip())
    if train.channels * train.image_size**2 <= 4096:  # a linear probe on more pixels takes hours
        rows["pixels"] = None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for name, module in rows.items():
        module = module if module is None else module.to(device)
        pair = features(module, train), features(module, test)
        table[name] = {
            "kNN": knn(None, *pair, k=args.k).accuracy,
            few: linear_probe(None, *pair, labels_per_class=args.labels_per_class, seed=args.seed).accuracy,
            "linear, all labels": linear_probe(None, *pair).accuracy,
        }
        if args.finetune and module is not None:
            options = {"labels_per_class": args.labels_per_class, "seed": args.seed, "epochs": args.finetune_epochs}
            table[name][tuned] = finetune(module, train, test, **options).accuracy
        values = [
            f"{100 * value:{width}.1f}" for value, width in zip(table[name].values(), (10, 30, 22, 34), strict=False)
        ]
        print(f"{name:20}{''.join(values)}", flush=True)
    (folder / "evaluation.json").write_text(json.dumps(table, indent=2) + "\n")
    ordered = dict(reversed(table.items()))
    plots.accuracy_bars(ordered, folder / "evaluation.png", train.name, chance=1 / len(train.classes))
    print(f"written  {folder / 'evaluation.json'}, {folder / 'evaluation.png'}")
