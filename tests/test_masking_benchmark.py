"""The benchmark of masked training: providers that agree, bytes that are counted, a step equal to plain PyTorch."""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path

import pytest
import torch

from fastssl import cli

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))

import bench_masking
import gpu_check
import harness
import masking_floors
import masking_measure
import masking_providers
import masking_step
from masking_providers import CASES, Problem
from masking_step import Step

linux = pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="needs Linux's /proc")
TINY = {"n": 3, "length": 16, "dim": 24, "budget_s": 0.05}
TINY_STEP = Step(2, 1, "vit_tiny_patch16_224", decoder_dim=32, decoder_depth=1)


@pytest.fixture
def small_references(monkeypatch):
    monkeypatch.setattr(harness, "reference_sizes", lambda device: (64, 2**12))
    monkeypatch.setattr(masking_measure, "NEW_NUMEL", 2**12)


@pytest.mark.parametrize("case", CASES)
def test_providers_agree_on_every_case(case, small_references, monkeypatch):
    monkeypatch.setattr(masking_measure, "_peaks", lambda *_: {})
    names = tuple(n for n in (*CASES[case].forms, "fastssl-torch") if n != "compile")
    rows = masking_measure.measure(Problem(case, providers=names, **TINY), "cpu")
    modes = ("fwd",) if case == "ids" else ("fwd", "fwd_bwd")
    assert {(r["provider"], r["mode"]) for r in rows} == {(n, m) for n in names for m in modes}
    own = {r["mode"]: r for r in rows if r["provider"] == "fastssl"}
    for r in rows:
        assert (r["op"], r["case"], r["n"], r["length"], r["device"]) == ("masking", case, 3, 16, "cpu")
        assert 0 < r["q1_ms"] <= r["time_ms"] <= r["q3_ms"]
        assert r["time_over_fastssl"] == pytest.approx(r["time_ms"] / own[r["mode"]]["time_ms"], rel=1e-3)
    for r in own.values():
        assert r["moved_over_floor"] == pytest.approx(r["moved_bytes"] / r["floor_bytes"], rel=1e-3)
        assert r["moved_gbs"] == pytest.approx(r["moved_bytes"] / r["time_ms"] / 1e6, rel=1e-3)
        assert r["backend"] in ("cpp", "torch")


@linux
def test_a_tiny_run_writes_rows(tmp_path, small_references):
    problem = Problem("restore", providers=("fastssl", "eager"), **TINY)
    path = harness.run(bench_masking.BENCHMARK, [problem, TINY_STEP], "cpu", tmp_path, "command")
    stored = json.loads(path.read_text())
    assert {(r["case"], r["provider"]) for r in stored["rows"]} == {
        (case, name) for case in ("restore", "step") for name in ("fastssl", "eager")
    }
    assert all(r["peak_mib"] >= 0 for r in stored["rows"])
    assert {"timm", "lightly"} <= set(stored["environment"]["versions"])
    own, plain = (r for r in stored["rows"] if r["case"] == "step")
    assert own["loss"] == pytest.approx(plain["loss"], rel=1e-5)
    # As far apart as two float32 programs may be, which is told by how far each is from float64.
    assert own["difference"] <= 4 * (own["error"] + plain["error"]) < 1e-4
    assert own["error"] <= 4 * plain["error"]
    for r in (own, plain):
        assert sum(r[f"ms_{i}"] for i in range(len(masking_step.STAGES))) == pytest.approx(r["time_ms"], rel=1e-3)
        assert 4 < r["peak_mib"] < 400


def test_a_provider_that_computes_something_else_is_refused():
    problem = Problem("restore", **TINY)
    good = [torch.ones(3, 4), torch.zeros(2)]
    masking_measure.agree(problem, {"fastssl": good, "eager": [x.clone() for x in good]})
    for wrong in (torch.full((3, 4), 1.001), torch.full((3, 4), math.nan)):
        with pytest.raises(AssertionError, match="eager computes something else"):
            masking_measure.agree(problem, {"fastssl": good, "eager": [wrong, good[1]]})
    tokens, rows = Problem("tokens", **TINY), torch.zeros(3, 16, 24)
    rows[:, : tokens.kept] = 1
    own = [torch.ones(3, tokens.kept, 24), rows]
    masking_measure.agree(tokens, {"fastssl": own, "eager": own})
    with pytest.raises(AssertionError, match="timm computes"):
        masking_measure.agree(tokens, {"fastssl": own, "timm": [own[0], torch.ones(3, 16, 24)]})


def test_floors_are_those_of_vit_large():
    """Megabytes of 64 images, width 1024, decoder 512: gather, restore and loss, as counted by hand."""
    megabytes = [
        (Problem("tokens", dim=1024), "fwd", 25.7), (Problem("tokens", dim=1024), "fwd_bwd", 25.7 + 64.2),
        (Problem("restore", dim=512), "fwd", 32.2), (Problem("restore", dim=512), "fwd_bwd", 2 * 32.2),
        (Problem("loss"), "fwd", 96.3), (Problem("loss"), "fwd_bwd", 96.3),
    ]  # fmt: skip
    for problem, mode, expected in megabytes:
        # Tables of ids and positions come on top.
        assert expected <= masking_floors.work(problem, mode).floor / 1e6 <= expected + 1.5, (problem.label, mode)
    product = masking_floors.work(Problem("embed-uint8"), "fwd").operations
    assert product == 2 * 64 * 49 * 768 * 768


def test_no_kernel_moves_far_more_than_the_floor():
    for problem in bench_masking.problems("cpu", quick=False):
        if isinstance(problem, Problem):
            for mode in masking_measure.modes(problem):
                work = masking_floors.work(problem, mode)
                assert work.floor <= work.moved <= 1.5 * work.floor, (problem.label, mode)


@linux
@pytest.mark.parametrize("case", ["tokens", "restore", "loss"])
def test_peaks_are_those_of_the_results(case):
    problem = Problem(case, 16, dim=512)
    mib = {name: masking_measure._peaks(problem, name, "cpu")["fwd_bwd"] for name in ("fastssl", "eager")}
    new_mib = masking_floors.work(problem, "fwd_bwd").new / 2**20
    largest = max(masking_floors.work(problem, m).new for m in ("fwd", "fwd_bwd")) / 2**20
    assert mib["fastssl"] < mib["eager"]
    assert 0.5 * new_mib < mib["fastssl"] < largest + 1.5


def test_every_problem_has_a_name_of_its_own():
    for quick in (False, True):
        for device in ("cpu", "cuda"):
            labels = [p.label for p in bench_masking.problems(device, quick)]
            assert len(set(labels)) == len(labels) > 5


def test_lines_of_the_gpu_check(small_references, monkeypatch):
    monkeypatch.setattr(masking_measure, "_peaks", lambda *_: {})
    rows = masking_measure.measure(Problem("loss", providers=("fastssl", "eager"), **TINY), "cpu")
    lines = [line for line in map(gpu_check.masking_line, rows) if line]
    assert len(lines) == 2
    assert "of a copy's rate" in lines[0]


def test_the_command_line_times_masking(capsys):
    asked = ["bench", "masking", "--batch-size", "2", "--dim", "8", "--image-size", "64", "--repeats", "1"]
    assert cli.main([*asked, "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:2] == ["op", "fastssl"]
    assert [line.split()[0] for line in lines[2:]] == ["masking", "restore", "loss"]
    for wrong, told in ((("--image-size", "60"), "image_size: got 60"), (("--dim", "0"), "dim: got 0")):
        assert cli.main([*asked, *wrong, "--device", "cpu"]) == 1
        assert told in capsys.readouterr().err


def test_inputs_of_a_seed_are_the_same_for_all():
    first, again = (masking_providers.make_inputs(Problem("restore", **TINY), "cpu", seed=5) for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert first["visible"].requires_grad
    assert not first["pos"].requires_grad
