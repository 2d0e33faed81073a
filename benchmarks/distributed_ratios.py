"""What losses over several processes give instead of the gradient of the global batch; stores `distributed.json`.

    python benchmarks/distributed_ratios.py [--processes 4] [--out DIR]

Processes with equal batches train one linear encoder under DistributedDataParallel. Its gradient is compared with that
of the same loss of the same library in one process that has the whole batch.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightly.loss
import open_clip.loss
import pytorch_metric_learning.losses
import torch
import torch.distributed as dist
import torch.multiprocessing
from environment import RESULTS
from harness import Benchmark, Row, rounded, write
from pytorch_metric_learning.utils.distributed import DistributedLossWrapper
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

import fastssl.losses
from fastssl import functional

ROWS, WIDTH_IN, WIDTH, TAU = 32, 48, 64, 0.1
BENCHMARK = Benchmark(
    "distributed", lambda device, quick: (), lambda problem, device, state: [], lambda rows: None,
    lambda problem, device: lambda: None, ("lightly", "open_clip_torch", "pytorch-metric-learning"),
)  # fmt: skip
# Of two views [N, d] and the pairs' numbers [N], the rank, and the number of processes that share the batch.
Loss = Callable[[Tensor, Tensor, Tensor, int, int], Tensor]


def _fastssl(name: str, gather: str, **options: Any) -> Loss:
    call = getattr(functional, name)
    return lambda a, b, ids, rank, world: call(a, b, **options, gather_distributed=world > 1 and gather)


def _fastssl_module(name: str, gather: str) -> Loss:
    kind = getattr(fastssl.losses, name)
    return lambda a, b, ids, rank, world: kind(gather_distributed=world > 1 and gather)(a, b)


def _fastssl_labels(name: str, gather: str) -> Loss:
    call = getattr(functional, name)
    return lambda a, b, ids, rank, world: call(
        torch.cat([a, b]), ids.repeat(2), TAU, gather_distributed=world > 1 and gather
    )


def _lightly(name: str, **options: Any) -> Loss:
    kind = getattr(lightly.loss, name)
    return lambda a, b, ids, rank, world: kind(**options, gather_distributed=world > 1)(a, b)


def _pml(efficient: bool) -> Loss:
    def loss(a: Tensor, b: Tensor, ids: Tensor, rank: int, world: int) -> Tensor:
        own = pytorch_metric_learning.losses.NTXentLoss(TAU)
        both, labels = torch.cat([a, b]), ids.repeat(2)
        found: Tensor = own(both, labels) if world == 1 else DistributedLossWrapper(own, efficient)(both, labels)
        return found

    return loss


def _open_clip(name: str, *scale: float, **options: Any) -> Loss:
    kind = getattr(open_clip.loss, name)

    def loss(a: Tensor, b: Tensor, ids: Tensor, rank: int, world: int) -> Tensor:
        a, b = (torch.nn.functional.normalize(x, dim=1) for x in (a, b))
        found: Tensor = kind(rank=rank, world_size=world, **options)(a, b, *(torch.tensor(s) for s in scale))
        return found

    return loss


def losses() -> dict[tuple[str, str, str], Loss]:
    """Losses by library, name and setting."""
    found: dict[tuple[str, str, str], Loss] = {}
    for gather in ("all_gather", "ring"):
        for name in ("ntxent", "dcl"):
            found["fastssl", name, gather] = _fastssl(name, gather, temperature=TAU)
        found["fastssl", "clip", gather] = _fastssl("clip", gather, logit_scale=1 / TAU)
        found["fastssl", "siglip", gather] = _fastssl("siglip", gather, logit_scale=1 / TAU, logit_bias=-5.0)
        for name in ("supcon", "multi_positive_ntxent"):
            found["fastssl", name, gather] = _fastssl_labels(name, gather)
        for name in ("BarlowTwinsLoss", "VICRegLoss"):
            found["fastssl", name, gather] = _fastssl_module(name, gather)
    for name in ("NTXentLoss", "DCLLoss"):
        found["lightly", name, "gather_distributed"] = _lightly(name, temperature=TAU)
    for name in ("BarlowTwinsLoss", "VICRegLoss"):
        found["lightly", name, "gather_distributed"] = _lightly(name)
    for told, options in {
        "default": {}, "local_loss": {"local_loss": True}, "gather_with_grad": {"gather_with_grad": True},
        "local_loss, gather_with_grad": {"local_loss": True, "gather_with_grad": True},
    }.items():  # fmt: skip
        found["open_clip", "ClipLoss", told] = _open_clip("ClipLoss", 1 / TAU, **options)
    for way in ("bidir", "shift", "reduce", "gather"):
        found["open_clip", "SigLipLoss", way] = _open_clip("SigLipLoss", 1 / TAU, -5.0, dist_impl=way)
    for efficient in (False, True):
        found["pml", "NTXentLoss", f"efficient={efficient}"] = _pml(efficient)
    return found


def gradient(loss: Loss, x: Tensor, ids: Tensor, rank: int, world: int) -> tuple[float, Tensor]:
    """Return the loss of views [N, 2, d_in] and the gradient of the encoder, flat."""
    encoder = torch.nn.Linear(WIDTH_IN, WIDTH, bias=False)
    with torch.no_grad():
        encoder.weight.copy_(torch.randn(WIDTH, WIDTH_IN, generator=torch.Generator().manual_seed(1)))
    model = DistributedDataParallel(encoder) if world > 1 else encoder
    a, b = model(x.flatten(0, 1)).view(len(x), 2, WIDTH).unbind(1)
    value = loss(a, b, ids, rank, world)
    value.backward()
    return float(value.detach()), encoder.weight.grad.flatten().double()


def compare(rank: int, world: int, folder: str) -> None:
    """Run one process; the first writes its rows."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    dist.init_process_group("gloo", init_method=(Path(folder) / "store").as_uri(), rank=rank, world_size=world)
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(world * ROWS, 1, WIDTH_IN, generator=draw)
    x = x + torch.randn(world * ROWS, 2, WIDTH_IN, generator=draw)
    ids = torch.arange(world * ROWS)
    own = slice(rank * ROWS, (rank + 1) * ROWS)
    rows = []
    for (library, name, setting), loss in losses().items():
        many, found = gradient(loss, x[own], ids[own], rank, world)
        value = torch.tensor(many, dtype=torch.float64)
        dist.all_reduce(value)
        if rank > 0:
            continue
        one, exact = gradient(loss, x, ids, 0, 1)
        rows.append(rounded({
            "provider": library, "loss": name, "setting": setting, "processes": world, "rows": ROWS, "d": WIDTH,
            "gradient_over_exact": float(found.norm() / exact.norm()),
            "cosine": float(found @ exact / (found.norm() * exact.norm())),
            "difference": float((found - exact).norm() / exact.norm()),
            "value_over_exact": float(value / world / one),
        }))  # fmt: skip
    if rank == 0:
        (Path(folder) / "rows.json").write_text(json.dumps(rows))
    dist.barrier()
    dist.destroy_process_group()


def measure(processes: int) -> list[Row]:
    """Return one row a loss and setting."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.start_processes(compare, (processes, folder), processes, start_method="fork")
        rows: list[Row] = json.loads((Path(folder) / "rows.json").read_text())
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)  # forks of a process whose threads have started would wait for them
    start = time.perf_counter()
    rows = measure(args.processes)
    for row in rows:
        print("{provider:10} {loss:22} {setting:29} gradient {gradient_over_exact:<8} cosine {cosine:<8} "
              "value {value_over_exact}".format(**row))  # fmt: skip
    command = f"python benchmarks/distributed_ratios.py --processes {args.processes}"
    path = write(BENCHMARK, rows, "cpu", args.out, command, time.perf_counter() - start)
    print(f"written  {path.parent.name}/{path.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
