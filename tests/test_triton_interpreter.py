"""The Triton kernels in their interpreter: every `check_...` of every triton_<op>_worker.py, in its own process."""

from __future__ import annotations

import contextlib
import json
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


class Worker:
    """A worker that runs some of its checks, one after the other."""

    def __init__(self, path: Path, checks: list[str], log: Path) -> None:
        env = os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, str(path), *checks]
        self.log, self.said = log, {}
        with open(log, "w") as errors:
            self.process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=errors, text=True)

    def outcome(self, check: str) -> str | None:
        """Wait for a check, and return what it wrote if it failed."""
        while check not in self.said:
            line = self.process.stdout.readline()
            assert line, self.log.read_text()[-3000:]
            self.said.update([json.loads(line)])
        return self.said[check]


@pytest.fixture(scope="module")
def outcome(request, tmp_path_factory):
    """The outcome of a check; its worker is started at the first of those that were asked for."""
    folder, workers = tmp_path_factory.mktemp("workers"), {}
    with contextlib.ExitStack() as stack:

        def outcome(path: Path, check: str) -> str | None:
            if path not in workers:
                params = [item.callspec.params for item in request.session.items if item.path == Path(__file__)]
                asked = [each["check"] for each in params if each["worker"] == path]
                workers[path] = Worker(path, asked, folder / path.stem)
                stack.callback(workers[path].process.kill)
            return workers[path].outcome(check)

        yield outcome


@pytest.mark.parametrize(("worker", "check"), CHECKS, ids=[f"{worker.stem}-{check}" for worker, check in CHECKS])
def test_interpreter(worker, check, outcome):
    said = outcome(worker, check)
    assert said is None, said[-3000:]
