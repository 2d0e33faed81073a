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

from fastssl import _bench, cli, data, transforms
from fastssl.functional import Recipe, View

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))

import augment_files
import augment_floors
import augment_measure
import augment_providers
import bench_augment
import bench_ntxent
import environment
import gpu_check
import harness
import memory
import ntxent_measure
import providers
from photographs import photographs

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
    assert ntxent_measure.operations(512, 128, "fwd", "cpu") == 512**2 * 128
    assert ntxent_measure.operations(512, 128, "fwd_bwd", "cpu") == 4 * 512**2 * 128
    assert ntxent_measure.operations(512, 128, "fwd_bwd", "cuda") == 5 * 512**2 * 128
    assert ntxent_measure.compulsory_bytes(512, 128, "fwd_bwd", 2) == 2 * 512 * 128 * 2 + 4


def test_what_a_larger_problem_costs_is_foreseen():
    foresight = ntxent_measure.Foresight()
    small, large = ntxent_measure.Problem(512), ntxent_measure.Problem(2048)
    assert foresight.foresee("eager", "peak_bytes", large) is None
    for name in ("fastssl", "eager", "pml"):
        foresight.note(name, "peak_bytes", small, 10.0)
    foreseen = [foresight.foresee(name, "peak_bytes", large) for name in ("fastssl", "eager", "pml")]
    assert foreseen == [40, 160, 640]


def test_a_provider_that_computes_something_else_is_refused():
    ntxent_measure._agree({"fastssl": 6.0, "eager": 6.0001}, "float32")
    for wrong in (6.01, float("nan")):
        with pytest.raises(AssertionError, match="eager computes"):
            ntxent_measure._agree({"fastssl": 6.0, "eager": wrong}, "float32")


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
    monkeypatch.setattr(harness, "reference_sizes", lambda device: (64, 2**12))
    problem = ntxent_measure.Problem(64, providers=("fastssl", "eager"), budget_s=20)
    path = harness.run(bench_ntxent.BENCHMARK, [problem], "cpu", tmp_path, "command")
    assert path == tmp_path / environment.machine_slug("cpu") / "ntxent.json"
    text = path.read_text()
    stored = json.loads(text)
    rows = {(r["provider"], r["mode"]): r for r in stored["rows"]}
    assert set(rows) == set(itertools.product(("fastssl", "eager"), ("fwd", "fwd_bwd")))
    for r in rows.values():
        assert (r["op"], r["m"], r["d"], r["dtype"], r["device"]) == ("ntxent", 64, 128, "float32", "cpu")
        assert 0 < r["q1_ms"] <= r["time_ms"] <= r["q3_ms"]
        assert r["rounds"] >= ntxent_measure.LEAST_ROUNDS
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


def test_a_tiny_run_of_augmentation(tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "reference_sizes", lambda device: (64, 2**12))
    monkeypatch.setattr(augment_measure, "ROUNDS", 3)
    names = ("fastssl", "fastssl-uint8", "fastssl-torch", "torchvision-uint8", "lightly", "kornia")
    problem = augment_measure.Problem("simclr-small", providers=names, budget_s=0.1)
    path = harness.run(bench_augment.BENCHMARK, [problem], "cpu", tmp_path, "command")
    stored = json.loads(path.read_text())
    rows = {r["provider"]: r for r in stored["rows"]}
    assert tuple(rows) == names
    for r in rows.values():
        assert (r["op"], r["recipe"], r["views"], r["image_size"]) == ("augment", "simclr-small", 2, 32)
        assert 0 < r["q1_ms"] <= r["time_ms"] <= r["q3_ms"]
        assert r["time_over_fastssl"] == pytest.approx(r["time_ms"] / rows["fastssl"]["time_ms"], rel=1e-3)
    assert rows["fastssl-torch"]["backend"] == "torch"
    assert rows["fastssl-uint8"]["rounding"] == "uint8"
    assert {"torchvision", "kornia", "lightly", "pillow"} <= set(stored["environment"]["versions"])
    assert str(ROOT) not in path.read_text()


def test_views_are_made_by_workers(monkeypatch):
    monkeypatch.setattr(augment_measure, "WORKER_IMAGES", 2)
    problem, setting = augment_measure.Problem("simclr-small", threads=2), augment_providers.SETTINGS["simclr-small"]
    for name in ("torchvision-uint8", "lightly"):
        provider = augment_providers.PROVIDERS[name]
        assert augment_measure.images_of(provider, problem, setting) == 4
        assert augment_measure.step(provider, problem, setting, "cpu")(0) > 0


def test_another_recipe_is_noticed():
    good = {"fastssl": (0.0, 1.0), "kornia": (0.1, 0.9)}
    augment_measure.agree(good)
    for wrong in ((1.0, 1.0), (0.0, 0.5), (float("nan"), 1.0)):
        with pytest.raises(AssertionError, match="lightly makes views"):
            augment_measure.agree(good | {"lightly": wrong})


def test_torchvisions_views_are_the_recipes():
    recipe = transforms.BYOL(32).recipe
    first, second = _bench.torchvision_views(recipe, uint8=False)
    assert [type(step).__name__ for step in first.transforms] == [
        "ToDtype", "RandomResizedCrop", "RandomHorizontalFlip", "RandomApply", "RandomGrayscale", "RandomApply",
        "Normalize",
    ]  # fmt: skip
    assert second.transforms[-2].threshold == recipe.views[1].threshold
    (plain,) = _bench.torchvision_views(Recipe((View(8, (1, 1), (1, 1), 0),)), channels=1)
    image = photographs(1, 8, 8)[0, :1]
    mean, std = (x[0] for x in _bench.channel_statistics(1, None, None))
    torch.testing.assert_close(plain(image), (image / 255 - mean) / std)


def test_the_command_line_times_views(capsys):
    asked = ["bench", "augment", "--recipe", "mae", "simclr-small", "--batch-size", "2", "--image-size", "40"]
    assert cli.main([*asked, "--repeats", "1", "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:3] == ["recipe", "views", "fastssl"]
    assert [line.split()[:2] for line in lines[2:]] == [["mae", "1"], ["simclr-small", "2"]]
    assert cli.main([*asked, "--repeats", "0"]) == 1
    assert capsys.readouterr().err == "fastssl: error: repeats: got 0, want an int >= 1\n"


def test_floors_of_a_view():
    crop = View(8, (1, 1), (1, 1), 0)
    pixels = 8 * 8
    same = augment_floors.cost(Recipe((crop,)), (8, 8), 4)
    assert same.bytes == 3 * pixels * (1 + 4)
    assert same.operations == pixels * (augment_floors.CONVERT + augment_floors.NORMALIZE)
    # Twice as large: four taps a row of 16 rows, then four a column; a product and a sum each, three channels.
    half = augment_floors.cost(Recipe((crop,)), (16, 16), 2)
    assert half.bytes == 3 * (16 * 16 + pixels * 2)
    taps = 6 * 4 * (16 * 8 + 8 * 8)
    assert half.operations == 16 * 16 * augment_floors.CONVERT + taps + pixels * augment_floors.NORMALIZE
    assert half.h200_us == pytest.approx(1e6 * max(half.bytes / 4.8e12, half.operations / 67e12))
    blurred = Recipe((View(8, (1, 1), (1, 1), 0, blur_p=1.0, gray_p=1.0, sigma=(0.1, 0.1)),))
    more = augment_floors.cost(blurred, (8, 8), 4).operations - same.operations
    assert more == pixels * (augment_floors.LUMA + 6 * 3 * 2)


def test_the_way_from_files(tmp_path):
    files = augment_files.write_files(tmp_path)
    images = augment_files.folder_images(files, 40)
    batch, _ = images.native_batch(range(38, 40))
    assert batch.sizes.tolist() == [[375, 500]] * 2
    assert not images.in_memory
    rows = augment_files.measure(augment_files.Files(images=8, batch=4, budget_s=0.1), "cpu")
    assert [r["provider"] for r in rows] == ["fastssl", "torchvision-uint8"]
    for r in rows:
        assert r["images_per_s"] > 0
        assert sum(r["shares"].values()) == pytest.approx(1, abs=2e-3)
    assert isinstance(images, data.FolderImages)


def test_the_median_is_reported(monkeypatch):
    taken = iter([(1.0, 9.0), (5.0, 2.0), (3.0, 4.0)])
    times = {"fastssl": list(taken), "matmul": [(2.0, 2.0)], "copy": [(2.0, 2.0)]}
    made = ntxent_measure._row(ntxent_measure.Problem(64), "fastssl", "fwd_bwd", "cpu", {}, times)
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
    rows = {
        "ntxent": {"op": "ntxent", "mode": "fwd_bwd", "dtype": "bfloat16", "m": 512, "d": 128, "provider": "fastssl",
                   "time_ms": 0.1, "peak_mib": 1.0, "fraction_of_matmul": 0.5, "time_over_fastssl": 1.0},
        "contrastive": {"op": "contrastive", "title": "CLIP", "mode": "fwd_bwd", "dtype": "bfloat16", "m": 512,
                        "n": 512, "d": 128, "provider": "fastssl", "time_ms": 0.2, "peak_mib": None,
                        "fraction_of_matmul": 0.5, "time_over_fastssl": 1.0},
        "augment": {"op": "augment", "title": "SimCLR 224", "batch": 256, "provider": "fastssl", "time_ms": 0.0012,
                    "time_over_fastssl": 1.0, "predicted_h200_us": 0.14},
        "masking": {"op": "masking", "case": "restore", "title": "restore", "n": 256, "length": 196, "mode": "fwd_bwd",
                    "dtype": "bfloat16", "provider": "fastssl", "time_ms": 0.05, "time_over_fastssl": 1.0,
                    "moved_gbs": 2000.0, "copy_gbs": 4000.0},
        "teachers": {"op": "teachers", "title": "DINO", "mode": "fwd_bwd", "dtype": "bfloat16", "m": 64, "n": 65536,
                     "views": 10, "provider": "fastssl", "time_ms": 0.3, "peak_mib": None, "gradients_mib": 80.0,
                     "time_over_floor": 1.23, "time_over_fastssl": 1.0},
        "pretexts": {"op": "pretexts", "title": "tiles", "mode": "fwd", "whole": True, "dtype": "float32", "n": 256,
                     "side": 255, "provider": "fastssl", "time_ms": 0.1, "peak_mib": 1.0, "time_over_floor": 1.34,
                     "time_over_fastssl": 1.0},
    }  # fmt: skip

    def run(command, *rest):
        if str(command[1]).endswith("gpu_probes.py"):
            Path(command[2]).write_text(json.dumps({"backends": {}, "no_sync": {"ok": sync_is_fine}}))
        if "--quick" in command:
            op = Path(command[1]).stem.removeprefix("bench_")
            path = Path(command[-1]) / "some-gpu" / f"{op}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"environment": {}, "rows": [rows[op]]}))
        return {"ok": True, "code": 0, "seconds": 1.0}

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name, value in (("ROOT", tmp_path), ("run", run), ("tests", lambda *_: {"ok": None, "note": "no pytest"})):
        monkeypatch.setattr(gpu_check, name, value)
    for sync_is_fine in (True, False):
        assert gpu_check.main(["--out", str(tmp_path / "out")]) == (0 if sync_is_fine else 1)
        stored = json.loads((tmp_path / "out" / "gpu_check.json").read_text())
        assert stored["ok"] == stored["probes"]["no_sync"]["ok"] == sync_is_fine
        for op, row in rows.items():
            assert json.loads((tmp_path / "out" / f"{op}.json").read_text())["rows"] == [row]
        printed = capsys.readouterr().out
        assert "50.0 % of matmul" in printed
        assert "1.20 us a view" in printed
        assert "predicted floor 0.14 us" in printed
        assert "50 % of a copy's rate" in printed
        assert "1.23 x floor" in printed
        assert "1.34 x floor" in printed
        assert ("no_sync       FAIL" in printed) != sync_is_fine


def test_gpu_check_ends_a_step_that_hangs(tmp_path):
    code = "import time; print('begun in /some/folder/file.py', flush=True); time.sleep(60)"
    told = gpu_check.run([sys.executable, "-c", code], 3, tmp_path, dict(os.environ))
    assert (told["ok"], told["code"]) == (False, 124)
    assert told["seconds"] < 30
    assert "begun in file.py" in told["end"]
    assert sum(gpu_check.LIMITS.values()) < 9 * 60
    assert all((ROOT / "tests" / name).exists() for name in gpu_check.TESTS)
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
    assert "bench_augment.py::test_augment[" in done.stdout
    assert "bench_masking.py::test_masking[" in done.stdout
    assert "bench_teachers.py::test_teachers[" in done.stdout
    assert "bench_pretexts.py::test_pretexts[" in done.stdout
