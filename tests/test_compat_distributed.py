"""Stand-ins and originals on two processes: the same values and gradients in every mode."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

WORKER = Path(__file__).with_name("compat_worker.py")
CASES = 28


def test_same_on_two_processes(tmp_path: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(WORKER), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "found.json").read_text())
    assert len(found) == CASES
    apart = {(case, part): error for case, parts in found.items() for part, error in parts.items()}
    assert not {where: error for where, error in apart.items() if not error < 1e-12}
