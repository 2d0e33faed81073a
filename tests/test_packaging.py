"""What gets built and shipped: a pure-Python wheel without torch or a compiler, an extension with them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Build backends run in a process of their own; this one has no torch, or no compiler.
BUILD = """
import sys
{before}
from setuptools import build_meta
print(build_meta.build_wheel({out!r}))
"""


def build(out: Path, before: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    # From a copy, so that concurrent builds do not share a build folder.
    tree = out / "tree"
    files = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.decode()
    for name in filter(None, files.split("\0")):
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_bytes((ROOT / name).read_bytes())
    code = BUILD.format(before=before, out=str(out))
    return subprocess.run(
        [sys.executable, "-c", code], cwd=tree, env={**os.environ, **env}, capture_output=True, text=True, timeout=600
    )


@pytest.mark.parametrize(
    ("before", "path", "reason"),
    [
        ("sys.modules['torch'] = None", None, "torch is not installed"),
        ("", "/nonexistent", "no C++ compiler was found"),
    ],
)
def test_pure_python_wheel(tmp_path: Path, before: str, path: str | None, reason: str) -> None:
    done = build(tmp_path, before, **({} if path is None else {"PATH": path, "CXX": "c++"}))
    assert done.returncode == 0, done.stderr
    assert f"building without the CPU extension ({reason}" in done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for module in ("triton/ntxent.py", "torch/ntxent.py", "__init__.py"):
        assert f"fastssl/kernels/{module}" in names
    assert "fastssl/py.typed" in names
    assert not [name for name in names if name.endswith(".so") or name.startswith(("kernels", "tests"))]


def test_pure_python_wheel_runs(tmp_path: Path) -> None:
    assert build(tmp_path, FASTSSL_CPP="0").returncode == 0
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = f"""
import sys
sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in getattr(f, '__module__', str(f)).lower()]
sys.path.insert(0, {str(tmp_path / "site")!r})
import torch, fastssl
assert fastssl.__file__.startswith({str(tmp_path)!r}), fastssl.__file__
from fastssl import _backend
print(fastssl.functional.ntxent(torch.ones(2, 2), torch.ones(2, 2)).item(), _backend.unavailable("cpp"))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.stdout.startswith("1.0986"), done.stderr
    assert "was not built" in done.stdout


def test_wish_for_the_extension_is_not_ignored(tmp_path: Path) -> None:
    done = build(tmp_path, "sys.modules['torch'] = None", FASTSSL_CPP="1")
    assert "FASTSSL_CPP=1, but torch is not installed in the build environment" in done.stderr
    assert done.returncode != 0
    assert "got 'maybe', want auto, 0 or 1" in build(tmp_path / "b", FASTSSL_CPP="maybe").stderr


def test_core_depends_on_three_packages() -> None:
    # tomllib is new in 3.11
    (line,) = re.findall(r"^dependencies = \[(.+)\]$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert re.findall(r'"(\w+)>=', line) == ["torch", "numpy", "triton"]


def test_every_source_is_listed_for_the_build() -> None:
    text = (ROOT / "setup.py").read_text()
    for source in (ROOT / "csrc").rglob("*.*"):
        assert f'"{source.relative_to(ROOT)}"' in text
