"""SimCLR in minutes on a CPU: trains on two embedded data sets, evaluates, and writes a report.

    python benchmarks/demo.py [--out runs/demo]

Prints and writes ``report.md`` with plots beside it: kNN and linear accuracy of raw pixels, of the encoder before
training and of the encoder after it, and the memory that the loss takes against its eager form.
"""

from __future__ import annotations

import argparse
import copy
import time
from pathlib import Path
from typing import Any

import torch
from memory import peak_extra_bytes

import fastssl
from fastssl import data, evaluate, methods, transforms

# What was found to work within the time; everything else is fastssl.fit's default.
RECIPES: dict[str, dict[str, Any]] = {
    "shapes": {
        # Strong colour jitter and much grey: the shape is what is left for the two views to agree on.
        "transform": transforms.SimCLRSmall(
            32, scale=(0.5, 1.0), jitter=(0.8, 0.8, 0.8, 0.5), jitter_p=1.0, gray_p=0.4
        ),
        "temperature": 0.2,
        "fit": {"epochs": 26, "batch_size": 64, "lr": 2e-3, "knn_every": 5},
    },
    "digits": {
        "transform": transforms.SimCLRDigits(8),
        "temperature": 0.2,
        "fit": {"epochs": 20, "batch_size": 128, "lr": 2e-3, "knn_every": 4},
    },
}
MEASURES = ("kNN", "linear, 10 labels a class", "linear, all labels")


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


def report(tables: dict[str, dict[str, dict[str, float]]], peaks: dict[str, float], pairs: int, seconds: float) -> str:
    """The report as Markdown."""
    lines = ["# SimCLR with fastssl on two embedded data sets", ""]
    lines.append(f"Trained and evaluated in {seconds:.0f} s on {torch.get_num_threads()} CPU threads. Accuracy in %.")
    for name, table in tables.items():
        lines += ["", f"## {name}", "", f"| | {' | '.join(MEASURES)} |", "|---|" + "---:|" * len(MEASURES)]
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
    pairs = 4096
    peaks = {form: peak_extra_bytes(form, 2 * pairs) / 2**20 for form in ("fastssl", "eager")}
    text = report(tables, peaks, pairs, time.perf_counter() - start)
    (args.out / "report.md").write_text(text)
    print(text)
    print(f"written  {args.out / 'report.md'}")


if __name__ == "__main__":
    main()
