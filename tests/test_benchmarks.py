"""The benchmark's own machinery: turns, medians, memory that is counted, and the files it writes."""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fastssl import _bench

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))

import bench_ntxent
import environment
import gpu_check
import harness
import memory
import providers

ROOT = environment.ROOT
linux = pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="needs Linux's /proc")


def test_steps_take_turns_and_each_round_starts_with_another():
    calls = []
    steps = {name: lambda turn, name=name: calls.append((turn, name)) or turn for name in "abc"}
    results = _bench.interleave(steps, rounds=4, warmup=1)
    assert results == {name: [1, 2, 3, 4] for name in "abc"}
    rounds = [[name for turn, name in calls if turn == t] for t in range(5)]
    assert rounds[:4] == [list("abc"), list("bca"), list("cab"), list("abc")]
    assert [turn for turn, _ in calls] == sorted(turn for turn, _ in calls)


def test_a_slow_step_leaves_the_others_their_rounds(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(_bench.time, "perf_counter", lambda: now[0])

    def step(seconds):
        def run(turn):
            now[0] += seconds
            return seconds

        return run

    results = _bench.interleave({"slow": step(3), "fast": step(0.1)}, rounds=20, budget_s=4, least=2)
    assert len(results["slow"]) == 2
    assert len(results["fast"]) == 20


def test_times_of_a_loss_and_of_a_call():
    z = memory.inputs(64, 8, "float32", "cpu")
    forward_ms, step_ms = _bench.time_loss(providers.PROVIDERS["fastssl"].build(), *z)
    assert 0 < forward_ms < step_ms
    assert _bench.time_call(lambda: None, torch.device("cpu")) >= 0


def test_floors():
    assert harness.operations(512, 128, "fwd", "cpu") == 512**2 * 128
    assert harness.operations(512, 128, "fwd_bwd", "cpu") == 4 * 512**2 * 128
    assert harness.operations(512, 128, "fwd_bwd", "cuda") == 5 * 512**2 * 128
    assert harness.compulsory_bytes(512, 128, "fwd_bwd", 2) == 2 * 512 * 128 * 2 + 4


def test_what_a_larger_problem_costs_is_foreseen():
    foresight = harness.Foresight()
    small, large = harness.Problem(512), harness.Problem(2048)
    assert foresight.foresee("eager", "peak_bytes", large) is None
    for name in ("fastssl", "eager", "pml"):
        foresight.note(name, "peak_bytes", small, 10.0)
    foreseen = [foresight.foresee(name, "peak_bytes", large) for name in ("fastssl", "eager", "pml")]
    assert foreseen == [40, 160, 640]


def test_a_provider_that_computes_something_else_is_refused():
    harness._agree({"fastssl": 6.0, "eager": 6.0001}, "float32")
    for wrong in (6.01, float("nan")):
        with pytest.raises(AssertionError, match="eager computes"):
            harness._agree({"fastssl": 6.0, "eager": wrong}, "float32")


@linux
@pytest.mark.parametrize("mib", [4, 64])
def test_a_known_allocation_is_seen(mib):
    # Whatever else a process touches for the first time only adds, so the least of a few is the allocation.
    seen = min(memory.peak_extra_bytes("allocation", mib, 2**20) for _ in range(3)) / 2**20
    assert abs(seen - mib) < 0.3 + 0.02 * mib


@linux
def test_peaks_of_losses():
    m, d = 2048, 64
    matrix = 4 * m * m
    eager = memory.peak_extra_bytes("eager", m, d)
    # What PyTorch's own allocator counts for the eager form: three matrices, one of bool, and O(m d).
    assert 3 * matrix < eager < 4 * matrix
    own = memory.peak_extra_bytes("fastssl", m, d)
    assert 2 * 4 * m * d / 2 < own < matrix / 2  # at least both gradients, at most a part of a matrix
    assert memory.peak_extra_bytes("fastssl", m, d, mode="fwd") < own


@linux
def test_a_call_that_fails_is_an_error_and_the_next_one_runs():
    with pytest.raises(RuntimeError, match="m = 6, d = 0"):
        memory.peak_extra_bytes("fastssl", 6, 0)
    with pytest.raises(RuntimeError, match="KeyError"):
        memory.peak_extra_bytes("nothing", 6, 4)
    with pytest.raises(MemoryError):
        memory.peak_extra_bytes("eager", 2**20, 1)  # a matrix of 4 TiB
    assert memory.peak_extra_bytes("fastssl", 64, 4) >= 0


def test_a_tiny_run_writes_rows_and_environment(tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "_reference_sizes", lambda device: (64, 2**12))
    problem = harness.Problem(64, providers=("fastssl", "eager"), budget_s=20)
    path = bench_ntxent.run([problem], "cpu", tmp_path, "command")
    assert path == tmp_path / environment.machine_slug("cpu") / "ntxent.json"
    text = path.read_text()
    stored = json.loads(text)
    rows = {(r["provider"], r["mode"]): r for r in stored["rows"]}
    assert set(rows) == set(itertools.product(("fastssl", "eager"), ("fwd", "fwd_bwd")))
    for r in rows.values():
        assert (r["op"], r["m"], r["d"], r["dtype"], r["device"]) == ("ntxent", 64, 128, "float32", "cpu")
        assert 0 < r["q1_ms"] <= r["time_ms"] <= r["q3_ms"]
        assert r["rounds"] >= harness.LEAST_ROUNDS
        assert r["fraction_of_matmul"] == pytest.approx(r["floor_operations_ms"] / r["time_ms"], rel=1e-3)
        own_ms = rows["fastssl", r["mode"]]["time_ms"]
        assert r["time_over_fastssl"] == pytest.approx(r["time_ms"] / own_ms, rel=1e-3)
    assert rows["fastssl", "fwd"]["backend"] in ("cpp", "torch")
    where = stored["environment"]
    assert torch.__version__.startswith(where["versions"]["torch"])
    for key in ("commit", "dirty", "date", "cores", "capability", "threads", "machine_name"):
        assert key in where
    assert os.uname().nodename not in text
    assert str(ROOT) not in text


def test_the_median_is_reported(monkeypatch):
    taken = iter([(1.0, 9.0), (5.0, 2.0), (3.0, 4.0)])
    times = {"fastssl": list(taken), "matmul": [(2.0, 2.0)], "copy": [(2.0, 2.0)]}
    made = harness._row(harness.Problem(64), "fastssl", "fwd_bwd", "cpu", {}, times)
    assert made["time_ms"] == statistics.median([9.0, 2.0, 4.0])
    assert (made["q1_ms"], made["q3_ms"], made["rounds"]) == (3.0, 6.5, 3)


def test_machine_names():
    slug = environment.machine_slug("cpu")
    assert slug == slug.lower()
    assert f"-{environment.cores()}c-" in slug
    assert environment._slug(" H100 80GB HBM3") == "h100-80gb-hbm3"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_gpu_check_without_a_gpu(capsys):
    assert gpu_check.main([]) == 1
    assert capsys.readouterr().out.strip() == gpu_check.NO_CUDA


def test_gpu_check_gathers_what_its_steps_found(tmp_path, monkeypatch, capsys):
    row = {"mode": "fwd_bwd", "dtype": "bfloat16", "m": 512, "d": 128, "provider": "fastssl", "time_ms": 0.1,
           "peak_mib": 1.0, "fraction_of_matmul": 0.5, "time_over_fastssl": 1.0}  # fmt: skip

    def run(command, *rest):
        if str(command[1]).endswith("gpu_probes.py"):
            Path(command[2]).write_text(json.dumps({"backends": {}, "no_sync": {"ok": sync_is_fine}}))
        if "--quick" in command:
            path = Path(command[-1]) / "some-gpu" / "ntxent.json"
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps({"environment": {}, "rows": [row]}))
        return {"ok": True, "code": 0, "seconds": 1.0}

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name, value in (("ROOT", tmp_path), ("run", run), ("tests", lambda *_: {"ok": None, "note": "no pytest"})):
        monkeypatch.setattr(gpu_check, name, value)
    for sync_is_fine in (True, False):
        assert gpu_check.main(["--out", str(tmp_path / "out")]) == (0 if sync_is_fine else 1)
        stored = json.loads((tmp_path / "out" / "gpu_check.json").read_text())
        assert stored["ok"] == stored["probes"]["no_sync"]["ok"] == sync_is_fine
        assert json.loads((tmp_path / "out" / "ntxent.json").read_text())["rows"] == [row]
        printed = capsys.readouterr().out
        assert "50.0 % of matmul" in printed
        assert ("no_sync       FAIL" in printed) != sync_is_fine


def test_gpu_check_ends_a_step_that_hangs(tmp_path):
    code = "import time; print('begun in /some/folder/file.py', flush=True); time.sleep(60)"
    told = gpu_check.run([sys.executable, "-c", code], 3, tmp_path, dict(os.environ))
    assert (told["ok"], told["code"]) == (False, 124)
    assert told["seconds"] < 30
    assert "begun in file.py" in told["end"]
    assert sum(gpu_check.LIMITS.values()) < 9 * 60
    assert gpu_check.run([sys.executable, "-c", "print(1)"], 20, tmp_path, dict(os.environ))["ok"]


def test_pytest_finds_the_benchmarks():
    command = [
        sys.executable,
        "-m",
        "pytest",
        "benchmarks",
        "--quick",
        "--collect-only",
        "-q",
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "bench_ntxent.py::test_ntxent[" in done.stdout
