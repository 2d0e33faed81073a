"""Balanced assignments over several gloo processes: `python sinkhorn_worker.py FOLDER` writes FOLDER/found.json.

For each split of the samples it holds by how much processes that have a part each differ from one that has them all.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from fastssl.functional import sinkhorn

WORLD, PROTOTYPES, TEMP = 3, 40, 0.3
# Samples of each process; with two, the third has none.
SIZES = ((6, 6), (9, 2), (4, 4, 4), (7, 1, 3), (5, 0, 2))


def largest(x: Tensor) -> float:
    """The largest absolute value that any process finds."""
    most = x.detach().abs().max() if x.numel() else torch.zeros(())
    most = torch.where(most.isnan(), math.inf, most).double()
    dist.all_reduce(most, dist.ReduceOp.MAX)
    return most.item()


def compare(sizes: tuple[int, ...], rank: int) -> dict[str, float]:
    found = {}
    for size in (1.0, 100.0):
        g = torch.Generator().manual_seed(len(sizes))
        whole = size * torch.randn(sum(sizes), PROTOTYPES, dtype=torch.float64, generator=g)
        # Of some prototypes the first process's samples hardly take any.
        whole[: sizes[0], :9] -= size
        x = whole.split([*sizes, *[0] * (WORLD - len(sizes))])[rank]
        center = sinkhorn(x, temp=TEMP, gather_distributed=True)
        of_all = sinkhorn(whole, temp=TEMP)
        first = center.clone()
        dist.broadcast(first, 0)
        found[f"exact {sizes} {size}"] = largest(center - of_all) / size
        found[f"differ {sizes} {size}"] = largest(center - first)
        shorter = sinkhorn(x.float(), temp=TEMP, gather_distributed=True)
        found[f"float32 {sizes} {size}"] = largest(shorter - sinkhorn(whole.float().double(), temp=TEMP)) / size
        q = sinkhorn(x[:, None], temp=TEMP, assignments=True, gather_distributed=True)
        expected = ((x - of_all) / TEMP).softmax(1)[:, None]
        found[f"assignments {sizes} {size}"] = largest(q - expected) if q.shape == expected.shape else math.inf
        if size == 1:
            bad = x.clone()
            if rank == 0:
                bad[0, 3] = math.nan
            count = sinkhorn(bad, temp=TEMP, gather_distributed=True).isnan().sum() / PROTOTYPES
            dist.all_reduce(count, dist.ReduceOp.MIN)
            found[f"nan {sizes}"] = count.item()
    return found


def work(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=(folder / "store").as_uri(), rank=rank, world_size=WORLD)
    found = {name: value for sizes in SIZES for name, value in compare(sizes, rank).items()}
    if rank == 0:
        (folder / "found.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.multiprocessing.start_processes(work, (Path(sys.argv[1]),), WORLD, start_method="fork")
