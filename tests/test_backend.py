"""Which backend runs, what forcing one does, and what importing fastssl costs."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys

import pytest
import torch

import fastssl
from fastssl import _backend
from fastssl.functional import ntxent


def run(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **env}, capture_output=True, text=True, timeout=300
    )


def test_extension_is_built() -> None:
    assert _backend.unavailable("cpp") is None  # the suite stands on it: nothing may quietly fall back


def test_auto_takes_the_fastest_that_can_run() -> None:
    select = _backend.select
    assert select("ntxent", torch.empty(2, 2), "auto") is torch.ops.fastssl_cpp
    assert select("ntxent", torch.empty(2, 2, dtype=torch.float64), "auto").__name__ == "fastssl.kernels.torch.ntxent"


def test_use_backend_nests_and_restores() -> None:
    assert _backend.requested() == "auto"
    with fastssl.use_backend("torch"):
        with fastssl.use_backend("cpp"):
            assert _backend.requested() == "cpp"
        assert _backend.requested() == "torch"
        with pytest.raises(KeyError), fastssl.use_backend("cpp"):
            raise KeyError
        assert _backend.requested() == "torch"
    assert _backend.requested() == "auto"


def test_use_backend_without_a_block_stays() -> None:
    fastssl.use_backend("torch")
    assert _backend.requested() == "torch"
    fastssl.use_backend("auto")


def test_backward_runs_where_forward_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastssl.kernels.torch import ntxent as kernels

    calls = []
    original = kernels.ntxent_bwd
    monkeypatch.setattr(kernels, "ntxent_bwd", lambda *a: calls.append(1) or original(*a))
    z = torch.randn(3, 2, requires_grad=True)
    with fastssl.use_backend("torch"):
        loss = ntxent(z, torch.randn(3, 2))
    loss.backward()
    assert calls == [1]


@pytest.mark.parametrize(
    ("backend", "dtype", "reason"),
    [("cpp", torch.float64, "it takes float32"), ("cuda", torch.float32, "ntxent has no cuda kernel")],
)
def test_forced_backend_that_cannot_run_says_why(backend: str, dtype: torch.dtype, reason: str) -> None:
    z = torch.randn(3, 2, dtype=dtype)
    with fastssl.use_backend(backend), pytest.raises(RuntimeError, match=f"backend '{backend}' cannot run.*{reason}"):
        ntxent(z, z)


def test_environment_variable_forces() -> None:
    code = "import torch, fastssl; z = torch.randn(3, 2); fastssl.functional.ntxent(z, z)"
    assert run(code, FASTSSL_BACKEND="torch").returncode == 0
    forced = run(code, FASTSSL_BACKEND="triton", TRITON_INTERPRET="0")
    assert "backend 'triton' cannot run ntxent: it runs on cuda tensors, got one on cpu" in forced.stderr
    unknown = run(code, FASTSSL_BACKEND="fortran")
    assert "FASTSSL_BACKEND: got 'fortran', want one of" in unknown.stderr


def test_report_names_every_backend_with_a_reason() -> None:
    rows = [row for row in _backend.report() if row[0] == "ntxent"]
    assert [row[1] for row in rows] == list(_backend.BACKENDS)
    assert all(why for *_, why in rows)
    assert {row[1]: row[2] for row in rows}["torch"]


def test_works_without_triton_extension_and_extras() -> None:
    missing = (
        "triton",
        "fastssl._C",
        "timm",
        "lightning",
        "torchvision",
        "sklearn",
        "matplotlib",
        "safetensors",
        "tqdm",
    )
    code = f"""
import sys
for name in {missing!r}: sys.modules[name] = None
import torch, fastssl
from fastssl import _backend
z = torch.randn(4, 3, requires_grad=True)
fastssl.NTXentLoss(0.1)(z, torch.randn(4, 3)).backward()
assert z.grad.isfinite().all()
rows = {{backend: (on, why) for _, backend, on, why in _backend.report()}}
assert rows["torch"][0] and not rows["cpp"][0] and not rows["triton"][0], rows
assert "pip install --no-build-isolation" in rows["cpp"][1], rows
"""
    done = run(code, TRITON_INTERPRET="0")
    assert done.returncode == 0, done.stderr


def test_import_loads_nothing_heavy() -> None:
    code = """
import sys, torch
before = set(sys.modules)
import fastssl
new = {name.split('.')[0] for name in set(sys.modules) - before}
print(sorted(new - {'fastssl'} - set(sys.stdlib_module_names)))
"""
    assert run(code).stdout.strip() == "[]"


def test_import_is_cheap() -> None:
    code = "import time, torch; t = time.process_time(); import fastssl, fastssl.losses; print(time.process_time() - t)"
    assert statistics.median(float(run(code).stdout) for _ in range(3)) < 0.2


def test_kernels_folder_is_not_a_package_of_its_own() -> None:
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    done = run(f"import sys; sys.path.insert(0, {root!r}); import kernels")
    assert "fastssl.kernels" in done.stderr
    assert done.returncode != 0


def test_public_names() -> None:
    for name in fastssl.__all__:
        assert getattr(fastssl, name) is not None
    assert set(fastssl.__all__) <= set(dir(fastssl))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = fastssl.nonsense
    assert callable(fastssl.functional.ntxent)  # the function, and nothing else of that name
