"""`report`: one HTML page of one or several runs, which needs nothing beside it."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from . import __version__
from ._compare_table import NUMBERS
from ._report_curves import curves, sparkline
from ._report_html import page
from ._report_read import GROUPS, TRAINED, UNTRAINED, Run, read_run, run_folders

__all__ = ["report"]

_COLUMNS = 6  # of a table that is read on paper, too
_Path = str | os.PathLike[str]


def report(runs: _Path | Sequence[_Path], out: _Path = "report.html", *, title: str | None = None) -> Path:
    """Write a page that shows one run, or compares several: settings, curves, judgements, pictures, environment.

    The page is one file without scripts, and loads nothing: it can be mailed, printed and read on a phone, by light and
    by dark. It is the same for the same runs, but for the line with its date. What a run lacks is left out, with a line
    that says how to get it.

    Args:
        runs: folder of a run, as `fastssl.fit` leaves it, or several; a folder of such folders stands for all of them.
        out: the HTML file to write.
        title: of the page; by default methods and data.

    Returns:
        The path of the page.

    Raises:
        FileNotFoundError: a folder does not exist.
        ValueError: a folder holds no run, or its config.json is damaged; the message names it.
        MissingExtraError: matplotlib is not installed.

    >>> fastssl.report(["runs/simclr", "runs/mae"], "report.html")
    """
    given = [runs] if isinstance(runs, (str, os.PathLike)) else list(runs)
    if not given:
        raise ValueError("runs: got none, want the folder of a run, or several")
    out = Path(out)
    if out.is_dir():
        raise ValueError(f"out: got the folder {str(out)!r}, want a file such as report.html")
    folders = list({folder.resolve(): folder for each in given for folder in run_folders(Path(each))}.values())
    names = [folder.resolve().name for folder in folders]
    read = [
        read_run(number, folder, name if names.count(name) == 1 else str(folder))
        for number, (folder, name) in enumerate(zip(folders, names, strict=True))
    ]
    content = {
        "title": _title(read) if title is None else title,
        "summary": _summary(read),
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "version": __version__,
        "several": len(read) > 1,
        "runs": [_told(run) for run in read],
        "plots": _plots(read),
        "judged": _judged(read),
        "differing": _differing(read),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page(content), encoding="utf-8")
    return out


def _number(value: float, digits: int = 4) -> str:
    return f"{value:.{digits}g}"


def _share(value: float) -> str:
    return f"{100 * value:.1f}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _time(iso: str) -> str:
    return iso.replace("T", " ").replace("+00:00", " UTC")


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(each)}" for key, each in value.items())
    return ", ".join(map(_plain, value)) if isinstance(value, (list, tuple)) else str(value)


def _data_name(config: dict[str, Any]) -> str:
    return Path(str(config.get("data") or "unknown data")).name


def _seconds(run: Run) -> float | None:
    """Return how long the run took, over all of its sessions; None where one was killed and told nothing."""
    lengths = [session.get("seconds") for session in run.config["sessions"]]
    return sum(lengths) if lengths and None not in lengths else None


def _tiles(run: Run) -> list[dict[str, str]]:
    """Return what is said of a run in the largest letters."""
    tiles: list[dict[str, str]] = []

    def tile(name: str, value: str, unit: str = "", note: str = "") -> None:
        tiles.append({"name": name, "value": value, "unit": unit, "note": note})

    knn, loss = run.points("knn"), run.points("loss")
    if knn:
        at, best = max(knn, key=lambda point: point[1])
        note = f"best {_share(best)} at epoch {at:g}" + (f", {_share(knn[0][1])} untrained" if knn[0][0] == 0 else "")
        tile("kNN accuracy", _share(knn[-1][1]), "%", note)
    scores: dict[str, dict[str, float]] = {TRAINED: {}, UNTRAINED: {}}
    for judgement in run.judgements:
        scores.setdefault(judgement.encoder, {}).update(judgement.scores)
    untrained = scores[UNTRAINED]
    for name, value in scores[TRAINED].items():
        if name.startswith("linear"):
            note = f"{100 * (value - untrained[name]):+.1f} against untrained" if name in untrained else ""
            tile(name, _share(value), "%", note)
    if loss:
        tile("training loss", _number(loss[-1][1]), note=f"{_number(loss[0][1])} at first")
    seconds = _seconds(run)
    if seconds is not None:
        number, unit = _duration(seconds).split()
        sessions = len(run.config["sessions"])
        tile("training time", number, unit, "" if sessions == 1 else f"in {sessions} sessions")
    return tiles


def _groups(run: Run) -> list[dict[str, Any]]:
    """Return everything that was set, by groups of (name, value)."""
    config = run.config
    classes = config.get("classes", ())
    about = {name: value for name, value in config.items() if name not in GROUPS}
    if classes:
        about["classes"] = f"{len(classes)}: {_plain(classes)}"
    environment = dict(config["environment"])
    sessions = config["sessions"]
    if sessions:
        environment["started"] = [_time(str(session.get("started"))) for session in sessions]
        seconds = _seconds(run)
        environment["seconds"] = "a session was killed" if seconds is None else round(seconds, 1)
    groups = {
        "Settings": config["settings"],
        "Method and data": {**about, **config["arguments"]},
        "Encoder": _flat(run.encoder),
        "Environment": {**environment, **config["versions"]},
    }
    return [{"title": title, "rows": _rows(rows)} for title, rows in groups.items() if rows]


def _told(run: Run) -> dict[str, Any]:
    """Return what the template says of a run."""
    config, loss, knn = run.config, run.points("loss"), run.points("knn")
    epochs, reached = config["settings"].get("epochs"), run.points("epoch")
    done = reached[-1][1] if reached else 0.0
    if epochs is not None and reached and done < epochs:
        run.lack(f"Stopped at epoch {done:.3g} of {epochs}: the same call of fastssl.fit with resume=True goes on")
    if run.history and not knn:
        run.lack("No kNN accuracy: fastssl.fit measures it of labelled data where knn_every is not 0")
    if not config["environment"]:
        run.lack("No environment and time: the run is of a version of fastssl that did not store them")
    seconds = _seconds(run)
    judged = [each.scores["kNN"] for each in run.judgements if each.encoder == TRAINED and "kNN" in each.scores]
    last = [value for _, value in knn[-1:]] or judged[:1]
    return {
        "number": run.number, "name": run.name, "method": config.get("method", ""), "data": _data_name(config),
        "epochs": f"{done:.3g} of {epochs}" if epochs is not None and done < epochs else _plain(epochs or ""),
        "loss": _number(loss[-1][1]) if loss else "", "knn": f"{_share(last[0])} %" if last else "",
        "best_knn": f"{_share(max(value for _, value in knn))} %" if knn else "",
        "loss_line": sparkline([value for _, value in loss], run.number),
        "knn_line": sparkline([value for _, value in knn], run.number),
        "time": "" if seconds is None else _duration(seconds),
        "tiles": _tiles(run), "pictures": run.pictures, "groups": _groups(run), "lacks": run.lacks,
        "columns": list(run.history[0]) if run.history else [],
        "measured": [
            ["" if value is None else f"{value:.6g}" for value in row.values()]
            for row in run.history
            if row.get("knn") is not None
        ],
    }  # fmt: skip


def _plots(runs: Sequence[Run]) -> list[dict[str, str]]:
    """Return the curves of all runs, over each other."""
    one = runs[0] if len(runs) == 1 else None
    plots = []

    def plot(column: str, title: str, label: str, caption: str, scale: float = 1.0, **more: Any) -> None:
        series = [
            (run.number, run.name, [(at, scale * value) for at, value in run.points(column)])
            for run in runs
            if run.points(column)
        ]
        if series:
            plots.append({"title": title, "caption": caption, "svg": curves(series, label, **more)})

    told = "Thin as it was logged, thick the mean over a fiftieth of the run."
    if len({run.config.get("method") for run in runs}) > 1:
        told += " Losses of different methods have scales of their own."
    plot("loss", "Training loss", "loss", told, smooth=True)
    knn = one.points("knn") if one else []
    untrained = 100 * knn[0][1] if knn and knn[0][0] == 0 else None
    told = "Nearest neighbours in the features, on the test images, while it trained."
    told += " Dotted: the untrained encoder." if untrained is not None else ""
    plot("knn", "kNN accuracy", "accuracy (%)", told, 100.0, dots=True, baseline=untrained)
    plot("learning_rate", "Learning rate", "learning rate", "Of the optimizer, at each logged step.")
    return plots


def _judged(runs: Sequence[Run]) -> dict[str, Any]:
    """Return tables of judgements, of a few columns each, and their protocols.

    The columns are the encoders of one run; of several runs they are the runs, with their other encoders in small.
    """
    several = len(runs) > 1
    columns: list[tuple[Run, str]] = [(run, TRAINED) for run in runs if run.judgements]
    if not several:
        columns = [(run, name) for run in runs for name in dict.fromkeys(each.encoder for each in run.judgements)]
    every = [judgement for run in runs for judgement in run.judgements]
    ways = dict.fromkeys((each.way, name) for each in every for name in each.scores)
    tables = []
    for start in range(0, len(columns), _COLUMNS):
        part = columns[start : start + _COLUMNS]
        rows = [
            {
                "name": name,
                "cells": [_cell(run, encoder, way, name, columns if several else ()) for run, encoder in part],
            }
            for way, name in ways
        ]
        heads = [
            {"number": run.number, "name": run.name if several else encoder.removesuffix(" encoder")}
            for run, encoder in part
        ]
        tables.append({"heads": heads, "rows": rows})
    plain = [name for _, name in ways if name in NUMBERS]
    return {"tables": tables, "plain": _listed(plain) if plain else "", "protocols": _protocols(runs)}


def _protocols(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return how each way of judging was done; what was not the same for all is told with whose it is."""
    ways: dict[str, dict[str, dict[tuple[str, str], str]]] = {}  # the value of each run and encoder, by name, by way
    for run in runs:
        for each in run.judgements:
            for name, value in _flat(each.protocol).items():
                told = ways.setdefault(each.way, {}).setdefault(name, {})
                told[run.name, each.encoder.removesuffix(" encoder")] = _plain(value)
    return [
        {"way": way.replace("_", " "), "rows": [(name, _distinct(told, len(runs) > 1)) for name, told in named.items()]}
        for way, named in ways.items()
    ]


def _distinct(told: dict[tuple[str, str], str], several: bool) -> str:
    """Return the value of all, or each value with the runs and encoders that have it."""
    holders: dict[str, list[str]] = {}
    for (run, encoder), value in told.items():
        alike = {other for (name, _), other in told.items() if name == run} == {value}
        whose = (run if alike else f"{run}, {encoder}") if several else encoder
        if whose not in holders.setdefault(value, []):
            holders[value].append(whose)
    return next(iter(holders)) if len(holders) == 1 else "; ".join(f"{v} ({', '.join(holders[v])})" for v in holders)


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings with those inside of one named after it and a dot."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat.update(
            {f"{name}.{key}": each for key, each in value.items()} if isinstance(value, dict) else {name: value}
        )
    return flat


def _cell(run: Run, encoder: str, way: str, name: str, rivals: Sequence[tuple[Run, str]]) -> dict[str, Any] | None:
    """Return what a table says of one score; None if there is none."""
    found = {each.encoder: each for each in run.judgements if each.way == way and name in each.scores}
    if encoder not in found:
        return None
    judgement, share = found[encoder], name not in NUMBERS
    told = _share if share else partial(_number, digits=3)
    value, text = judgement.scores[name], told(judgement.scores[name])
    if judgement.std and len(judgement.scores) == 1:
        text += f" ± {told(judgement.std)}"
    values = [each.scores[name] for other, kind in rivals for each in other.judgements
              if each.way == way and each.encoder == kind and name in each.scores]  # fmt: skip
    others = [each for each in found.values() if each is not judgement] if rivals else []
    return {
        "text": text,
        "part": f"{_share(min(1.0, max(0.0, value)))}%" if share else "0%",
        "best": share and len(values) > 1 and value == max(values),
        "others": [f"{each.encoder.removesuffix(' encoder')} {told(each.scores[name])}" for each in others],
    }


def _rows(settings: dict[str, Any]) -> list[tuple[str, str]]:
    return [(name, _plain(value)) for name, value in settings.items()]


def _differing(runs: Sequence[Run]) -> dict[str, Any]:
    """Return the settings that are not the same for all runs."""
    flat = [
        {"method": run.config.get("method"), "data": run.config.get("data"), **run.config["settings"],
         **run.config["arguments"]}
        for run in runs
    ]  # fmt: skip
    names = [
        name
        for name in dict.fromkeys(name for each in flat for name in each)
        if len({_plain(each.get(name, "")) for each in flat}) > 1
    ]
    return {"names": names, "values_of": [[_plain(each.get(name, "")) for name in names] for each in flat]}


def _title(runs: Sequence[Run]) -> str:
    methods = list(dict.fromkeys(str(run.config.get("method", "")) for run in runs))
    sets = list(dict.fromkeys(_data_name(run.config) for run in runs))
    told = _listed(methods) if len(methods) <= 4 else f"{len(methods)} methods"
    return f"{told} on {_listed(sets) if len(sets) <= 4 else f'{len(sets)} data sets'}"


def _listed(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def _summary(runs: Sequence[Run]) -> str:
    config, several = runs[0].config, len(runs) > 1
    settings, size, classes = config["settings"], config.get("image_size"), config.get("classes")
    told = [f"{len(runs)} runs"] if several else []
    if len({_plain(run.config.get("data")) for run in runs}) == 1 and "images" in settings:
        of_classes = f", {len(classes)} classes" if classes else ""
        samples = f"images of {size} × {size}" if size is not None else "samples"
        told.append(f"{settings['images']} {samples}{of_classes}")
    if not several and "epochs" in settings:
        told.append(f"{settings['epochs']} epochs in batches of {settings.get('batch_size')}")
    machines = list(dict.fromkeys(run.config["environment"].get("machine", "") for run in runs))
    told += [machine for machine in machines if machine]
    return " · ".join(told)
