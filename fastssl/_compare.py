"""Train methods small, from one seed, and judge the encoder of each in the same way, before and after."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import __version__
from ._cli_build import prepare
from ._cli_methods import METHODS
from ._compare_table import line, markdown, reason
from .data import Images, Texts, load
from .evaluate import Result, judge, masked_tokens
from .methods import METHODS as CLASSES
from .train import fit

Row = dict[str, Any]

# All judgements but the curves of label efficiency, which alone take minutes.
WAYS = (
    "knn", "few_labels", "linear_probe", "finetune", "retrieval", "clustering", "rankme", "alignment_uniformity",
    "shortcut_audit",
)  # fmt: skip
TEXT = "pydoc"  # for methods that read text
FINETUNING: dict[str, Any] = {"epochs": 30, "subsets": 2, "progress": False}


def compare(
    methods: Sequence[str],
    data: str = "shapes",
    *,
    epochs: int | None = None,
    seed: int = 0,
    out: str | os.PathLike[str] = "runs/compare",
    overwrite: bool = False,
    progress: bool = True,
) -> list[Row]:
    """Train methods one after the other with the command line's defaults, and judge their encoders.

    Each method begins with the same seed, and is a run of `fastssl.fit` in a folder of its own with ``row.json``
    beside it. Stopped at any moment and called again, a comparison goes on where it was: what is done is read, and a
    run that was broken off is resumed. An error in one method is told in its row, and tried again by the next call.

    Args:
        methods: names as of ``fastssl pretrain``, each once.
        data: labelled images, a name or a folder. A method that reads text takes "pydoc" instead.
        epochs: passes through the data, >= 1, for all methods; by default what the command line has for each, a
            minute or two on two cores with "shapes".
        seed: of everything: initial weights, order, augmentation, labelled subsets.
        out: folder of the comparison; it receives ``compare.json`` and ``compare.md``.
        overwrite: delete the comparison in `out` first.
        progress: print a line when a method is done, and show the bars of its training on a terminal.

    Returns:
        A row for each method: `method`, `epochs`, `batch_size`, `seconds` of training and judging, `loss` (the first
        and the last of its history), `before` and `after`, what `fastssl.evaluate.judge` says of the encoder, and
        `behind`, why it is not ahead of the untrained one, or None if it is; or `error`; or why it was `skipped`.

    Raises:
        ValueError: an argument is out of range, or `out` holds a comparison with other settings.
    """
    unknown = [name for name in methods if name not in METHODS]
    if unknown or not methods or len(set(methods)) < len(methods):
        raise ValueError(f"methods: got {', '.join(methods)}, want some of {', '.join(METHODS)}, each once")
    if epochs is not None and (isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1):
        raise ValueError(f"epochs: got {epochs!r}, want an int >= 1")
    folder = Path(out)
    settings = {"data": data, "epochs": epochs, "seed": seed, "version": __version__}
    _claim(folder, settings, overwrite)
    rows = []
    for name in methods:
        row = _stored(folder / name / "row.json")
        if row is None or "error" in row:
            row = _row(name, data, epochs, seed, folder, progress)
            _write(folder / name / "row.json", row)
        if "after" in row:
            row = {**row, "behind": reason(row)}
        rows.append(row)
        _write(folder / "compare.json", {**settings, "rows": rows})
        (folder / "compare.md").write_text(markdown(rows))
        if progress:
            print(line(row), flush=True)
    return rows


def _claim(folder: Path, settings: dict[str, Any], overwrite: bool) -> None:
    """Make the folder of a comparison, or check that the one in it has the same settings."""
    path = folder / "settings.json"
    if overwrite and path.exists():
        shutil.rmtree(folder)
    before = _stored(path)
    if before is not None and before != settings:
        changed = ", ".join(f"{k} {before.get(k)!r} -> {v!r}" for k, v in settings.items() if before.get(k) != v)
        raise ValueError(
            f"out: {str(folder)!r} holds a comparison with other settings ({changed}); replace it (--overwrite) or "
            "choose another folder"
        )  # fmt: skip
    _write(path, settings)


def _row(name: str, data: str, epochs: int | None, seed: int, folder: Path, progress: bool) -> Row:
    known = METHODS[name]
    row: Row = {"method": name, "epochs": epochs or known.epochs}
    try:
        source = TEXT if known.reads == "text" else data
        train, test = load(source), load(source, split="test")
        wanted = getattr(CLASSES[name], "channels", None)
        if wanted is not None and isinstance(train, Images) and train.channels != wanted:
            row["skipped"] = "it learns from colours, and these images are grey"
            return row
        prepared = prepare(name, train, {"seed": seed})
        method = prepared.method
        row["batch_size"] = prepared.settings["batch_size"]
        start = time.perf_counter()
        row["before"] = _untrained(method, train, test, seed, folder)
        row["seconds"] = {"judging before": time.perf_counter() - start}
        start = time.perf_counter()
        result = fit(
            method, train, epochs=row["epochs"], **prepared.settings, seed=seed, out=folder / name, knn_every=0,
            resume=True, progress=progress and sys.stderr.isatty(),
        )  # fmt: skip
        row["seconds"]["training"] = time.perf_counter() - start
        losses = [each["loss"] for each in result.history if each["loss"] is not None]
        row["loss"] = [losses[0], losses[-1]]
        start = time.perf_counter()
        row["after"] = _judged(method, train, test, seed)
        row["seconds"]["judging"] = time.perf_counter() - start
    except Exception as error:  # of whatever kind: the other methods go on, and the row tells
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "error.txt").write_text(traceback.format_exc())
        row["error"] = " ".join(str(error).split()) or type(error).__name__
    return row


def _judged(method: Any, train: Any, test: Any, seed: int) -> dict[str, Any]:
    if isinstance(train, Texts):
        found: Mapping[str, Result] = {"masked_tokens": masked_tokens(method, train, test, seed=seed)}
    else:
        found = judge(method.encoder, train, test, which=WAYS, seed=seed, finetuning=FINETUNING)
    return {name: {"scores": result.scores, **result.to_dict()} for name, result in found.items()}


def _untrained(method: Any, train: Any, test: Any, seed: int, folder: Path) -> dict[str, Any]:
    """What the encoder is worth before it is trained; methods that begin with the same weights share the answer."""
    digest = hashlib.sha256()
    # Of texts the head is judged as well.
    judged = method if isinstance(train, Texts) else method.encoder
    for key, value in judged.state_dict().items():
        digest.update(key.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    path = folder / "untrained" / f"{digest.hexdigest()[:16]}.json"
    known = _stored(path)
    if known is None:
        known = _judged(method, train, test, seed)
        _write(path, known)
    return known


def _stored(path: Path) -> dict[str, Any] | None:
    """What a JSON file holds, or None where there is none, or half of one."""
    try:
        held: dict[str, Any] = json.loads(path.read_text())
        return held
    except (OSError, ValueError):
        return None


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".tmp")
    fresh.write_text(json.dumps(value, indent=2) + "\n")
    os.replace(fresh, path)
