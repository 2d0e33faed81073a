"""The C++ kernels under AddressSanitizer and UndefinedBehaviorSanitizer, on random calls."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLAGS = ("-std=c++17", "-O0", "-g1", "-fopenmp", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
# Each program of this folder: its rounds, and what it runs of csrc/cpu.
PROGRAMS = {
    "augment_fuzz": (250, ("augment", "sample_params")),
    "colors_fuzz": (120, ("lab_bins", "sparse_cross_entropy")),
    "dino_fuzz": (500, ("dino_loss",)),
    "masking_fuzz": (1000, ("blockwise_masking", "multiblock_masking", "pages", "random_masking", "text_masking")),
    "pairwise_fuzz": (100, ("ntxent", "pairwise_logsumexp", "pairwise_softplus")),
    "patches_fuzz": (300, ("extract_patches",)),
    "sinkhorn_fuzz": (200, ("sinkhorn",)),
    "tokens_fuzz": (250, ("gather_tokens", "mask_patchify", "masked_mse", "restore_tokens")),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_no_access_out_of_bounds(name: str, tmp_path: Path) -> None:
    rounds, kernels = PROGRAMS[name]
    program = tmp_path / name
    sources = [ROOT / "tests" / f"{name}.cpp", *(ROOT / "csrc" / "cpu" / f"{kernel}.cpp" for kernel in kernels)]
    command = [os.environ.get("CXX", "g++"), *FLAGS, *sources, "-o", program]
    built = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=600)
    assert built.returncode == 0, built.stderr[-3000:]
    done = subprocess.run([program, str(rounds)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-5000:]
    lines = done.stdout.splitlines()
    assert lines
    assert all(line.endswith(f"{rounds} rounds without a fault") for line in lines)
