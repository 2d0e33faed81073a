"""The instruction-set variants of the CPU kernels: each is right, and none leaks into code that every CPU runs."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

X86 = platform.machine() == "x86_64"
TESTS = Path(__file__).parent
WIDER = {"baseline": "[yz]mm", "avx2": "zmm"}  # registers that a variant's processors may lack


CHOSEN = {
    "test_ntxent.py": "test_accuracy and cpp or test_any_number_of_threads or test_nan_and_inf_reach_the_loss and cpp",
    "test_pairwise_logsumexp.py test_pairwise_softplus.py": (
        "cpp and (shapes or scales or logits or exclusions or hard or nan or bias or any_problem) or number_of_threads"
    ),
    "test_sinkhorn.py": "cpp and (layouts or any_size or number_of_threads or balance or minus_inf or any_center)",
    # Not against torchvision: without AVX2 it resizes uint8 images in floats, and gives other images.
    "test_augment.py": "cpp and (equal_the_reference or layout or types or fuzzed)",
    # One process for all the ops of masked training.
    "test_gather_tokens.py test_restore_tokens.py test_mask_patchify.py test_masked_mse.py test_large_results.py": (
        "cpp and (shapes or layout or any_size or positions or forms or flat or reach or million or large)"
    ),
    "test_lab_bins.py test_sparse_cross_entropy.py": (
        "cpp and (shapes or scales or cancel or layouts or any_size or any_kind or equal_distances or known or finite)"
    ),
    "test_extract_patches.py": "cpp and (layout or any_size or same_bits or every_type or constant or finite)",
}


@pytest.mark.parametrize("files", CHOSEN)
@pytest.mark.parametrize("capability", ["avx2", "default"] if X86 else ["default"])
def test_lower_capabilities_are_accurate(capability: str, files: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", CHOSEN[files]]
    command += files.split()
    env = {**os.environ, "ATEN_CPU_CAPABILITY": capability}
    done = subprocess.run(command, cwd=TESTS, env=env, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-3000:]
    assert re.search(r"\d{2,} passed", done.stdout)


def test_no_wide_instruction_outside_its_variant() -> None:
    assert shutil.which("objdump"), "binutils come with the compiler that built the extension"
    from fastssl import _C

    listing = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", _C.__file__], capture_output=True, text=True, check=True
    ).stdout
    function, seen = "", set()
    for line in listing.splitlines():
        if match := re.match(r"[0-9a-f]+ <(.+)>:", line):
            function = match[1]
        elif X86:
            variant = next((v for v in ("avx512", "avx2") if f"fastssl{len(v)}{v}" in function), "baseline")
            seen.add(variant)
            if variant in WIDER:
                assert not re.search(rf"%{WIDER[variant]}\d", line), f"{function}: {line.strip()}"
            if variant == "baseline":
                assert not re.search(r"\tv[a-z]", line), f"{function}: {line.strip()}"
    assert seen == ({"baseline", "avx2", "avx512"} if X86 else set())
