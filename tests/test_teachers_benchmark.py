"""The benchmark of teachers and students: providers that agree, also in what they update, and floors as counted."""

from __future__ import annotations

import itertools
import json
import math
import os
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))

import bench_teachers
import gpu_check
import harness
import measured
import teachers_forms
import teachers_measure
import teachers_providers
from teachers_providers import CASES, Problem

linux = pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="needs Linux's /proc")
DINO = ("dino", "dino-loss")


@pytest.fixture
def small_references(monkeypatch):
    monkeypatch.setattr(harness, "reference_sizes", lambda device: (64, 2**12))


def tiny(case, **other):
    return Problem(case, 8, 48, 4 if case in DINO else 1, budget_s=0.05, **other)


@pytest.mark.parametrize("case", CASES)
def test_providers_agree_on_every_case(case, small_references, monkeypatch):
    monkeypatch.setattr(measured, "peaks_mib", lambda *_: {})
    forced = ("fastssl-torch",) if CASES[case].op else ()
    problem = tiny(case, providers=tuple(n for n in (*CASES[case].forms, *forced) if n != "compile"))
    names = teachers_providers.available(problem, "cpu")
    rows = teachers_measure.measure(problem, "cpu")
    assert {"fastssl", "eager"} <= set(names) <= set(problem.providers)
    modes = ("fwd",) if case in ("sinkhorn", "ema", "center") else ("fwd", "fwd_bwd")
    assert [(r["provider"], r["mode"]) for r in rows] == list(itertools.product(names, modes))
    own = {r["mode"]: r for r in rows if r["provider"] == "fastssl"}
    for r in rows:
        assert (r["op"], r["case"], r["m"], r["n"], r["device"]) == ("teachers", case, 8, 48, "cpu")
        assert 0 < r["q1_ms"] <= r["time_ms"] <= r["q3_ms"]
        assert r["time_over_fastssl"] == pytest.approx(r["time_ms"] / own[r["mode"]]["time_ms"], rel=1e-3)
        floor_ms = max(r["floor_bytes_ms"], r["floor_operations_ms"])
        assert r["time_over_floor"] == pytest.approx(r["time_ms"] / floor_ms, rel=1e-3)
        assert (r["gradients_mib"] is None) == (modes == ("fwd",))
    assert own["fwd"]["backend"] in (("cpp", "torch") if CASES[case].op else (None,))


@pytest.mark.parametrize("case", ["dino", "ibot", "center"])
def test_a_centre_goes_on_from_call_to_call(case):
    inputs = [teachers_providers.make_inputs(tiny(case), "cpu", seed) for seed in range(2)]
    found = []
    for name in ("fastssl", "eager", "lightly"):
        form = teachers_providers.build(tiny(case), name)
        centers = [out[1] if isinstance(out, tuple) else out for out in (form(x).clone() if case == "center" else
                   tuple(t.detach().clone() for t in form(x)) for x in inputs)]  # fmt: skip
        found.append(centers[-1])
    assert (found[0] - inputs[0]["center"]).norm() > 0.1 * found[0].norm()
    for other in found[1:]:
        torch.testing.assert_close(other, found[0])


def test_a_provider_that_computes_something_else_is_refused():
    good = [torch.ones(3, 4), torch.zeros(2)]
    measured.agree("the label", {"fastssl": good, "eager": [x.clone() for x in good]}, 1e-4)
    for wrong in (torch.full((3, 4), 1.001), torch.full((3, 4), math.nan)):
        with pytest.raises(AssertionError, match="eager computes something else than fastssl: the label"):
            measured.agree("the label", {"fastssl": good, "eager": [wrong, good[1]]}, 1e-4)


@pytest.mark.parametrize(
    ("case", "sizes", "provider", "mode", "gigabytes"),
    [
        ("dino-loss", (64, 65536, 10, "bfloat16"), "fastssl", "fwd_bwd", 34 * 64 * 65536 * 2e-9),
        ("dino", (64, 65536, 10), "lightly", "fwd", 14 * 64 * 65536 * 4e-9),
        ("dino", (64, 65536, 10), "fastssl", "fwd_bwd", 36 * 64 * 65536 * 4e-9),
        ("ibot", (4096, 8192), "fastssl", "fwd_bwd", 6 * 4096 * 8192 * 4e-9),
        ("sinkhorn", (128, 65536), "fastssl", "fwd", 3 * 128 * 65536 * 4e-9),
        ("sinkhorn", (128, 65536), "fastssl-torch", "fwd", 3 * 128 * 65536 * 4e-9),
        ("sinkhorn", (128, 65536, 1, "bfloat16"), "fastssl-assignments", "fwd", 128 * 65536 * (4 * 2 + 4) * 1e-9),
        ("sinkhorn", (2048, 3000), "lightly", "fwd", 5 * 2048 * 3000 * 4e-9),
        ("koleo", (2048, 384), "fastssl", "fwd_bwd", 2 * 2048 * 384 * 4e-9),
        ("ema", (12, 384), "fastssl", "fwd", 12 * 21.666e-3),
        ("center", (128, 65536), "fastssl", "fwd", 128 * 65536 * 4e-9),
    ],
)
def test_floors(case, sizes, provider, mode, gigabytes):
    found = teachers_measure.compulsory_bytes(Problem(case, *sizes), provider, mode)
    assert found / 1e9 == pytest.approx(gigabytes, rel=1e-4)


def test_only_koleo_multiplies():
    assert teachers_measure.operations(Problem("koleo", 10, 3)) == 300
    assert teachers_measure.operations(Problem("dino", 10, 3)) == 0


def test_weights_are_counted():
    teacher = teachers_providers.make_inputs(Problem("ema", 2, 24), "cpu")["teacher"]
    assert sum(p.numel() for p in teacher.parameters()) == teachers_forms.weights(Problem("ema", 2, 24))


@linux
def test_a_tiny_run_writes_rows(tmp_path, small_references):
    problem = Problem("dino", 2, 32768, 4, providers=("fastssl", "eager"), budget_s=0.05)
    path = harness.run(bench_teachers.BENCHMARK, [problem], "cpu", tmp_path, "command")
    stored = json.loads(path.read_text())
    rows = {(r["provider"], r["mode"]): r for r in stored["rows"]}
    assert set(rows) == set(itertools.product(("fastssl", "eager"), ("fwd", "fwd_bwd")))
    assert "lightly" in stored["environment"]["versions"]
    for r in rows.values():
        assert r["gradients_mib"] == (1 if r["mode"] == "fwd_bwd" else 0)
        assert r["peak_beyond_mib"] == pytest.approx(max(0, r["peak_mib"] - r["gradients_mib"]), abs=1e-4)
    assert rows["fastssl", "fwd"]["peak_mib"] < rows["eager", "fwd"]["peak_mib"]
    assert rows["fastssl", "fwd_bwd"]["peak_mib"] >= 0.75


def test_every_problem_has_a_name_of_its_own():
    for quick in (False, True):
        for device in ("cpu", "cuda"):
            labels = [p.label for p in bench_teachers.problems(device, quick)]
            assert len(set(labels)) == len(labels) > 5


@pytest.mark.parametrize(("case", "lines"), [("koleo", 2), ("center", 2)])
def test_lines_of_the_gpu_check(case, lines, small_references, monkeypatch):
    monkeypatch.setattr(measured, "peaks_mib", lambda *_: {})
    rows = teachers_measure.measure(tiny(case, providers=("fastssl", "eager")), "cpu")
    told = [line for line in map(gpu_check.teachers_line, rows) if line]
    assert len(told) == lines
    assert "x floor" in told[0]


def test_inputs_of_a_seed_are_the_same_for_all():
    first, again = (teachers_providers.make_inputs(tiny("dino", dtype="bfloat16"), "cpu", seed=5) for _ in range(2))
    for a, b in zip(first["student"], again["student"], strict=True):
        assert torch.equal(a, b)
        assert a.requires_grad
    assert first["teacher"][0].dtype == torch.bfloat16
    assert not first["teacher"][0].requires_grad
    assert first["center"].dtype == torch.float32
