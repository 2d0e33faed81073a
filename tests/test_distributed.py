"""Losses over several processes: their value and gradients are those of one process that has the whole batch."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from distributed_worker import LOSSES, SIZES, STRATEGIES, TIMEOUT

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))

import report
import report_distributed

from fastssl.functional import _circulate, _distributed, ntxent
from fastssl.functional._peers import Peers, peers

WORKER = Path(__file__).with_name("distributed_worker.py")
OTHERS = ("ntxent", "info_nce", "clip", "siglip", "supcon")


def start(mode: str, world: int, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the processes to their end."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(WORKER), mode, str(world), str(folder)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@functools.cache
def found(mode: str, world: int) -> dict:
    """What processes find that are started once for all tests."""
    with tempfile.TemporaryDirectory() as folder:
        done = start(mode, world, Path(folder))
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads((Path(folder) / "found.json").read_text())


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("sizes", [sizes for world in SIZES.values() for sizes in world], ids=str)
def test_value_and_gradients_are_those_of_one_process(sizes, strategy, loss):
    """Of embeddings, of an encoder under DistributedDataParallel, and of temperature and bias."""
    case = found("losses", len(sizes))[f"{loss} {strategy} {sizes}"]
    assert case["exact"] < 1e-12, "in float64"
    assert case["float32"] <= 1, "in float32, of what the accuracy rule allows"
    assert case["ratio"] < 1e-6, "norm of the gradients over that of the exact ones, less 1"


@pytest.mark.parametrize("loss", OTHERS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_everything_else(strategy, loss):
    case = {name: value for name, value in found("others", 4).items() if name.endswith(f"{loss} {strategy}")}
    case = {name.removesuffix(f" {loss} {strategy}"): value for name, value in case.items()}
    blocks = case.pop("blocks")  # the largest tensor, in embeddings of one view of one process
    assert blocks < 5 if strategy == "ring" else blocks >= 4
    assert case.pop("nan") == 1
    assert all(case.pop(f"roundings {name}") < 1 for name in ("torch.float16", "torch.bfloat16", "autocast"))
    assert set(case) == {"no grad", "compiled"} if loss == "ntxent" else {"no grad"}
    assert all(difference == 0 for difference in case.values())


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("how", ["killed", "stalled"])
def test_a_process_that_ends_or_stalls_ends_the_others(tmp_path, how, strategy):
    folder = tmp_path / how / strategy
    folder.mkdir(parents=True)
    assert start("ended", 3, folder).returncode == 2
    at = float((folder / "at").read_text())
    for rank in (0, 2):
        when, why = (folder / f"failed_{rank}").read_text().split("\n", 1)
        assert float(when) - at < TIMEOUT + 3
        assert "RuntimeError" in why
    assert not (folder / "failed_1").exists()


@pytest.mark.parametrize("strategy", [True, *STRATEGIES])
def test_one_process_needs_no_group(tmp_path, strategy):
    here = torch.device("cpu")
    z0, z1 = torch.randn(2, 6, 4)
    assert peers(strategy, 6, here) == Peers(6)
    dist.init_process_group("gloo", init_method=(tmp_path / "store").as_uri(), rank=0, world_size=1)
    try:
        assert peers(strategy, 6, here) == Peers(6)
        assert torch.equal(ntxent(z0, z1, gather_distributed=strategy), ntxent(z0, z1))
    finally:
        dist.destroy_process_group()


def test_what_cannot_be(monkeypatch):
    with pytest.raises(ValueError, match="gather_distributed: got 'star', want False, True, 'all_gather' or 'ring'"):
        ntxent(*torch.randn(2, 6, 4), gather_distributed="star")
    several = _distributed.Processes(6, (6, 4), 0, True)
    assert (several.start, several.total, several.count) == (0, 10, 2)
    with pytest.raises(ValueError, match=r"peers: got tensors of \[5, 5\] rows, want 6"):
        several.class_sums(torch.arange(5), torch.randn(5, 2))
    monkeypatch.setattr(dist, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match=r"without torch\.distributed, want False"):
        ntxent(*torch.randn(2, 6, 4), gather_distributed=True)


@pytest.mark.parametrize("n", [1, 2, 7])
def test_rows_travel_as_bytes_and_come_out_the_same(n):
    rows = (
        torch.randn(n, 3, dtype=torch.float16), None, torch.arange(n), torch.randn(2 * n, 5)[::2],
        torch.randn(n, dtype=torch.float64).requires_grad_(), torch.arange(n, dtype=torch.int32).expand(3, n).T,
    )  # fmt: skip
    for got, given in zip(_circulate._unpack(_circulate._pack(rows), rows), rows, strict=True):
        assert (got is None) == (given is None)
        assert got is None or (torch.equal(got, given) and got.dtype == given.dtype and got.is_contiguous())


@pytest.mark.parametrize("world", range(2, 8))
def test_every_pair_of_processes_meets_once(world):
    met = torch.zeros(world, world)
    for rank in range(world):
        for kind, hops in _circulate.half(world):
            for hop in hops:
                host = (rank - hop) % world
                met[rank, host] += 1
                if kind == "both":
                    met[host, rank] += 1
    assert torch.equal(met, torch.ones(world, world))


def test_the_report_tells_measured_ratios():
    def row(provider, loss, setting, gradient, cosine=1.0, value=1.0):
        return {
            "provider": provider, "loss": loss, "setting": setting, "processes": 4, "rows": 32,
            "gradient_over_exact": gradient, "cosine": cosine, "value_over_exact": value,
        }  # fmt: skip

    rows = [row("fastssl", loss, way, 1.00001) for way in STRATEGIES for loss in ("ntxent", "clip")]
    rows += [row("open_clip", "ClipLoss", "default", 0.25), row("pml", "NTXentLoss", "efficient=True", 3.84, 0.9855, 4)]
    environment = {"date": "2026-01-02", "commit": "0123456789abcdef", "dirty": False, "versions": {"torch": "2.11.0"}}
    told = report_distributed.section({"rows": rows, "environment": environment, "command": "python ratios.py"})
    assert "4 processes with 32 pairs each" in told
    assert "| fastssl | `ntxent`, `clip` | `all_gather`, `ring` | 1 | 1 | 1 |" in told
    assert "| open_clip | `ClipLoss` | `default` | 0.25 | 1 | 1 |" in told
    assert "| pytorch-metric-learning | `NTXentLoss` | `efficient=True` | 3.84 | 0.986 | 4 |" in told


def test_the_stored_ratios_of_fastssl_are_1():
    stored = report.load(report.RESULTS, "distributed")
    assert stored
    for row in (row for result in stored.values() for row in result["rows"] if row["provider"] == "fastssl"):
        assert abs(row["gradient_over_exact"] - 1) < 1e-4
        assert row["difference"] < 1e-5
