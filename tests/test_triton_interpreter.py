"""The Triton kernels in Triton's interpreter: every `check_...` of every triton_<op>_worker.py, in its own process."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

CHECKS = [
    (worker, check)
    for worker in sorted(Path(__file__).parent.glob("triton_*_worker.py"))
    for check in re.findall(r"^def (check_\w+)", worker.read_text(), flags=re.MULTILINE)
]


@pytest.mark.parametrize(("worker", "check"), CHECKS, ids=[f"{worker.stem}-{check}" for worker, check in CHECKS])
def test_interpreter(worker, check):
    env = os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, str(worker), check], env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
