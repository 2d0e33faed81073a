"""The command ``fastssl evaluate``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ._cli_options import NO_DEFAULT
from ._compare_table import number

_BARS = ("knn", "few_labels", "linear_probe", "finetune")  # the judgements of evaluation.png


def add_parsers(commands: Any, settings: dict[str, Any]) -> None:
    """Add the parser of the command."""
    p = commands.add_parser(
        "evaluate",
        help="judge a trained encoder beside an untrained one",
        description="Accuracies by nearest neighbours, linear probes and retrieval, clusters, rank, alignment and "
        "uniformity, and what planted shortcuts do; in seconds for small encoders. More by the options. On clips: how "
        "far the masks of first frames can be carried along.",
        **settings,
    )
    p.add_argument("folder", metavar="RUN", help="folder of a run, as pretrain leaves it")
    p.add_argument("--data", help="labelled data (default: those of the run)", **NO_DEFAULT)
    p.add_argument("--k", type=int, default=20, help="neighbours that vote")
    p.add_argument(
        "--labels-per-class", type=int, default=10, help="labels of the small linear probe and of fine-tuning"
    )
    p.add_argument("--finetune", action="store_true", help="train the whole encoder on these labels, too")
    p.add_argument(
        "--label-efficiency", action="store_true", help="probe, fine-tune and train from scratch on 1 to 100 labels"
    )
    p.add_argument("--all", action="store_true", help="every judgement, those of the two options above as well")
    p.add_argument("--finetune-epochs", type=int, default=100, help="passes through the labels")
    p.add_argument("--subsets", type=int, default=5, help="draws of labels that accuracies are averaged over")
    p.add_argument("--seed", type=int, default=0, help="of the labelled subsets and the untrained encoder")
    p.set_defaults(run=evaluate)


def evaluate(args: argparse.Namespace) -> None:
    """Run ``fastssl evaluate``."""
    from ._extras import require

    torch = require("torch", "fastssl evaluate")
    from . import methods
    from .data import Clips, Texts
    from .evaluate import COSTLY, QUICK, judge, label_propagation
    from .evaluate._judge import WIDEST
    from .methods._encoder import read_about

    folder = Path(args.folder)
    encoder = methods.load_encoder(folder)
    about = read_about(folder / "encoder.safetensors")
    train, test = _data(folder, about, vars(args).get("data"))
    torch.manual_seed(args.seed)
    rows: dict[str, Any] = {"trained encoder": encoder, "untrained encoder": methods.rebuild(about["timm"])}
    clips, texts = isinstance(test, Clips), isinstance(test, Texts)
    if "image_size" in about and not clips and train.channels * train.image_size**2 <= WIDEST:
        rows["pixels"] = None
    which = [*QUICK, *(way for way in COSTLY if args.all or getattr(args, way))]
    tuning = {"epochs": args.finetune_epochs}
    what = "texts" if texts else "images"
    images = f"{len(train)} training and {len(test)} test {what}; accuracies and agreement in %"
    masks = f"{len(test)} test clips; overlap of carried masks in %"
    print(f"{train.name}: {masks if clips else images}", flush=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    results: dict[str, dict[str, Any]] = {}
    for name, module in rows.items():
        module = module if module is None else module.to(device)
        if clips and module is not None:
            results[name] = {"label_propagation": label_propagation(module, test)}
            continue
        if texts and not test.labelled:
            results[name] = {}
            continue
        results[name] = judge(
            module, train, test, which=which, k=args.k,
            labels_per_class=args.labels_per_class, subsets=args.subsets, seed=args.seed, finetuning=tuning,
        )  # fmt: skip
    if texts:
        results["trained encoder"]["masked_tokens"] = _masked_tokens(folder, encoder, train, test)
    for line in _table(results):
        print(line)
    told = {name: {way: each.to_dict() for way, each in found.items()} for name, found in results.items()}
    (folder / "evaluation.json").write_text(json.dumps(told, indent=2) + "\n")
    plotted = _plots(folder, results, train, test) if train.labelled else []
    for path in (folder / "evaluation.json", *plotted):
        print(f"written  {path}")


def _data(folder: Path, about: Mapping[str, Any], source: str | None) -> tuple[Any, Any]:
    """Load the training and test data of a run, or others that its encoder takes."""
    from . import data

    if source is None:
        config = folder / "config.json"
        source = json.loads(config.read_text()).get("data") if config.is_file() else None
        if source is None:
            raise ValueError(f"data: {config} does not tell the data of the run; pass --data")
    if "vocab_size" in about:
        reading: dict[str, Any] = {"length": about["length"], "tokenizer": folder / "tokenizer.json"}
        train, test = (data.texts(source, split=split, **reading) for split in ("train", "test"))
        return train, test
    size = None if source == "digits" else about["image_size"]
    known = data.load(source, image_size=size)
    if known.channels != about["in_chans"]:
        raise ValueError(f"data: got images of {known.channels} channels, want {about['in_chans']} as in {folder}")
    if not known.labelled and not isinstance(known, data.Clips):
        raise ValueError(f"data: {source!r} has no labels, want one sub-folder a class")
    return known, data.load(source, split="test", image_size=size)


def _masked_tokens(folder: Path, encoder: Any, train: Any, test: Any) -> Any:
    """Measure the language model of a run, whose head is in its checkpoint alone."""
    import torch

    from . import methods
    from .evaluate import masked_tokens

    method = methods.BERT(encoder)
    state = torch.load(folder / "last.ckpt", map_location="cpu", weights_only=True)["state_dict"]
    method.load_state_dict({key.removeprefix("method."): value for key, value in state.items()})
    return masked_tokens(method, train, test)


def _scores(found: Mapping[str, Any], ways: Sequence[str] | None = None) -> dict[str, float]:
    """Return the scores of results by their names."""
    return {
        name: value
        for way, result in found.items()
        if ways is None or way in ways
        for name, value in result.scores.items()
    }


def _table(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the lines of a table: a score in each, an encoder in each column."""
    columns = {name: _scores(found) for name, found in results.items()}
    names = list(dict.fromkeys(name for scores in columns.values() for name in scores))
    lines = [f"{'':34}" + "".join(f"{name:>20}" for name in columns)]
    for name in names:
        cells = (number(name, scores[name]) if name in scores else "" for scores in columns.values())
        lines.append((f"{name:34}" + "".join(f"{cell:>20}" for cell in cells)).rstrip())
    return lines


def _plots(folder: Path, results: Mapping[str, Mapping[str, Any]], train: Any, test: Any) -> list[Path]:
    """Draw what there is to see, and return the files."""
    from .data import Images
    from .evaluate import plots

    chance, trained = 1 / len(train.classes), results["trained encoder"]
    bars = {name: _scores(found, _BARS) for name, found in reversed([*results.items()])}
    written = [plots.accuracy_bars(bars, folder / "evaluation.png", train.name, chance)]
    if isinstance(train, Images) and "retrieval" in trained:
        title = f"nearest images of {train.name}"
        written.append(plots.retrieval(trained["retrieval"], train, test, folder / "retrieval.png", title))
    for way, draw, title in (
        ("shortcut_audit", plots.shortcut_audit, "planted shortcuts"),
        ("label_efficiency", plots.label_efficiency, "labels"),
    ):
        if way in trained:
            written.append(draw(trained[way], folder / f"{way}.png", f"{title}, {train.name}", chance))
    return written
