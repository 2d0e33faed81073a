"""The command ``fastssl pretrain``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ._cli_build import BATCH, ENCODERS, prepare
from ._cli_methods import METHODS, Method
from ._cli_options import NO_DEFAULT


def add_parsers(commands: Any, settings: dict[str, Any]) -> None:
    """Add the parsers of the command."""
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


def _add_text(p: argparse.ArgumentParser, method: Method) -> None:
    told = "pydoc, or a folder of text files (sub-folders are classes)"
    p.add_argument("--data", required=True, help=told, **NO_DEFAULT)
    sizes = "bert-tiny, bert-mini, bert-small, bert-medium, bert-base or bert-large"
    p.add_argument("--encoder", help=f"{sizes} (default: {ENCODERS[method.encoder][0]})", **NO_DEFAULT)
    p.add_argument("--length", type=int, default=64, help="tokens of a text")
    p.add_argument("--vocab-size", type=int, default=2048, help="tokens in the vocabulary, at most")


def _add_images(p: argparse.ArgumentParser, method: Method) -> None:
    told = "digits, shapes, photos, clips, or a folder of images (sub-folders are classes)"
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


def _add_training(p: argparse.ArgumentParser, method: Method) -> None:
    (_add_text if method.reads == "text" else _add_images)(p, method)
    p.add_argument("--epochs", type=int, default=100, help="passes through the data")
    if method.chunks:
        told = "images in memory at a time, for batches that would not fit otherwise (default: the batch)"
        p.add_argument("--chunk-size", type=int, help=told, **NO_DEFAULT)
    for flag, kind, what, told in (
        ("--batch-size", int, f"{method.reads if method.reads == 'images' else 'texts'} a step", str(BATCH)),
        ("--optimizer", str, "optimizer", method.optimizer),
        ("--lr", float, "peak learning rate", "by method and optimizer, see fastssl.fit"),
        ("--weight-decay", float, "weight decay", "by method and optimizer"),
    ):
        small_value = method.small_fit.get(flag[2:].replace("-", "_"))
        if small_value is not None:
            told = f"{told}; {small_value} for small images" if method.reads == "images" else str(small_value)
        choices = ["adamw", "sgd", "lars"] if kind is str else None
        p.add_argument(flag, type=kind, choices=choices, help=f"{what} (default: {told})", **NO_DEFAULT)
    p.add_argument("--warmup-epochs", type=float, help="warmup (default: a tenth of the epochs)", **NO_DEFAULT)
    p.add_argument("--seed", type=int, default=0, help="of the initial weights, the data order and the augmentation")
    p.add_argument("--precision", choices=["32-true", "16-mixed", "bf16-mixed"], default="32-true", help="arithmetic")
    p.add_argument("--accelerator", default="auto", help="auto, cpu, gpu ...")
    p.add_argument("--workers", type=int, help="processes that read the data (default: by data)", **NO_DEFAULT)
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
    from .evaluate import masked_tokens
    from .train import fit

    given, kind = vars(args), args.method
    reads_text = METHODS[kind].reads == "text"
    images: Any
    if reads_text:
        images = data.texts(args.data, length=args.length, vocab_size=args.vocab_size)
    else:
        images = data.load(args.data, image_size=given.get("image_size"), decode_size=given.get("decode_size"))
    out = given.get("out") or Path("runs") / f"{kind}-{images.name}"
    print(f"data     {images}")
    prepared = prepare(kind, images, given)
    method, encoder = prepared.method, prepared.method.encoder
    weights = sum(p.numel() for p in encoder.parameters())
    print(f"encoder  {prepared.encoder}, {weights / 1e6:.2f} million weights, {encoder.num_features} features")
    test: Any = None
    if reads_text:
        test = _test_texts(args.data, images)
    elif images.labelled and args.knn_every > 0:
        test = data.load(args.data, split="test", image_size=images.image_size)
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
        eval_data=(images, test) if images.labelled and test is not None else None,
        knn_every=args.knn_every,
        progress=not args.quiet,
    )
    print(f"loss     {result.loss:.4f}")
    if result.knn is not None:
        print(f"kNN      {100 * result.knn:.1f} %")
    if reads_text and test is not None:
        print(f"words    {in_words(masked_tokens(method, images, test))}")
    if hasattr(method, "pictures"):
        print(f"picture  {result.out / 'pictures.png'}")
    print(f"encoder  {result.encoder_path}")
    if images.labelled:
        print(f"next     fastssl evaluate {result.out}")


def _test_texts(source: str, train: Any) -> Any:
    """Return the test split of texts, None where they are too few to be split."""
    from . import data

    try:
        return data.texts(source, split="test", length=train.length, tokenizer=train.tokenizer)
    except ValueError:
        return None


def in_words(found: Any) -> str:
    """Return the scores of hidden words in a line."""
    right, by_frequency = 100 * found.accuracy, 100 * found.unigram_accuracy
    return (
        f"{right:.1f} % of {found.tokens} hidden tokens of test texts told ({by_frequency:.1f} % by frequency), "
        f"perplexity {found.perplexity:.1f} ({found.unigram_perplexity:.1f})"
    )
