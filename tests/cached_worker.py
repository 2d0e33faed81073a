"""One of several processes of a gradient-cached step: `python cached_worker.py rank world_size folder`.

Leaves what it found in `folder`, by name, for test_cached_training.py to compare.
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.distributed.nn.functional import all_gather
from torch.nn.parallel import DistributedDataParallel

from fastssl import cached_step
from fastssl.reference import ntxent

ROWS = (10, 10)
UNEVEN = (11, 6)


def encoder(norm=nn.LayerNorm):
    """The same on every process."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(10, 16), norm(16), nn.GELU(), nn.Linear(16, 12))


def all_views(rows, seed=2):
    """Two views of the images of all processes, which lie in the order of the processes."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(sum(rows), 10, generator=generator) for _ in range(2)]


def local_loss(z0, z1):
    return ntxent(z0, z1, 0.3)


def global_loss(z0, z1):
    """The loss of all processes' rows; DistributedDataParallel's mean of its gradients is exact."""
    return local_loss(*(torch.cat(all_gather(z)) for z in (z0, z1)))


def gradients(module):
    return {name.removeprefix("module."): p.grad.clone() for name, p in module.named_parameters()}


class Replica:
    """An encoder in DistributedDataParallel, and how often it has reduced gradients."""

    def __init__(self, norm=nn.LayerNorm):
        self.ddp, self.reduced = DistributedDataParallel(encoder(norm)), 0
        self.ddp.register_comm_hook(None, self._reduce)

    def _reduce(self, state, bucket):
        self.reduced += 1
        return allreduce_hook(dist.group.WORLD, bucket)


def one_shot(rows, rank, loss):
    replica = Replica()
    loss(*(replica.ddp(view.split(rows)[rank]) for view in all_views(rows))).backward()
    assert replica.reduced == 1
    return gradients(replica.ddp)


def cached(rows, rank, loss, chunk_size, call=lambda ddp: ddp):
    replica = Replica()
    views = [view.split(rows)[rank] for view in all_views(rows)]
    cached_step(call(replica.ddp), views, loss, chunk_size)
    found = gradients(replica.ddp)
    reduced = replica.reduced
    cached_step(call(replica.ddp), views, loss, chunk_size)  # a second step, whose gradients are added
    for name, grad in gradients(replica.ddp).items():
        torch.testing.assert_close(grad, 2 * found[name])
    return {"gradients": found, "reduced": (reduced, replica.reduced)}


class Holder(nn.Module):
    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def embed(self, view):
        return self.encoder(view)


def statistics(rank):
    """Buffers after two steps with batch norm, and after the same chunks accumulated as PyTorch documents it."""
    chunks, found = 2, []
    for is_cached in (True, False):
        ddp = DistributedDataParallel(encoder(nn.BatchNorm1d))
        for step in range(2):
            views = [view.split(ROWS)[rank] for view in all_views(ROWS, seed=step)]
            if is_cached:
                cached_step(ddp, views, local_loss, ROWS[0] // chunks)
                continue
            parts = [view for pair in zip(*(view.chunk(chunks) for view in views), strict=True) for view in pair]
            with ddp.no_sync():
                for part in parts[:-1]:
                    ddp(part).sum().backward()
            ddp(parts[-1]).sum().backward()
        found.append(copy.deepcopy(dict(ddp.module.named_buffers())))
    return found


def main(rank, world, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    found = {
        "local": cached(ROWS, rank, local_loss, 3),
        "local, one shot": one_shot(ROWS, rank, local_loss),
        "global": cached(ROWS, rank, global_loss, 3),
        "whole chunk": cached(ROWS, rank, global_loss, 99),
        "function": cached(ROWS, rank, global_loss, 3, lambda ddp: lambda view: ddp(view)),
        "method": cached(ROWS, rank, global_loss, 3, lambda ddp: Holder(ddp).embed),
        # Processes with other numbers of rows and of chunks.
        "uneven": cached(UNEVEN, rank, local_loss, 2),
        "uneven, one shot": one_shot(UNEVEN, rank, local_loss),
        "statistics": statistics(rank),
    }
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
