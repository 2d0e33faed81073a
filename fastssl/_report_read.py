"""What the folders of runs hold for `fastssl.report`, and what they lack."""

from __future__ import annotations

import base64
import csv
import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ._extras import require

# The pictures that fit and evaluate leave, in this order, before all others; the curves are drawn anew.
_CAPTIONS = {
    "pictures.png": "What {method} does with eight images",
    "embedding.png": "Features of the images over their first two principal components",
    "evaluation.png": "Accuracy of the encoder, of the same one untrained, and of the pixels",
    "latent.png": "The codes of the images, over two of their numbers or their principal components",
    "label_efficiency.png": "Accuracy by the number of labels a class",
    "retrieval.png": "Test images and their nearest training images in the features",
    "shortcut_audit.png": "Accuracy with, without and against a cue that tells the class in training alone",
}
GROUPS = ("settings", "arguments", "environment", "versions", "sessions")  # of config.json
_REDRAWN = ("loss.png", "knn.png")
TRAINED, UNTRAINED = "trained encoder", "untrained encoder"
_Row = dict[str, "float | None"]


@dataclass(frozen=True)
class Judgement:
    """A result of `fastssl.evaluate`: in which way, of which encoder, the scores by their names, and how they came."""

    way: str
    encoder: str
    scores: dict[str, float]
    std: float | None
    protocol: dict[str, Any]


@dataclass
class Run:
    """What the folder of a run holds, and what it lacks: sentences, and commands that help."""

    number: int
    folder: Path
    name: str
    config: dict[str, Any]
    history: list[_Row] = field(default_factory=list)
    encoder: dict[str, Any] = field(default_factory=dict)
    judgements: list[Judgement] = field(default_factory=list)
    pictures: list[dict[str, Any]] = field(default_factory=list)
    lacks: list[dict[str, str]] = field(default_factory=list)

    def points(self, column: str) -> list[tuple[float, float]]:
        """Return (epoch, value) of the rows of the history that tell a value."""
        named = [(row["epoch"], row.get(column)) for row in self.history]
        return [(epoch, value) for epoch, value in named if epoch is not None and value is not None]

    def lack(self, what: str, command: str = "") -> None:
        """Note what the page leaves out."""
        self.lacks.append({"what": what, "command": command})


def run_folders(folder: Path) -> list[Path]:
    """Return the folder of a run, or those of the runs in it."""
    if not folder.is_dir():
        raise FileNotFoundError(f"runs: no folder {str(folder)!r}")
    if (folder / "config.json").is_file():
        return [folder]
    found = sorted(path.parent for path in folder.glob("*/config.json"))
    if not found:
        raise ValueError(f"runs: {str(folder)!r} holds no config.json, want the folder of a run of fastssl.fit")
    return found


def read_run(number: int, folder: Path, name: str) -> Run:
    """Read what the folder of a run holds."""
    try:
        config = _config(folder / "config.json")
    except ValueError as error:
        raise ValueError(f"runs: {error}") from None
    run = Run(number, folder, name, config)
    run.history = _part(run, "metrics.csv", _history) or []
    run.encoder = _part(run, "encoder.json", _json) or {}
    evaluated = f"fastssl evaluate {shlex.quote(str(folder))}"
    if not config.get("classes"):
        evaluated += " --data LABELLED"
    if (folder / "row.json").is_file() and not (folder / "evaluation.json").is_file():
        run.judgements = _part(run, "row.json", _compared) or []
    else:
        run.judgements = _part(run, "evaluation.json", lambda path: _judgements(_json(path)), evaluated) or []
    found = sorted(path.name for path in folder.glob("*.png") if path.name not in (*_CAPTIONS, *_REDRAWN))
    for file in (*_CAPTIONS, *found):
        picture = _part(run, file, lambda path: _picture(path, config), evaluated if file == "evaluation.png" else "")
        run.pictures += [picture] if picture else []
    return run


# What a run without a file lacks; the command that writes it stands in its place where there is one.
_LACKS = {
    "metrics.csv": "No curves, as there is no metrics.csv, which fastssl.fit writes while it trains",
    "encoder.json": "No encoder yet: fastssl.fit exports it when the run ends, and with resume=True goes on to there",
    "evaluation.json": "Not judged beside an untrained encoder yet",
    "pictures.png": "No pictures.png: fastssl.fit draws it when the run ends, of a method that has .pictures(images)",
    "embedding.png": "No map of the features: fastssl.fit draws it when the run ends",
}


def _part(run: Run, file: str, read: Callable[[Path], Any], command: str = "") -> Any:
    """Read a file of a run, or note that it is missing or damaged, and return None."""
    path = run.folder / file
    if not path.is_file():
        if file in _LACKS:
            run.lack(_LACKS[file], command)
        return None
    try:
        return read(path)
    except ValueError as error:
        run.lack(f"Left out: {error}", command)
        return None


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is damaged ({error})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{str(path)!r} is damaged (a {type(content).__name__}, want an object)")
    return content


def _config(path: Path) -> dict[str, Any]:
    config = _json(path)
    for name in GROUPS:
        kind = list if name == "sessions" else dict
        if not isinstance(config.setdefault(name, kind()), kind):
            raise ValueError(f"{str(path)!r} is damaged ({name} is a {type(config[name]).__name__})")
    return config


def _history(path: Path) -> list[_Row]:
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = [
                {name: float(value) if value else None for name, value in row.items()} for row in csv.DictReader(file)
            ]
        if not rows or None in [row["epoch"] for row in rows]:
            raise ValueError("a row without its epoch" if rows else "no rows")
    except (ValueError, TypeError, KeyError) as error:
        reason = f"no column {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"{str(path)!r} is damaged ({reason})") from None
    return rows


def _picture(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    image_module = require("PIL.Image", "fastssl.report")
    try:
        with image_module.open(path) as image:
            image.load()
            width, height = image.size
    except Exception as error:  # PIL raises many types on damaged files
        raise ValueError(f"{str(path)!r} is damaged ({error})") from None
    caption = path.stem.replace("_", " ").replace("-", " ").capitalize()
    if path.name in _CAPTIONS:
        caption = _CAPTIONS[path.name].format(method=config.get("method", "the method"))
    source = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
    return {
        "source": source, "width": width, "height": height, "caption": caption, "wide": width > 2 * height,
    }  # fmt: skip


def _judgements(table: dict[str, Any]) -> list[Judgement]:
    """Return the results of evaluation.json, by encoder and way: with scores and protocol, or an accuracy alone."""
    found = []
    for encoder, results in table.items():
        for way, result in results.items() if isinstance(results, dict) else ():
            told = result if isinstance(result, dict) else {"accuracy": result}
            named = told.get("scores") or {way: told.get("accuracy")}
            scores = {name: float(value) for name, value in named.items() if isinstance(value, (int, float))}
            if scores:
                found.append(Judgement(way, encoder, scores, told.get("std"), told.get("protocol") or {}))
    return found


def _compared(path: Path) -> list[Judgement]:
    """Return the results that `fastssl compare` keeps beside a run."""
    row = _json(path)
    return _judgements({TRAINED: row.get("after"), UNTRAINED: row.get("before")})
