"""The Triton augmentation against the reference, in Triton's interpreter; see triton_augment_worker.py."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = Path(__file__).with_name("triton_augment_worker.py")


@pytest.mark.parametrize("check", re.findall(r"^def (check_\w+)", WORKER.read_text(), flags=re.MULTILINE))
def test_interpreter(check):
    env = os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, str(WORKER), check], env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
