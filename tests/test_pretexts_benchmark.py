"""The benchmark of the pretexts' ops: providers that agree, floors as counted, rows as the report reads them."""

from __future__ import annotations

import itertools
import json
import os
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))

import bench_pretexts
import harness
import measured
import pretexts_measure
import pretexts_providers
from pretexts_forms import Problem
from pretexts_providers import CASES

linux = pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="needs Linux's /proc")
SIDES = {"jigsaw": 255, "context": 400, "lab": 40, "bins": 40, "loss": 12}


@pytest.fixture
def small_references(monkeypatch):
    monkeypatch.setattr(harness, "reference_sizes", lambda device: (64, 2**12))


def tiny(case, **other):
    return Problem(case, 1, SIDES[case], budget_s=0.05, **other)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_providers_agree_on_every_case(case, interleaved, small_references, monkeypatch):
    monkeypatch.setattr(measured, "peaks_mib", lambda *_: {})
    names = tuple(name for name in (*CASES[case].forms, "fastssl-torch") if name != "compile")
    problem = tiny(case, interleaved=interleaved, providers=names)
    rows = pretexts_measure.measure(problem, "cpu")
    modes = pretexts_measure.modes(problem)
    there = pretexts_providers.available(problem, "cpu")
    assert {"fastssl", "eager"} <= set(there)
    assert [(r["provider"], r["mode"]) for r in rows] == list(itertools.product(there, modes))
    own = {r["mode"]: r for r in rows if r["provider"] == "fastssl"}
    for r in rows:
        assert (r["op"], r["case"], r["side"], r["device"]) == ("pretexts", case, problem.side, "cpu")
        assert r["whole"] == (r["mode"] == modes[-1])
        assert 0 < r["q1_ms"] <= r["time_ms"] <= r["q3_ms"]
        assert r["time_over_fastssl"] == pytest.approx(r["time_ms"] / own[r["mode"]]["time_ms"], rel=1e-3)
        assert r["time_over_floor"] == pytest.approx(r["time_ms"] / r["floor_bytes_ms"], rel=1e-3)
    assert own[modes[-1]]["backend"] == "cpp"


@pytest.mark.parametrize(
    ("problem", "megabytes"),
    [
        (Problem("jigsaw", 64, 255), 64 * 9 * 3 * 64**2 * (1 + 4) / 1e6),
        (Problem("jigsaw", 64, 255, "bfloat16"), 64 * 9 * 3 * 64**2 * (1 + 2) / 1e6),
        (Problem("context", 32, 400), 32 * 9 * 96**2 * (1 + 3 * 4) / 1e6),
        (Problem("lab", 32, 224), 32 * (224**2 * (3 + 3 * 4) + 8) / 1e6),
        (Problem("bins", 32, 224), 32 * (224**2 * (3 + 3 * 4) + 56**2 * 80) / 1e6),
        (Problem("loss", 16, 56), 16 * 56**2 * (313 * 4 + 80) / 1e6),
        (Problem("loss", 16, 56, "bfloat16"), 16 * 56**2 * (313 * 2 + 80) / 1e6),
    ],
)
def test_floors(problem, megabytes):
    assert CASES[problem.case].moved(problem, "fwd") / 1e6 == pytest.approx(megabytes)


@linux
def test_a_tiny_run_writes_rows(tmp_path, small_references):
    path = harness.run(bench_pretexts.BENCHMARK, [tiny("jigsaw", providers=("fastssl",))], "cpu", tmp_path, "command")
    stored = json.loads(path.read_text())
    assert [r["provider"] for r in stored["rows"]] == ["fastssl"]
    assert "torchvision" in stored["environment"]["versions"]
    patches_mib = 9 * 3 * 64**2 * 4 / 2**20
    assert patches_mib <= stored["rows"][0]["peak_mib"] < 3 * patches_mib


def test_every_problem_has_a_name_of_its_own():
    for quick, device in itertools.product((False, True), ("cpu", "cuda")):
        problems = bench_pretexts.problems(device, quick)
        assert len({p.label for p in problems}) == len(problems) > 1
        assert {p.case for p in problems} == set(CASES)
