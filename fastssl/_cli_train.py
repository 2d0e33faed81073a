"""The commands ``fastssl pretrain`` and ``fastssl evaluate``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

# Keeps argparse's formatter from printing "(default: None)" where the help tells the default in words.
NO_DEFAULT: dict[str, Any] = {"default": argparse.SUPPRESS}

# What the keys of fastssl.methods.METHODS do; asking the module itself would import torch.
_HELP = {
    "simclr": "two views of each image must agree, against all others",
    "moco": "the first view must find the second among a queue of others, seen by a slow copy of the encoder",
    "mae": "hide most patches of a vision transformer, and reconstruct them with a small decoder",
    "simmim": "hide squares behind mask tokens, and predict their pixels linearly",
    "dae": "reconstruct the clean image of a corrupted one, from the features alone",
}
_VITS = ("mae", "simmim")  # the methods that mask patches
# Settings for images up to 64 pixels, with a small encoder: the published ones are for large ones on much data.
_SMALL: dict[str, dict[str, Any]] = {
    "mae": {"decoder_dim": 48, "decoder_depth": 1, "decoder_heads": 2},
    "simmim": {},
    "dae": {},
    "simclr": {},
    "moco": {"queue_size": 4096, "momentum": 0.99},
}
_SMALL_LR = 1e-3


def add_parsers(commands: Any, settings: dict[str, Any]) -> None:
    """Add the parsers of both commands."""
    ways = commands.add_parser("pretrain", help="train an encoder without labels").add_subparsers(
        dest="method", required=True, metavar="METHOD"
    )
    for name, told in _HELP.items():
        p = ways.add_parser(name, help=told, description=f"{name}: {told}", **settings)
        _add_method(p.add_argument_group("of the method"), name)
        _add_training(p, name)
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


def _add_method(p: Any, name: str) -> None:
    if name == "simclr":
        p.add_argument("--temperature", type=float, default=0.5, help="temperature of the loss")
    if name == "moco":
        p.add_argument("--version", choices=["v1", "v2"], default="v2", help="of MoCo: v2 has a deeper head, and blur")
        told = "temperature of the loss (default: 0.2; 0.07 for v1)"
        p.add_argument("--temperature", type=float, help=told, **NO_DEFAULT)
        told = "keys in the queue (default: 65536, or 4096 for small images, but no more than there are images)"
        p.add_argument("--queue-size", type=int, help=told, **NO_DEFAULT)
        told = "part of the copy that stays at each step (default: 0.999; 0.99 for small images)"
        p.add_argument("--momentum", type=float, help=told, **NO_DEFAULT)
    if name in ("simclr", "moco"):
        p.add_argument("--projection-dim", type=int, default=128, help="width of the projections")
    if name in _VITS:
        p.add_argument("--mask-ratio", type=float, default=0.75 if name == "mae" else 0.6, help="part that is hidden")
    if name == "mae":
        small = _SMALL["mae"]
        for key, large, what in (("dim", 512, "width"), ("depth", 8, "blocks"), ("heads", 16, "attention heads")):
            told = f"{what} of the decoder (default: {large}; {small[f'decoder_{key}']} for small images)"
            p.add_argument(f"--decoder-{key}", type=int, help=told, **NO_DEFAULT)
        p.add_argument("--no-norm-pix", dest="norm_pix", action="store_false", help="predict pixels as they are")
    if name == "simmim":
        told = "side of the hidden squares in pixels (default: 32; an eighth of a small image)"
        p.add_argument("--mask-patch-size", type=int, help=told, **NO_DEFAULT)
    if name == "dae":
        kinds = ["gaussian", "dropout", "mask"]
        p.add_argument("--corruption", choices=kinds, default="gaussian", help="noise, grey pixels, or grey squares")
        told = "deviation of the noise where white is 1 (default: 0.25), or part that turns grey (default: 0.5)"
        p.add_argument("--strength", type=float, help=told, **NO_DEFAULT)


def _add_training(p: argparse.ArgumentParser, name: str) -> None:
    told = "digits, shapes, or a folder of images (sub-folders are classes)"
    p.add_argument("--data", required=True, help=told, **NO_DEFAULT)
    small, large = ("vit", "vit_base_patch16_224") if name in _VITS else ("resnet", "resnet18")
    p.add_argument(
        "--encoder",
        help="name of a timm model, or small-resnet or small-vit, which train on a CPU in minutes "
        f"(default: small-{small} up to 64 pixels, else {large})",
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
    p.add_argument("--batch-size", type=int, default=256, help="images a step")
    if name == "simclr":
        told = "images in memory at a time, for batches that would not fit otherwise (default: the batch)"
        p.add_argument("--chunk-size", type=int, help=told, **NO_DEFAULT)
    told = f"optimizer (default: {'sgd' if name == 'moco' else 'adamw'})"
    p.add_argument("--optimizer", choices=["adamw", "sgd", "lars"], help=told, **NO_DEFAULT)
    told = "by method and optimizer, see fastssl.fit"
    if name in _VITS:
        told += f"; {_SMALL_LR:g} for small images"
    p.add_argument("--lr", type=float, help=f"peak learning rate (default: {told})", **NO_DEFAULT)
    told = "weight decay (default: by method and optimizer)"
    p.add_argument("--weight-decay", type=float, help=told, **NO_DEFAULT)
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


_METHOD_OPTIONS = (
    "temperature", "projection_dim", "mask_ratio", "decoder_dim", "decoder_depth", "decoder_heads", "norm_pix",
    "mask_patch_size", "corruption", "strength", "version", "queue_size", "momentum",
)  # fmt: skip


def _encoder(method: str, name: str, channels: int, image_size: int) -> Any:
    """Make the encoder of a run: small-resnet, small-vit, or what timm calls `name`."""
    from . import methods

    if name in ("small-resnet", "small-vit"):
        return (methods.small_resnet if name == "small-resnet" else methods.small_vit)(channels, image_size)
    more: dict[str, Any] = {"img_size": image_size, "init": "mae"} if method in _VITS else {}
    return methods.build_encoder(name, in_chans=channels, **more)


def pretrain(args: argparse.Namespace) -> None:
    """Run ``fastssl pretrain``."""
    from ._extras import require

    torch = require("torch", "fastssl pretrain")
    require("lightning.pytorch", "fastssl pretrain")
    from . import data, methods
    from .train import fit

    given, kind = vars(args), args.method
    images = data.load(args.data, image_size=given.get("image_size"), decode_size=given.get("decode_size"))
    out = given.get("out") or Path("runs") / f"{kind}-{images.name}"
    print(f"data     {images}")
    torch.manual_seed(args.seed)
    is_small = images.image_size <= 64
    small, large = ("small-vit", "vit_base_patch16_224") if kind in _VITS else ("small-resnet", "resnet18")
    name = given.get("encoder") or (small if is_small else large)
    name = small if name == "small" else name
    encoder = _encoder(kind, name, images.channels, images.image_size)
    options = _SMALL[kind].copy() if is_small else {}
    if kind == "moco":
        options["queue_size"] = min(options.get("queue_size", 65536), len(images))
    options.update((key, given[key]) for key in _METHOD_OPTIONS if key in given)
    method = methods.METHODS[kind](encoder, image_size=images.image_size, **options)
    weights = sum(p.numel() for p in encoder.parameters())
    print(f"encoder  {name}, {weights / 1e6:.2f} million weights, {encoder.num_features} features")
    measured = images.labelled and args.knn_every > 0
    result = fit(
        method,
        images,
        epochs=args.epochs,
        batch_size=args.batch_size,
        chunk_size=given.get("chunk_size"),
        lr=given.get("lr", _SMALL_LR if is_small and kind in _VITS and "optimizer" not in given else None),
        optimizer=given.get("optimizer"),
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
    picture = result.out / "reconstruction.png"
    if hasattr(method, "reconstruct"):
        print(f"picture  {picture}")
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
