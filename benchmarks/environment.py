"""What a result was measured on and with: names of the hardware, versions and the commit; no host name, no path."""

from __future__ import annotations

import datetime
import hashlib
import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from fastssl._environment import cores, cpu_model, machine_name, versions

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
_SOURCES = ("fastssl", "kernels", "csrc", "setup.py")


def machine_slug(device: str) -> str:
    """A folder name for results, such as "epyc-2c-avx512" or "h200"."""
    if device.startswith("cuda"):
        return _slug(torch.cuda.get_device_name().removeprefix("NVIDIA"))
    name = re.sub(r"\b(AMD|Intel|Apple)\b", " ", cpu_model())
    return _slug(f"{name} {cores()}c {torch.backends.cpu.get_cpu_capability()}")


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def commit() -> dict[str, Any]:
    """The commit, whether the measured sources differ from it, and a digest of these sources."""
    digest = hashlib.sha256()
    files = [f for name in _SOURCES for f in ([ROOT / name] if (ROOT / name).is_file() else (ROOT / name).rglob("*"))]
    for file in sorted(f for f in files if f.suffix in (".py", ".h", ".cpp", ".cu")):
        digest.update(file.relative_to(ROOT).as_posix().encode() + b"\0" + file.read_bytes())
    changes = _git("status", "--porcelain", "--", *_SOURCES)
    return {
        "commit": _git("rev-parse", "HEAD"),
        "dirty": None if changes is None else bool(changes),
        "source_sha256": digest.hexdigest()[:16],
    }


def environment(device: str, peers: Sequence[str] = ()) -> dict[str, Any]:
    """All of the above, for the head of a results file."""
    memory_bytes = available_bytes("cpu", total=True)
    return {
        **commit(),
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "machine": machine_slug(device),
        "machine_name": machine_name(device),
        "device": device,
        "cpu": cpu_model(),
        "cores": cores(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name() if device.startswith("cuda") else None,
        "threads": torch.get_num_threads(),
        "memory_gib": None if memory_bytes is None else round(memory_bytes / 2**30, 1),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "versions": versions(peers),
    }


def available_bytes(device: str, total: bool = False) -> int | None:
    """Bytes of memory free on the device, or that it has; None where the system does not tell."""
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info()[total]
    if not os.path.exists("/proc/meminfo"):
        return None
    field = "MemTotal" if total else "MemAvailable"
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
