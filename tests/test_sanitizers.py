"""The C++ augmentation under AddressSanitizer and UndefinedBehaviorSanitizer, on random sizes from 1 pixel on."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_no_access_out_of_bounds(tmp_path: Path) -> None:
    program = tmp_path / "augment_fuzz"
    sources = [ROOT / "csrc" / "cpu" / name for name in ("augment.cpp", "sample_params.cpp")]
    flags = ["-std=c++17", "-O1", "-g", "-fopenmp", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    command = [os.environ.get("CXX", "g++"), *flags, ROOT / "tests" / "augment_fuzz.cpp", *sources, "-o", program]
    built = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=600)
    assert built.returncode == 0, built.stderr[-3000:]
    done = subprocess.run([program, "250"], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-5000:]
    assert done.stdout.startswith("DEFAULT 250 views without a fault")
