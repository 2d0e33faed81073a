"""Numbers in the README come from stored results, and the report tells them right."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))

import report

ROOT = report.ROOT
README = "before\n<!-- bench:ntxent:begin -->\nold\n<!-- bench:ntxent:end -->\nafter\n"


def row(provider, m=512, time_ms=2.0, over=1.0, peak_mib=4.0, **other):
    base = {
        "provider": provider, "backend": {"fastssl": "cpp", "fastssl-torch": "torch"}.get(provider), "device": "cpu",
        "dtype": "float32", "m": m, "d": 128, "mode": "fwd_bwd", "time_ms": time_ms, "time_over_fastssl": over,
        "peak_mib": peak_mib, "fraction_of_matmul": None if time_ms is None else 0.876, "floor_operations_ms": 1.0,
        "note": None,
    }  # fmt: skip
    return base | other


def result(rows):
    environment = {
        "machine_name": "Some CPU, 2 cores, AVX2", "threads": 2, "date": "2026-01-02", "commit": "0123456789abcdef",
        "dirty": False, "versions": {"python": "3.11", "torch": "2.11.0"},
    }  # fmt: skip
    return {"op": "ntxent", "environment": environment, "command": "pytest benchmarks/bench_ntxent.py", "rows": rows}


@pytest.fixture
def measured():
    rows = [
        row("fastssl"),
        row("eager", time_ms=11.0, over=5.5, peak_mib=3000.0),
        row("fastssl-torch", time_ms=6.0, over=3.0),
        row("pml", time_ms=4000.0, over=2000.0, peak_mib=2048.0),
        row("fastssl", m=32768, time_ms=12345.0, peak_mib=80.4),
        row(
            "eager", m=32768, time_ms=None, over=None, peak_mib=13000.0, note="out of time budget: about 20.0 s a step"
        ),
        row("pml", m=32768, time_ms=None, over=None, peak_mib=None, note="out of memory budget: needs over 1 TiB"),
        row("fastssl", m=4096, d=64, time_ms=31.4),
        row("eager", m=4096, d=64, time_ms=157.0, over=5.0),
        row("fastssl", m=8192, dtype="bfloat16", time_ms=250.0, peak_mib=20.0),
        row("fastssl", mode="fwd", time_ms=777.0),
    ]
    return result(rows)


def test_the_table_tells_what_the_rows_say(measured):
    text = report.section(measured)
    lines = text.splitlines()
    assert "| 2N | fastssl | eager PyTorch | pytorch-metric-learning | fastssl, of sgemm |" in lines
    assert "| 512 | 2.00 ms, 4.0 MiB | 11.0 ms (5.5×), 2.9 GiB | 4000 ms (2000×), 2.0 GiB | 88 % |" in lines
    assert "| 32768 | 12.3 s, 80 MiB | not timed, 12.7 GiB | needs over 1 TiB | 88 % |" in lines
    assert "Other widths at 2N = 4096, float32: d = 64: 31.4 ms (eager PyTorch 5.0×)." in text
    assert "bfloat16 250 ms, 20 MiB at 2N = 8192." in text
    assert "The torch backend takes 6.00 ms at 2N = 512 in float32, 3.0× the cpp backend" in text
    assert "2026-01-02 by `pytest benchmarks/bench_ntxent.py`, commit 0123456789; python 3.11, torch 2.11.0." in text
    assert "777" not in text  # the forward alone has no place in these tables


def test_changed_sources_are_told(measured):
    measured["environment"]["dirty"] = True
    assert "commit 0123456789 with changes;" in report.section(measured)


def test_only_the_text_between_markers_changes(measured):
    plots = "<!-- bench:ntxent-plots:begin -->\n<!-- bench:ntxent-plots:end -->\n"
    text = report.update(README + plots, {"some-2c": measured})
    assert text.startswith("before\n<!-- bench:ntxent:begin -->\n**Some CPU")
    assert "\n<!-- bench:ntxent:end -->\nafter\n" in text
    assert "old" not in text
    assert "](benchmarks/results/some-2c/ntxent_memory.png)" in text
    assert report.update(text, {"some-2c": measured}) == text
    with pytest.raises(ValueError, match="no markers <!-- bench:ntxent:begin -->"):
        report.update("no markers", {"some-2c": measured})


def test_check_finds_a_number_that_no_result_backs(measured, tmp_path, capsys):
    (tmp_path / "results" / "some-2c").mkdir(parents=True)
    stored, readme = tmp_path / "results" / "some-2c" / "ntxent.json", tmp_path / "README.md"
    stored.write_text(json.dumps(measured))
    readme.write_text(report.update(README, report.load(tmp_path / "results")))
    arguments = ["--check", "--readme", str(readme), "--results", str(tmp_path / "results")]
    assert report.main(arguments) == 0
    readme.write_text(readme.read_text().replace("11.0 ms", "99.0 ms"))
    assert report.main(arguments) == 1
    assert "out of date" in capsys.readouterr().out
    assert report.main(["--readme", str(readme), "--results", str(tmp_path / "none")]) == 1


def test_plots(measured, tmp_path):
    plots = pytest.importorskip("plots", exc_type=ImportError)
    more = copy.deepcopy(measured)
    for path in plots.draw(more, tmp_path):
        assert path.read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ntxent_memory.png", "ntxent_time.png"]


def test_the_readme_equals_what_the_stored_results_give():
    results, readme = report.load(report.RESULTS), ROOT / "README.md"
    if not readme.exists() or report.BEGIN.format(op="ntxent") not in readme.read_text():
        pytest.skip("README.md has no tables")
    text = readme.read_text()
    if not results:  # then nothing may stand there
        text_without = report.insert(text, "", "ntxent")
        assert text_without.split() == text.split(), "README.md has numbers, and no stored result backs them"
        return
    assert report.update(text, results) == text, "README.md is out of date: make report"
