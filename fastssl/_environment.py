"""What a run was made on and with: hardware, versions and commit; no host name, no path. And how long it took."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import inspect
import json
import os
import platform
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from . import __version__

_ROOT = Path(__file__).resolve().parent.parent


def cpu_model() -> str:
    """The processor's name, without the frequency and the marks of its maker."""
    model = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    model = re.sub(r"\((R|TM|C)\)|@.*|\b(CPU|Processor|\d+-Core)\b", " ", model, flags=re.IGNORECASE)
    return " ".join(model.split())


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine_name(device: str) -> str:
    """The machine in words, for a report."""
    cpu = f"{cpu_model()}, {cores()} cores, {torch.backends.cpu.get_cpu_capability()}"
    return f"{torch.cuda.get_device_name()} ({cpu})" if device.startswith("cuda") else cpu


def versions(packages: Sequence[str] = ()) -> dict[str, str]:
    """Versions of Python, of the packages that matter and of more, where they are installed."""
    found = {"python": platform.python_version(), "fastssl": __version__}
    for package in ("torch", "triton", "numpy", *packages):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    if torch.version.cuda:
        found["cuda"] = torch.version.cuda
    return found


def commit() -> str | None:
    """The commit of fastssl, with "-dirty" where the files differ from it; None of an installed copy."""
    if not (_ROOT / ".git").exists():  # a folder above may be a checkout, of something else
        return None
    command = ("git", "describe", "--always", "--dirty", "--abbrev=10", "--exclude=*")
    try:
        return subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def environment(accelerator: str) -> dict[str, Any]:
    """What a run with Lightning's `accelerator` is made on."""
    current = None if accelerator == "cpu" else torch.accelerator.current_accelerator(check_available=True)
    device = "cpu" if current is None else current.type
    return {
        "machine": machine_name(device),
        "device": device,
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "commit": commit(),
    }


@contextlib.contextmanager
def recorded(path: Path, about: dict[str, Any], resumed: bool) -> Iterator[None]:
    """Write what a run is as JSON, with the session that begins here and, however it ends, the seconds that it took.

    Args:
        path: the file; of a run that is resumed, the sessions in it stay.
        about: what to write beside them.
        resumed: whether the run goes on.
    """
    before: list[Any] = []
    if resumed:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # a version before had none
            before = list(json.loads(path.read_text())["sessions"])
    session: dict[str, Any] = {"started": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")}
    start = time.monotonic()

    def write() -> None:
        fresh = path.with_suffix(".tmp")
        fresh.write_text(json.dumps({**about, "sessions": [*before, session]}, indent=2) + "\n")
        os.replace(fresh, path)

    write()
    try:
        yield
    finally:
        session["seconds"] = round(time.monotonic() - start, 1)
        write()


def arguments(method: Any) -> dict[str, Any]:
    """Those arguments of a method that it, or its loss, keeps under their names: numbers, words and tuples of them."""
    kept: dict[str, Any] = {}
    for name in inspect.signature(type(method)).parameters:
        places = (place for place in (method, getattr(method, "criterion", None)) if hasattr(place, name))
        value = getattr(next(places, None), name, None)
        value = value.item() if isinstance(value, torch.Tensor) and value.ndim == 0 else value
        plain = value if isinstance(value, (tuple, list)) else [value]
        if value is not None and all(isinstance(each, (bool, int, float, str)) for each in plain):
            kept[name] = value
    return kept
