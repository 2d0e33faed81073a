"""The README's table of imports: every row works as printed, and the README has these rows."""

from __future__ import annotations

import subprocess
import sys
import warnings
from typing import Any

import pytest
import torch
from imports import ROWS, Row, readme, table, tensors

CALLS = [(row, call) for row in ROWS for call in row.calls]


def run(line: str, call: str, more: dict[str, Any]) -> list[torch.Tensor]:
    """Return the value of a call after a line, and the gradients of all that it is differentiable in."""
    names = tensors()
    leaves = [x for x in names.values() if x.requires_grad and x.is_leaf]
    scope: dict[str, Any] = {**names, **more}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the originals
        exec(line, scope)
        value = eval(call, scope)
    return [value, *torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True)]


@pytest.mark.parametrize(("row", "call"), CALLS, ids=[call for _, call in CALLS])
def test_both_lines_give_the_same(row: Row, call: str) -> None:
    given = {name: value for name, value in row.original.items() if name == "self"}  # what the loop has in any case
    wanted = run("" if row.original.keys() - given.keys() else row.today, call, row.original)
    found = run(row.line, call, given)
    assert wanted[0].isfinite()
    assert any((grad != 0).any() for grad in wanted[1:])
    for w, f in zip(wanted, found, strict=True):
        torch.testing.assert_close(f, w, rtol=1e-9, atol=1e-12)


def test_the_readme_has_these_rows() -> None:
    assert [line for line in readme() if line] == table()


def test_lines_need_no_other_library() -> None:
    """They work where only fastssl is installed."""
    lines = "\n".join(row.line.split(";")[0] for row in ROWS)
    absent = ("lightly", "pytorch_metric_learning", "open_clip", "info_nce", "solo", "losses")
    code = f"import sys\nfor name in {absent}: sys.modules[name] = None\n{lines}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
