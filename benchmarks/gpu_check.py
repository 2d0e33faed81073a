"""Builds, tests and benchmarks fastssl on a machine with a CUDA device, in under 9 minutes.

    python benchmarks/gpu_check.py [--out DIR]

Uses this machine's own Python, fetches nothing, and needs none of the extras. Every step has a process and a time
limit of its own, and what it found is kept whatever the next one does. Writes `gpu_check.json`, and `<op>.json` of the
benchmarks, under `benchmarks/results/<machine>/` or DIR, and prints a short table last. Exits 0 if all steps passed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
NO_CUDA = "gpu-check: no CUDA device is available to PyTorch on this machine, so there is nothing to check"
# Seconds; together they stay under 9 minutes.
LIMITS = {
    "build": 115, "probes": 80, "tests": 150, "ntxent": 40, "contrastive": 40, "augment": 30, "masking": 35,
    "teachers": 30, "pretexts": 18,
}  # fmt: skip
OPS = ("ntxent", "contrastive", "augment", "masking", "teachers", "pretexts")
LAST_PROBLEM = 0.6  # of a benchmark's limit: after it no further problem is begun
_DRAWS = ("hypothesis", "scipy")
# Where there is a CUDA device, they run on it; each with the packages that it needs beyond pytest.
TESTS = {
    "test_cuda.py": (),
    "test_ntxent.py": ("hypothesis", "lightly"),
    "test_pairwise_logsumexp.py": ("hypothesis",),
    "test_pairwise_softplus.py": ("hypothesis",),
    "test_contrastive.py": (),
    "test_sample_params.py": ("torchvision",),
    "test_augment.py": ("torchvision",),
    "test_augment_input.py": ("torchvision",),
    "test_random_masking.py": _DRAWS,
    "test_multiblock_masking.py": _DRAWS,
    "test_blockwise_masking.py": _DRAWS,
    "test_text_masking.py": _DRAWS,
    "test_gather_tokens.py": _DRAWS[:1],
    "test_restore_tokens.py": _DRAWS[:1],
    "test_mask_patchify.py": _DRAWS[:1],
    "test_masked_mse.py": _DRAWS[:1],
    "test_masked_mse_backward.py": (),
    "test_masking.py": (*_DRAWS, "lightly", "timm"),
    "test_extract_patches.py": _DRAWS,
    "test_lab_bins.py": _DRAWS[:1],
    "test_sparse_cross_entropy.py": _DRAWS[:1],
    "test_dino_loss.py": _DRAWS[:1],
    "test_dino_loss_op.py": (),
    "test_ibot_loss.py": (),
    "test_sinkhorn.py": _DRAWS[:1],
    "test_koleo.py": _DRAWS[:1],
    "test_center_update.py": _DRAWS[:1],
    "test_ema_update.py": _DRAWS[:1],
}


def run(command: Sequence[object], limit_s: float, cwd: Path, env: dict[str, str]) -> dict[str, Any]:
    """Run a command; return whether it ended well, its seconds and, if not, the end of what it printed."""
    start = time.perf_counter()
    words = [str(word) for word in command]
    process = subprocess.Popen(
        words, cwd=cwd, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        text, code = process.communicate(timeout=limit_s)[0], process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)  # its children too: compilers, test workers
        text, code = (process.communicate()[0] or "") + f"\nended after {limit_s:.0f} s", 124
    told: dict[str, Any] = {"ok": code == 0, "code": code, "seconds": round(time.perf_counter() - start, 1)}
    if code != 0:  # without the folders of this machine, which are nobody's business in a stored result
        told["end"] = re.sub(r"(?<![\w.])/[^\s:'\"]*/", "", text)[-4000:]
    return told


def build(work: Path, env: dict[str, str]) -> dict[str, Any]:
    """Build the extension in place; returns how. Where pip cannot, `env` gets a path on which the package is whole."""
    env["FASTSSL_CPP"] = "1"
    start = time.perf_counter()
    if find_spec("pip") is not None:
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-build-isolation", "--no-deps"]
        told = run([*pip, "-e", ROOT], LIMITS["build"] - 10, ROOT, env)
        if told["ok"]:
            return told | {"how": "pip install -e"}
    left_s = LIMITS["build"] - (time.perf_counter() - start)
    told = run([sys.executable, "setup.py", "-q", "build_ext", "--inplace"], max(left_s, 10), ROOT, env)
    # Outside an installation `fastssl.kernels` is not beneath `fastssl`: a folder of links puts it there.
    site = work / "site"
    shutil.rmtree(site, ignore_errors=True)
    (site / "fastssl").mkdir(parents=True)
    for entry in (ROOT / "fastssl").iterdir():
        (site / "fastssl" / entry.name).symlink_to(entry)
    (site / "fastssl" / "kernels").symlink_to(ROOT / "kernels")
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(site), env.get("PYTHONPATH")]))
    return told | {"how": "setup.py build_ext --inplace"}


def tests(work: Path, env: dict[str, str]) -> dict[str, Any]:
    """Run the test files that use the device; counts and names of failures."""
    if find_spec("pytest") is None:
        return {"ok": None, "note": "pytest is not installed; the accuracy probe stands in for the tests"}
    files = [ROOT / "tests" / name for name, needs in TESTS.items() if all(find_spec(n) is not None for n in needs)]
    parallel = ["-n", "6", "--dist", "worksteal"] if find_spec("xdist") is not None else []
    report = work / "tests.xml"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", ROOT / "pyproject.toml"]
    # Not from the root: there, Python would take the package from the folder rather than the one that was built.
    told = run([*command, "--rootdir", ROOT, *parallel, f"--junitxml={report}", *files], LIMITS["tests"], work, env)
    if report.exists():
        told |= counts(report)
    return told | {"left_out": [name for name in TESTS if ROOT / "tests" / name not in files]}


def counts(report: Path) -> dict[str, Any]:
    """Numbers of a JUnit file, and the names of what failed."""
    cases = list(xml.etree.ElementTree.parse(report).iter("testcase"))
    failed = [c.get("name") for c in cases if c.find("failure") is not None or c.find("error") is not None]
    skipped = sum(c.find("skipped") is not None for c in cases)
    return {"passed": len(cases) - len(failed) - skipped, "skipped": skipped, "failed": failed[:40]}


def benchmark(op: str, work: Path, env: dict[str, str]) -> dict[str, Any]:
    """Run the quick benchmark of an op; its results are `<machine>/<op>.json` under the folder `work / "benchmark"`."""
    script = [sys.executable, ROOT / "benchmarks" / f"bench_{op}.py", "--quick", "--device", "cuda"]
    limits = ["--limit-s", LAST_PROBLEM * LIMITS[op], "--out", work / "benchmark"]
    return run([*script, *limits], LIMITS[op], work, env)


def table(result: dict[str, Any], rows: Sequence[dict[str, Any]]) -> str:
    """What matters, in lines."""
    probes = result["probes"]
    lines = [f"{'step':14}{'':8}what"]
    mark = {True: "pass", False: "FAIL", None: "-"}
    for name in ("build", "tests"):
        step = result[name]
        told = {
            k: v for k, v in step.items() if k in ("how", "passed", "skipped", "failed", "left_out", "note", "seconds")
        }
        lines.append(f"{name:14}{mark[step['ok']]:8}{told}")
    for name, step in probes.items():
        if isinstance(step, dict) and "ok" in step:
            told = {k: v for k, v in step.items() if k not in ("ok", "bad")}
            lines.append(f"{name:14}{mark[step['ok']]:8}{json.dumps(told)[:200]}")
    for op in OPS:
        found = [row for row in rows if row["op"] == op]
        lines.append(f"{op:14}{mark[result[op]['ok']]:8}{len(found)} rows")
        lines += [line for line in map(LINES[op], found) if line]
    return "\n".join(lines)


def ntxent_line(r: dict[str, Any]) -> str:
    """A whole step; nothing of a forward alone."""
    if r["mode"] != "fwd_bwd" or r["time_ms"] is None:
        return ""
    peak = "-" if r["peak_mib"] is None else f"{r['peak_mib']:.1f}"
    return (
        f"  {r['dtype']:9}{r['m']:6}{r['d']:5} {r['provider']:15}{r['time_ms']:9.3f} ms{peak:>9} MiB"
        f"{100 * r['fraction_of_matmul']:6.1f} % of matmul{r['time_over_fastssl']:7.2f} x fastssl"
    )


def contrastive_line(r: dict[str, Any]) -> str:
    """A whole step; nothing of a forward alone."""
    if r["mode"] != "fwd_bwd":
        return ""
    peak = "-" if r["peak_mib"] is None else f"{r['peak_mib']:.1f}"
    return (
        f"  {r['title']:24}{r['dtype']:9}{r['m']:7}{r['n']:7}{r['d']:5} {r['provider']:15}{r['time_ms']:9.3f} ms"
        f"{peak:>9} MiB{100 * r['fraction_of_matmul']:6.1f} % of matmul{r['time_over_fastssl']:7.2f} x fastssl"
    )


def augment_line(r: dict[str, Any]) -> str:
    """A view, beside the prediction for an H200."""
    predicted = (
        "" if r["predicted_h200_us"] is None else f", predicted floor {r['predicted_h200_us']:.2f} us on an H200"
    )
    return (
        f"  {r['title']:24}{r['batch']:5} {r['provider']:19}{1e3 * r['time_ms']:9.2f} us a view"
        f"{r['time_over_fastssl']:7.2f} x fastssl{predicted}"
    )


def masking_line(r: dict[str, Any]) -> str:
    """A whole pass, or a step of MAE."""
    if r["case"] == "step":
        return (
            f"  {r['title']}, {r['encoder']}, batch {r['n']}, {r['dtype']} {r['provider']:9}{r['time_ms']:9.2f} ms"
            f"{r['time_over_fastssl']:7.2f} x fastssl, gradients {r['difference']:.1e} from the plain ones"
        )
    if r["mode"] == "fwd" and r["case"] != "ids":
        return ""
    rate = "" if r["moved_gbs"] is None else f", {100 * r['moved_gbs'] / r['copy_gbs']:.0f} % of a copy's rate"
    return (
        f"  {r['title']:38}{r['n']:5}{r['length']:6} {r['dtype']:9}{r['provider']:10}{1e3 * r['time_ms']:9.1f} us"
        f"{r['time_over_fastssl']:7.2f} x fastssl{rate}"
    )


def teachers_line(r: dict[str, Any]) -> str:
    """A whole pass; nothing of a forward alone where there is a derivative."""
    if r["mode"] == "fwd" and r["gradients_mib"] is not None:
        return ""
    peak = "-" if r["peak_mib"] is None else f"{r['peak_mib']:.1f}"
    return (
        f"  {r['title']:21}{r['dtype']:9}{r['views']:3}{r['m']:6}{r['n']:7} {r['provider']:20}{r['time_ms']:9.3f} ms"
        f"{peak:>9} MiB{r['time_over_floor']:7.2f} x floor{r['time_over_fastssl']:7.2f} x fastssl"
    )


def pretexts_line(r: dict[str, Any]) -> str:
    """A whole pass."""
    if not r["whole"]:
        return ""
    peak = "-" if r["peak_mib"] is None else f"{r['peak_mib']:.1f}"
    return (
        f"  {r['title']:31}{r['dtype']:9}{r['n']:5}{r['side']:5} {r['provider']:15}{r['time_ms']:9.3f} ms"
        f"{peak:>9} MiB{r['time_over_floor']:7.2f} x floor{r['time_over_fastssl']:7.2f} x fastssl"
    )


LINES = {
    "ntxent": ntxent_line, "contrastive": contrastive_line, "augment": augment_line, "masking": masking_line,
    "teachers": teachers_line, "pretexts": pretexts_line,
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Check everything; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder of the results (default: benchmarks/results/<machine>)")
    args = parser.parse_args(arguments)
    try:
        import torch
    except ImportError:
        print("gpu-check: PyTorch is not installed in this Python; run it with the one that has it")
        return 1
    if not torch.cuda.is_available():
        print(NO_CUDA)
        return 1
    start = time.perf_counter()
    work = ROOT / "runs" / "gpu-check"
    work.mkdir(parents=True, exist_ok=True)
    env = os.environ | {"PYTHONUNBUFFERED": "1", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}

    def announce(name: str) -> None:
        print(f"{time.perf_counter() - start:5.0f} s  {name}", flush=True)

    announce("build")
    result: dict[str, Any] = {"build": build(work, env)}
    announce("probes")
    probes_file = work / "probes.json"
    probes_file.unlink(missing_ok=True)
    result["probes_run"] = run(
        [sys.executable, ROOT / "benchmarks" / "gpu_probes.py", probes_file], LIMITS["probes"], work, env
    )
    result["probes"] = json.loads(probes_file.read_text()) if probes_file.exists() else {}
    announce("tests")
    result["tests"] = tests(work, env)
    folder, rows, machine = work / "benchmark", [], "unknown"
    shutil.rmtree(folder, ignore_errors=True)
    for op in OPS:
        announce(op)
        result[op] = benchmark(op, work, env)
    found = sorted(folder.glob("*/*.json"))
    for file in found:
        stored = json.loads(file.read_text())
        rows += stored["rows"]
        machine, result["environment"] = file.parent.name, stored["environment"]
    out = args.out or ROOT / "benchmarks" / "results" / machine
    out.mkdir(parents=True, exist_ok=True)
    for file in found:
        shutil.copy(file, out)
    passed = [step.get("ok") for step in (*result.values(), *result["probes"].values()) if isinstance(step, dict)]
    result["ok"] = False not in passed and len(found) == len(OPS) and result["probes_run"]["ok"]
    result["seconds"] = round(time.perf_counter() - start)
    (out / "gpu_check.json").write_text(json.dumps(result, indent=1) + "\n")
    print(table(result, rows))
    verdict = "pass" if result["ok"] else "FAIL"
    print(f"{verdict} in {result['seconds']} s; gpu_check.json and {len(found)} results written")
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
