"""Numbers in the README come from stored results, and the report tells them right."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))

import report
import report_augment
import report_compare
import report_masking
import report_ntxent
import report_pretexts
import report_teachers
import texts

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


def view(provider, recipe="simclr", time_ms=0.3, over=1.0, threads=1, **other):
    base = {
        "op": "augment", "provider": provider, "recipe": recipe,
        "title": "SimCLR 224" if recipe == "simclr" else recipe,
        "backend": {"fastssl": "cpp", "fastssl-torch": "torch"}.get(provider), "device": "cpu", "threads": threads,
        "image_size": 256, "batch": None, "time_ms": time_ms, "time_over_fastssl": over, "floor_bytes": 7e5,
        "floor_operations": 9.2e6, "floor_bytes_ms": 0.02, "floor_operations_ms": 0.1, "predicted_h200_us": 0.14,
    }  # fmt: skip
    return base | other


def from_files(provider, images_per_s, **shares):
    return {
        "op": "augment", "provider": provider, "recipe": "files", "title": "JPEG 500 × 375 to 2 × 224", "workers": 2,
        "images_per_s": images_per_s, "shares": shares,
    }  # fmt: skip


def masking(provider, case="tokens", time_ms=4.0, over=1.0, **other):
    base = {
        "op": "masking", "provider": provider, "case": case,
        "title": {"tokens": "masks + gather", "ids": "random masks"}.get(case, case), "n": 64, "length": 196, "d": 768,
        "backend": {"fastssl": "cpp", "fastssl-torch": "torch"}.get(provider), "device": "cpu", "dtype": "float32",
        "mode": "fwd_bwd", "time_ms": time_ms, "time_over_fastssl": over, "peak_mib": 46.0, "floor_bytes": 6e7,
        "floor_bytes_ms": 2.0, "floor_operations": 0, "floor_operations_ms": 0.0, "copy_gbs": 36.0,
        "moved_over_floor": 1.0123, "moved_gbs": 24.0, "new_gbs": 6.2,
    }  # fmt: skip
    return base | other


def mae_step(provider, time_ms, over, **other):
    base = {
        "op": "masking", "case": "step", "title": "MAE, whole step", "provider": provider, "device": "cpu", "n": 64,
        "encoder": "vit_base_patch16_224", "mode": "fwd_bwd", "dtype": "float32", "time_ms": time_ms,
        "time_over_fastssl": over, "peak_mib": 5000.0, "loss": 1.30491, "difference": 7e-7, "error": 6.4e-7,
        "exact_batch": 2, **{f"ms_{i}": 100.0 * (i + 1) for i in range(5)},
    }  # fmt: skip
    return base | other


def distilled(provider, case="dino", time_ms=20.0, over=1.0, peak_mib=161.0, **other):
    gradients_mib = {"dino": 160.0, "ibot": 128.0}.get(case)
    base = {
        "op": "teachers", "provider": provider, "case": case, "m": 64, "n": 65536, "views": 10 if case == "dino" else 1,
        "title": {"dino": "DINO and its centre", "ema": "average of weights"}.get(case, case),
        "backend": {"fastssl": "cpp", "fastssl-torch": "torch"}.get(provider), "device": "cpu", "dtype": "float32",
        "mode": "fwd" if gradients_mib is None else "fwd_bwd", "time_ms": time_ms, "time_over_fastssl": over,
        "peak_mib": peak_mib, "gradients_mib": gradients_mib, "peak_beyond_mib": peak_mib - (gradients_mib or 0),
        "floor_bytes": 6e8, "floor_bytes_ms": 15.0, "floor_operations_ms": 0.0, "time_over_floor": time_ms / 15,
        "copy_gbs": 40.4,
    }  # fmt: skip
    return base | other


def cut(provider, case="jigsaw", time_ms=4.0, over=1.0, **other):
    base = {
        "op": "pretexts", "provider": provider, "case": case, "title": {"jigsaw": "tiles of jigsaw"}.get(case, case),
        "backend": {"fastssl": "cpp", "fastssl-torch": "torch"}.get(provider), "device": "cpu", "dtype": "float32",
        "n": 64, "side": 255, "interleaved": False, "mode": "fwd", "whole": True, "time_ms": time_ms,
        "time_over_fastssl": over, "peak_mib": 27.0, "floor_bytes": 3.54e7, "floor_bytes_ms": 2.0,
        "time_over_floor": time_ms / 2, "copy_gbs": 17.7,
    }  # fmt: skip
    return base | other


def result(rows, op="ntxent"):
    environment = {
        "machine_name": "Some CPU, 2 cores, AVX2", "threads": 2, "date": "2026-01-02", "commit": "0123456789abcdef",
        "dirty": False, "versions": {"python": "3.11", "torch": "2.11.0"}, "device": "cpu",
    }  # fmt: skip
    return {"op": op, "environment": environment, "command": f"pytest benchmarks/bench_{op}.py", "rows": rows}


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


@pytest.fixture
def views():
    rows = [
        view("fastssl"),
        view("fastssl-bf16", time_ms=0.29, predicted_h200_us=0.12),
        view("fastssl-uint8", time_ms=0.36),
        view("fastssl-torch", time_ms=10.0, over=33.3),
        view("torchvision-uint8", time_ms=8.9, over=29.7),
        view("lightly", time_ms=4.0, over=13.3),
        view("fastssl", "CIFAR", 0.0123, image_size=32),
        view("torchvision-uint8", "CIFAR", 0.62, 50.4, image_size=32),
        view("fastssl", threads=2, time_ms=0.15),
        view("lightly", threads=2, time_ms=2.1, over=14.0),
        from_files("fastssl", 347.2, decode=0.61, augment=0.39),
        from_files("torchvision-uint8", 47.0, decode=0.08, augment=0.92),
    ]
    return result(rows, "augment")


@pytest.fixture
def masked():
    rows = [
        masking("fastssl", "ids", 1.5, n=8, length=16384, mode="fwd"),
        masking("eager", "ids", 20.0, 13.3, n=8, length=16384, mode="fwd"),
        masking("fastssl"),
        masking("fastssl", time_ms=777.0, mode="fwd"),
        masking("eager", time_ms=30.0, over=7.5, peak_mib=64.2),
        masking("lightly", time_ms=28.0, over=7.0),
        masking("fastssl-torch", time_ms=12.0, over=3.0),
        masking("fastssl", "embed-uint8", 20.0, floor_operations=3.7e9, floor_operations_ms=10.0),
        masking("fastssl", n=8, time_ms=0.5),
        masking("eager", n=8, time_ms=2.0, over=4.0),
        masking("fastssl", dtype="bfloat16", time_ms=2.5),
        mae_step("fastssl", 15200.0, 1.0, error=5.8e-7),
        mae_step("eager", 17000.0, 1.118),
    ]
    return result(rows, "masking")


@pytest.fixture
def taught():
    rows = [
        distilled("fastssl"),
        distilled("fastssl", time_ms=777.0, mode="fwd"),
        distilled("eager", time_ms=90.0, over=4.5, peak_mib=360.0),
        distilled("lightly", time_ms=100.0, over=5.0, peak_mib=560.0),
        distilled("pairs", time_ms=400.0, over=20.0, peak_mib=1160.0),
        distilled("fastssl-torch", time_ms=60.0, over=3.0),
        distilled("fastssl", dtype="bfloat16", time_ms=12.0, peak_mib=81.0),
        distilled("fastssl", views=12, time_ms=24.0),
        distilled("fastssl", "sinkhorn", 3.0, peak_mib=2.0),
        distilled("eager", "sinkhorn", 30.0, 10.0, peak_mib=16.0),
        distilled("fastssl-assignments", "sinkhorn", 6.0, 2.0, peak_mib=18.0),
        distilled("fastssl", "ema", 9.0, peak_mib=0.0, floor_bytes=260e6),
        distilled("eager", "ema", 18.0, 2.0, peak_mib=0.1, floor_bytes=260e6),
    ]
    return result(rows, "teachers")


def test_teachers_and_students_are_told_as_the_rows_say(taught):
    text = report_teachers.section(taught)
    lines = text.splitlines()
    assert lines[0] == "**Some CPU, 2 cores, AVX2**, 2 threads"
    assert "| | fastssl | eager PyTorch | lightly | DINO's loop over pairs |" in lines
    title = "DINO and its centre, 2 + 8 views, 64 × 65536"
    cells = "20.0 ms, 161 MiB | 90.0 ms (4.5×), 360 MiB | 100 ms (5.0×), 560 MiB | 400 ms (20.0×), 1.1 GiB"
    assert f"| {title} | {cells} |" in lines
    assert "| DINO and its centre, 2 + 10 views, 64 × 65536 | 24.0 ms, 161 MiB |  |  |  |" in lines
    assert f"Aims on a CPU: {title} at most 1.5× the floor (1.33×), {title} 5× lightly (5.0× measured), " in text
    assert "sinkhorn, 64 × 65536 6× eager PyTorch (10.0× measured)." in text
    assert "bytes that must be read and written, at a copy's 40 GB/s in the same run" in text
    assert f"| {title} | 600.0 MB | 15.0 ms | 1.3× | 6.0× | 6.7× | 44.7 % | 0.5 % |" in lines
    assert "| sinkhorn, 64 × 65536 | 600.0 MB | 15.0 ms | 0.2× | 2.0× |  | 12.5 % | 12.5 % |" in lines
    assert "| average of weights, 21.7 million | 260.0 MB | 15.0 ms | 0.6× | 1.2× |  |  |  |" in lines
    assert f"{title}: fastssl 1.0 MiB, eager PyTorch 200 MiB, lightly 400 MiB, DINO's loop over pairs 1000 MiB;" in text
    assert f"{title} 60.0 ms (3.0×) by the torch backend; {title} 12.0 ms, 81 MiB in bfloat16" in text
    assert "sinkhorn, 64 × 65536 6.00 ms (2.0×), 18 MiB with the assignments." in text
    assert "Measured 2026-01-02 by `pytest benchmarks/bench_teachers.py`" in text
    assert "777" not in text


def test_parts_of_teachers_and_students_make_a_section(taught):
    few = report_teachers.section(result([r for r in taught["rows"] if r["case"] == "ema"], "teachers"))
    assert "average of weights" in few
    assert "Peaks beyond" not in few
    assert "other forms" not in few
    unknown = distilled("fastssl") | {"peak_mib": None, "peak_beyond_mib": None}
    text = report_teachers.section(result([unknown], "teachers"))
    assert "| DINO and its centre, 2 + 8 views, 64 × 65536 | 20.0 ms |" in text
    assert "Peaks beyond" not in text


@pytest.fixture
def patches():
    rows = [
        cut("fastssl"),
        cut("eager", time_ms=100.0, over=25.0, peak_mib=88.0),
        cut("torchvision", time_ms=60.0, over=15.0, peak_mib=9.0),
        cut("fastssl-torch", time_ms=90.0, over=22.5),
        cut("fastssl", interleaved=True, time_ms=5.0),
        cut("eager", interleaved=True, time_ms=90.0, over=18.0),
        cut("fastssl", dtype="bfloat16", time_ms=3.0, peak_mib=13.5),
        cut("fastssl", "loss", 7.0, mode="fwd", whole=False),
        cut("fastssl", "loss", 9.0, mode="fwd_bwd"),
    ]
    return result(rows, "pretexts")


def test_the_ops_of_pretexts_are_told_as_the_rows_say(patches):
    text = report_pretexts.section(patches)
    lines = text.splitlines()
    assert lines[0] == "**Some CPU, 2 cores, AVX2**, 2 threads"
    assert "| | fastssl | eager PyTorch | torchvision's crops |" in lines
    cells = "4.00 ms, 27 MiB | 100 ms (25.0×), 88 MiB | 60.0 ms (15.0×), 9.0 MiB"
    assert f"| tiles of jigsaw, 64 × 255² | {cells} |" in lines
    assert "| loss, 64 × 255² | 9.00 ms, 27 MiB |  |  |" in lines
    assert "at a copy's 18 GB/s in the same run" in text
    assert "| tiles of jigsaw, 64 × 255² | 35.4 MB | 2.00 ms | 2.0× | 50.0× | 30.0× |" in lines
    assert "tiles of jigsaw, 64 × 255² 90.0 ms (22.5×) by the torch backend" in text
    assert "tiles of jigsaw, 64 × 255² 5.00 ms, 27 MiB from interleaved channels" in text
    assert "tiles of jigsaw, 64 × 255² eager PyTorch 90.0 ms (18.0×), 27 MiB from interleaved channels" in text
    assert "tiles of jigsaw, 64 × 255² 3.00 ms, 14 MiB in bfloat16." in text
    assert "7.00 ms" not in text
    assert "Measured 2026-01-02 by `pytest benchmarks/bench_pretexts.py`" in text


def test_a_comparison_is_told_as_the_rows_say():
    def judged(knn, rank):
        return {"knn": {"scores": {"kNN": knn}}, "rankme": {"scores": {"RankMe": rank}}}

    row = {
        "op": "compare", "method": "swav", "epochs": 20, "batch_size": 64, "loss": [4.6, 3.21], "behind": None,
        "seconds": {"judging before": 9.0, "training": 61.2, "judging": 8.0},
        "before": judged(0.176, 31.0), "after": judged(0.306, 40.123),
    }  # fmt: skip
    told = result([row, {**row, "method": "moco", "behind": "why"}], "compare")
    text = report_compare.section(told | {"seconds": 1800, "command": "fastssl compare"})
    assert "| swav | 20 | 64 | 4.6 → 3.21 | 61 s | 8 s |" in text
    assert "| swav | 30.6 (17.6) | 40.12 (31.00) |" in text
    assert "`fastssl compare` on Some CPU, 2 cores, AVX2, 30 minutes in all" in text
    assert "- moco: why." in text
    assert "- swav" not in text


def test_masked_training_is_told_as_the_rows_say(masked):
    text = report_masking.section(masked)
    lines = text.splitlines()
    assert lines[0] == "**Some CPU, 2 cores, AVX2**, 2 threads"
    assert "Forward and backward, float32, 64 images of 196 patches: median time (times fastssl's), peak extra" in text
    assert "| | fastssl | eager PyTorch | lightly |" in lines
    assert "| random masks, 8 × 16384, forward | 1.50 ms, 46 MiB | 20.0 ms (13.3×), 46 MiB |  |" in lines
    assert "| masks + gather, d = 768 | 4.00 ms, 46 MiB | 30.0 ms (7.5×), 64 MiB | 28.0 ms (7.0×), 46 MiB |" in lines
    assert "Aims on a CPU, over eager PyTorch: masks + gather, d = 768 6× (7.5× measured)." in text
    assert "| masks + gather, d = 768 | 60.0 MB | 1.01× | 24.0 | 67 % | 2.00 ms |" in lines
    assert "| embed-uint8 | 60.0 MB | 1.01× | 24.0 | 67 % | 12.0 ms, product included |" in lines
    assert (
        "beside a copy's 36 GB/s in the same run. Writing to memory that the system has yet to clear runs at 6.2"
        in text
    )
    assert "masks + gather, d = 768 0.50 ms (4.0×) at 8." in text
    assert "masks + gather, d = 768 12.0 ms (3.0×) by the torch backend" in text
    assert "masks + gather, d = 768 2.50 ms in bfloat16" in text
    assert "A step of MAE, `vit_base_patch16_224`, batch 64, float32, loss and gradients:" in text
    assert "| fastssl.methods.MAE | 15.2 s | 4.9 GiB | 100 ms | 200 ms | 300 ms | 400 ms | 500 ms |" in lines
    assert "| the same in plain PyTorch | 17.0 s (1.12×) | 4.9 GiB |" in text
    assert "no parameter's gradient differs by more than 7.0e-07 of its norm." in text
    assert "on 2 images the gradients are 5.8e-07 from those in float64, in plain PyTorch 6.4e-07." in text
    assert "Measured 2026-01-02 by `pytest benchmarks/bench_masking.py`" in text
    assert "777" not in text


def test_parts_of_masked_training_make_a_section(masked):
    rows = masked["rows"]
    alone = report_masking.section(result([r for r in rows if r["case"] == "step"], "masking"))
    assert "| fastssl.methods.MAE | 15.2 s |" in alone
    assert "must move" not in alone
    few = report_masking.section(result([masking("fastssl", device="cuda", new_gbs=None)], "masking"))
    assert "Aims" not in few
    assert "A step of MAE" not in few
    assert "has yet to clear" not in few


def test_augmentation_is_told_as_the_rows_say(views):
    text = report_augment.section(views)
    lines = text.splitlines()
    assert lines[0] == "**Some CPU, 2 cores, AVX2**, 1 thread"
    assert "| a view of | fastssl | torchvision, uint8 | lightly (PIL) |" in lines
    assert "| SimCLR 224 | 0.30 ms | 8.90 ms (29.7×) | 4.00 ms (13.3×) |" in lines
    assert "| CIFAR | 12.3 µs | 0.62 ms (50.4×) |  |" in lines
    assert (
        "0.36 ms with uint8 rounding, 0.29 ms as bfloat16 channels_last, 10.0 ms (33.3×) by the torch backend." in text
    )
    assert "Threads, SimCLR 224: 0.30 ms with 1, 0.15 ms with 2 (2.0 times the pace)." in text
    assert "Peers in 2 `DataLoader` workers, kornia with 2 threads: lightly (PIL) 2.10 ms (14.0×)." in text
    assert "0.70 MB, takes 20.0 µs at the rate of a copy, and 9.2 million operations 0.10 ms at sgemm's rate" in text
    assert "fastssl takes 3.0 times the larger" in text
    assert "at least 0.14 µs a view in float32, 0.12 µs in bfloat16: a prediction, not a measurement." in text
    assert "2 decoding workers: fastssl 347 images/s (decode 61 %, augment 39 %); torchvision in the workers 47" in text
    assert "Measured 2026-01-02 by `pytest benchmarks/bench_augment.py`" in text


def test_one_thread_alone_makes_a_section(views):
    few = [r for r in views["rows"] if r["recipe"] != "files" and r["threads"] == 1 and r["provider"] == "fastssl"]
    text = report_augment.section(result(few, "augment"))
    assert "| SimCLR 224 | 0.30 ms |" in text
    assert "Threads" not in text
    assert "From files" not in text


@pytest.mark.parametrize(
    ("ms", "text"), [(0.00123, "1.23 µs"), (0.0421, "42.1 µs"), (0.5, "0.50 ms"), (12e3, "12.0 s")]
)
def test_times_in_words(ms, text):
    assert texts.time_text(ms) == text


def test_the_table_tells_what_the_rows_say(measured):
    text = report_ntxent.section(measured)
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
    assert "commit 0123456789 with changes;" in report_ntxent.section(measured)


def test_only_the_text_between_markers_changes(measured, views, masked, taught):
    plots = "<!-- bench:{0}-plots:begin -->\n<!-- bench:{0}-plots:end -->\n"
    readme = README + plots.format("ntxent") + README.replace("ntxent", "augment") + plots.format("augment")
    text = report.update(readme, {"some-2c": measured}, "ntxent")
    assert text.startswith("before\n<!-- bench:ntxent:begin -->\n**Some CPU")
    assert "\n<!-- bench:ntxent:end -->\nafter\n" in text
    assert text.count("old") == 1
    assert "](benchmarks/results/some-2c/ntxent_memory.png)" in text
    assert report.update(text, {"some-2c": measured}, "ntxent") == text
    both = report.update(text, {"some-2c": views}, "augment")
    assert "old" not in both
    assert "![time of a view by recipe, Some CPU, 2 cores, AVX2](benchmarks/results/some-2c/augment_time.png)" in both
    assert report.update(both, {"some-2c": measured}, "ntxent") == both
    with_masks = README.replace("ntxent", "masking") + plots.format("masking")
    told = report.update(with_masks, {"some-2c": masked}, "masking")
    assert "](benchmarks/results/some-2c/masking_time.png)" in told
    assert report.update(told, {"some-2c": masked}, "masking") == told
    with_teachers = README.replace("ntxent", "teachers") + plots.format("teachers")
    told = report.update(with_teachers, {"some-2c": taught}, "teachers")
    assert "](benchmarks/results/some-2c/teachers_time.png)" in told
    with pytest.raises(ValueError, match="no markers <!-- bench:ntxent:begin -->"):
        report.update("no markers", {"some-2c": measured}, "ntxent")


def test_check_finds_a_number_that_no_result_backs(measured, views, masked, taught, tmp_path, capsys):
    folder, readme = tmp_path / "results" / "some-2c", tmp_path / "README.md"
    folder.mkdir(parents=True)
    stored_of = {"ntxent": measured, "augment": views, "masking": masked, "teachers": taught}
    text = "".join(README.replace("ntxent", op) for op in stored_of)
    for op, stored in stored_of.items():
        (folder / f"{op}.json").write_text(json.dumps(stored))
        text = report.update(text, report.load(tmp_path / "results", op), op)
    readme.write_text(text)
    arguments = ["--check", "--readme", str(readme), "--results", str(tmp_path / "results")]
    assert report.main(arguments) == 0
    for number in ("11.0 ms", "0.29 ms", "17.0 s", "1.3×"):
        readme.write_text(text.replace(number, "99.0 ms"))
        assert report.main(arguments) == 1
        assert "out of date" in capsys.readouterr().out
    assert report.main(["--check", "--readme", str(readme), "--results", str(tmp_path / "none")]) == 1


def test_plots(measured, views, masked, taught, patches, tmp_path):
    plots = pytest.importorskip("plots", exc_type=ImportError)
    drawn = {"ntxent": measured, "augment": views, "masking": masked, "teachers": taught, "pretexts": patches}
    for op, stored in drawn.items():
        for path in plots.DRAW[op](copy.deepcopy(stored), tmp_path):
            assert path.read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "augment_time.png", "masking_time.png", "ntxent_memory.png", "ntxent_time.png", "pretexts_time.png",
        "teachers_time.png",
    ]  # fmt: skip


@pytest.mark.parametrize("op", report.SECTIONS)
def test_the_readme_equals_what_the_stored_results_give(op):
    results, text = report.load(report.RESULTS, op), (ROOT / "README.md").read_text()
    if not results:  # then nothing may stand there
        text_without = report.insert(text, "", op)
        assert text_without.split() == text.split(), "README.md has numbers, and no stored result backs them"
        return
    assert report.update(text, results, op) == text, "README.md is out of date: make report"
