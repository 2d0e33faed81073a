"""SimCLR and MAE in minutes on a CPU: trains on two embedded data sets, evaluates, and writes a report.

    python benchmarks/demo.py [--out runs/demo]

Prints and writes ``report.md`` with plots beside it: kNN and linear accuracy of raw pixels, of the encoder before
training and of the encoder after it; the same of a small vision transformer and MAE, with what both learn from ten
labels a class, and pictures of hidden patches filled in; the time of a step with fused augmentation and with
torchvision's, and the memory that the loss takes against its eager form.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from memory import peak_extra_bytes
from torch import Tensor

import fastssl
from fastssl import data, evaluate, methods, transforms
from fastssl._bench import interleave, torchvision_views
from fastssl.functional import Recipe, View

# What was found to work within the time; everything else is fastssl.fit's default.
RECIPES: dict[str, dict[str, Any]] = {
    "shapes": {
        # Strong colour jitter and much grey: the shape is what is left for the two views to agree on.
        "transform": transforms.SimCLRSmall(
            32,
            scale=(0.5, 1.0),
            jitter=(0.8, 0.8, 0.8, 0.5),
            jitter_p=1.0,
            gray_p=0.4,
            memory_format=torch.channels_last,
        ),
        "temperature": 0.2,
        "fit": {"epochs": 26, "batch_size": 64, "lr": 2e-3, "knn_every": 5},
    },
    "digits": {
        "transform": transforms.SimCLRDigits(8, memory_format=torch.channels_last),
        "temperature": 0.2,
        "fit": {"epochs": 20, "batch_size": 128, "lr": 2e-3, "knn_every": 4},
    },
}
# MAE with a small vision transformer. Chosen on a part of the training images that was kept for it.
MASKED: dict[str, dict[str, Any]] = {
    "shapes": {
        # Pixels as they are: in the flat backgrounds, normalising a patch leaves nothing but noise to predict.
        "method": {
            "decoder_dim": 48,
            "decoder_depth": 1,
            "decoder_heads": 2,
            "norm_pix": False,
            "transform": transforms.Transform(Recipe((View(32, (0.6, 1.0)),))),
        },
        "fit": {"epochs": 26, "batch_size": 64, "lr": 4e-3, "knn_every": 13},
        "finetune": {"epochs": 40},
    },
    "digits": {
        "method": {"decoder_dim": 48, "decoder_depth": 1, "decoder_heads": 2, "mask_ratio": 0.5},
        "fit": {"epochs": 60, "batch_size": 64, "lr": 1e-3, "knn_every": 20},
        "finetune": {"epochs": 60},
    },
}
MEASURES = ("kNN", "linear, 10 labels a class", "linear, all labels")
TUNED = "fine-tuned, 10 labels a class"


def accuracies(train: evaluate.Features, test: evaluate.Features) -> dict[str, float]:
    """Accuracy by measure."""
    values = (
        evaluate.knn(None, train, test).accuracy,
        evaluate.linear_probe(None, train, test, labels_per_class=10).accuracy,
        evaluate.linear_probe(None, train, test).accuracy,
    )
    return dict(zip(MEASURES, values, strict=True))


def train_and_evaluate(name: str, out: Path) -> dict[str, dict[str, float]]:
    """Train on one data set and return the accuracies of pixels, untrained and trained encoder."""
    recipe = RECIPES[name]
    train, test = data.load(name), data.load(name, split="test")
    torch.manual_seed(0)
    method = methods.SimCLR(
        methods.small_resnet(train.channels, train.image_size),
        temperature=recipe["temperature"],
        transform=recipe["transform"],
    )
    encoders = {"pixels": None, "untrained encoder": copy.deepcopy(method.encoder), "trained encoder": method.encoder}
    result = fastssl.fit(method, name, out=out / name, overwrite=True, accelerator="cpu", **recipe["fit"])
    pairs = {who: (evaluate.features(e, train), evaluate.features(e, test)) for who, e in encoders.items()}
    table = {who: accuracies(*pair) for who, pair in pairs.items()}
    chance = 1 / len(train.classes)
    evaluate.plots.accuracy_bars(table, out / f"{name}-accuracy.png", f"SimCLR on {name}", chance)
    baselines = {who: table[who]["kNN"] for who in ("pixels", "untrained encoder")}
    evaluate.plots.knn_curve(result.history, out / f"{name}-knn.png", baselines, f"SimCLR on {name}")
    evaluate.plots.loss_curve(result.history, out / f"{name}-loss.png", f"SimCLR on {name}")
    evaluate.plots.embedding(pairs["trained encoder"][1], out / f"{name}-embedding.png", f"SimCLR on {name}")
    return table


def mask_and_evaluate(name: str, out: Path) -> dict[str, dict[str, float]]:
    """Train MAE on one data set and return the accuracies of its encoder from scratch and pretrained."""
    recipe = MASKED[name]
    train, test = data.load(name), data.load(name, split="test")
    torch.manual_seed(0)
    method = methods.MAE(methods.small_vit(train.channels, train.image_size), **recipe["method"])
    encoders = {"ViT from scratch": copy.deepcopy(method.encoder), "ViT after MAE": method.encoder}
    fastssl.fit(method, name, out=out / f"{name}-mae", overwrite=True, accelerator="cpu", **recipe["fit"])
    table = {}
    for who, encoder in encoders.items():
        table[who] = accuracies(evaluate.features(encoder, train), evaluate.features(encoder, test))
        tuned = evaluate.finetune(encoder, train, test, labels_per_class=10, subsets=3, **recipe["finetune"])
        table[who][TUNED] = tuned.accuracy
    evaluate.plots.accuracy_bars(table, out / f"{name}-mae-accuracy.png", f"MAE on {name}", 1 / len(train.classes))
    pictures = method.pictures(test.images[:12])
    evaluate.plots.pictures(pictures, out / f"{name}-mae-reconstruction.png", f"MAE on {name}")
    return table


def masked_table(name: str, table: dict[str, dict[str, float]]) -> list[str]:
    """The section of the report on MAE."""
    recipe, measures = MASKED[name], (*MEASURES, TUNED)
    lines = ["", f"### MAE on {name}", ""]
    lines += [
        f"A small vision transformer, {recipe['method'].get('mask_ratio', 0.75):.0%} of the patches hidden, "
        f"{recipe['fit']['epochs']} epochs; fine-tuned alike from scratch and pretrained, mean of 3 labelled subsets:",
        "",
    ]
    lines += [f"| | {' | '.join(measures)} |", "|---|" + "---:|" * len(measures)]
    lines += [f"| {who} | {' | '.join(f'{100 * row[m]:.1f}' for m in measures)} |" for who, row in table.items()]
    scratch, pretrained = table.values()
    behind = [measure for measure in measures if pretrained[measure] <= scratch[measure]]
    told = f"not ahead in: {', '.join(behind)}" if behind else "ahead in every measure"
    lines += ["", f"The pretrained transformer is {told}.", ""]
    lines += [f"![originals, what the encoder sees, reconstructions]({name}-mae-reconstruction.png)"]
    return lines


def step_times(name: str, rounds: int = 12) -> dict[str, tuple[float, float]]:
    """Median milliseconds of augmentation, and of the rest of a training step, by who augments.

    Torchvision's v2 transforms are those of the recipe, on uint8, one image after another as they are used. Both take
    turns in the same training, one step each.
    """
    recipe, images = RECIPES[name], data.load(name)
    batch_size = recipe["fit"]["batch_size"]
    torch.manual_seed(0)
    method = methods.SimCLR(methods.small_resnet(images.channels, images.image_size), temperature=recipe["temperature"])
    method.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(method.parameters(), lr=recipe["fit"]["lr"])
    views = torchvision_views(recipe["transform"].recipe, images.channels)

    def per_image(batch: Tensor) -> list[Tensor]:
        made = [torch.stack([view(image) for image in batch]) for view in views]
        return [view.contiguous(memory_format=torch.channels_last) for view in made]

    def step(augment: Callable[[Tensor], list[Tensor]], turn: int) -> tuple[float, float]:
        batch, _ = images.batch(range(turn * batch_size, (turn + 1) * batch_size))
        start = time.perf_counter()
        made = augment(batch)
        middle = time.perf_counter()
        method(made).backward()
        optimizer.step()
        optimizer.zero_grad()
        return 1e3 * (middle - start), 1e3 * (time.perf_counter() - middle)

    ways = {"fastssl, fused": recipe["transform"], "torchvision, each image": per_image}
    times = interleave({who: lambda turn, way=way: step(way, turn) for who, way in ways.items()}, rounds, warmup=2)
    return {who: tuple(statistics.median(column) for column in zip(*rows, strict=True)) for who, rows in times.items()}


def step_table(times: dict[str, tuple[float, float]], name: str) -> list[str]:
    """The section of the report on the time of a step."""
    batch_size = RECIPES[name]["fit"]["batch_size"]
    lines = [
        "",
        "## Time of a step",
        "",
        f"Median times of training steps on {name}, batch {batch_size}, in turns:",
        "",
    ]
    lines += ["| augmentation by | augmentation, ms | forward, backward, update, ms | step, ms | images/s |"]
    lines += ["|---|" + "---:|" * 4]
    for who, (augment_ms, rest_ms) in times.items():
        step_ms = augment_ms + rest_ms
        lines += [f"| {who} | {augment_ms:.1f} | {rest_ms:.1f} | {step_ms:.1f} | {1e3 * batch_size / step_ms:.0f} |"]
    return lines


def report(
    tables: dict[str, dict[str, dict[str, float]]],
    masked: dict[str, dict[str, dict[str, float]]],
    times: list[str],
    peaks: dict[str, float],
    pairs: int,
    seconds: float,
) -> str:
    """The report as Markdown."""
    lines = ["# SimCLR and MAE with fastssl on two embedded data sets", ""]
    lines.append(f"Trained and evaluated in {seconds:.0f} s on {torch.get_num_threads()} CPU threads. Accuracy in %.")
    for name, table in tables.items():
        lines += [
            "",
            f"## {name}",
            "",
            f"### SimCLR on {name}",
            "",
            f"| | {' | '.join(MEASURES)} |",
            "|---|" + "---:|" * len(MEASURES),
        ]
        lines += [f"| {who} | {' | '.join(f'{100 * row[m]:.1f}' for m in MEASURES)} |" for who, row in table.items()]
        behind = [
            f"{measure} ({who})"
            for who in ("pixels", "untrained encoder")
            for measure in MEASURES
            if table["trained encoder"][measure] <= table[who][measure]
        ]
        told = f"not ahead in: {', '.join(behind)}" if behind else "ahead of both in every measure"
        lines += ["", f"The trained encoder is {told}."]
        lines += [f"Plots: {', '.join(f'[{p}]({name}-{p}.png)' for p in ('accuracy', 'knn', 'loss', 'embedding'))}."]
        lines += masked_table(name, masked[name])
    lines += times
    ratio = peaks["eager"] / max(peaks["fastssl"], 1e-9)
    lines += ["", "## Memory of the loss", ""]
    lines += [f"Peak of NT-Xent forward plus backward, {pairs} pairs of width 128, float32, on top of the inputs:", ""]
    lines += [
        f"- eager PyTorch: {peaks['eager']:.0f} MiB",
        f"- fastssl: {peaks['fastssl']:.0f} MiB ({ratio:.0f} times less)",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder of the report")
    parser.add_argument("--only", choices=RECIPES, help="one data set")
    args = parser.parse_args()
    start = time.perf_counter()
    args.out.mkdir(parents=True, exist_ok=True)
    tables = {name: train_and_evaluate(name, args.out) for name in RECIPES if args.only in (None, name)}
    masked = {name: mask_and_evaluate(name, args.out) for name in tables}
    timed = args.only or "shapes"
    times = step_table(step_times(timed), timed)
    pairs = 4096
    peaks = {form: peak_extra_bytes(form, 2 * pairs) / 2**20 for form in ("fastssl", "eager")}
    text = report(tables, masked, times, peaks, pairs, time.perf_counter() - start)
    (args.out / "report.md").write_text(text)
    print(text)
    print(f"written  {args.out / 'report.md'}")


if __name__ == "__main__":
    main()
