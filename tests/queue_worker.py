"""One of several gloo processes with a queue, a memory bank and MoCo in common. Arguments: rank, world size, folder."""

from __future__ import annotations

import datetime
import sys

import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy, normalize

import fastssl
from fastssl import methods
from fastssl._queue import gather_rows
from fastssl.methods._momentum import shuffled

rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
torch.set_num_threads(1)
dist.init_process_group(
    "gloo", f"file://{folder}/store", rank=rank, world_size=world, timeout=datetime.timedelta(seconds=60)
)


def equal_everywhere(x):
    blocks = gather_rows(x.detach()[None].contiguous())
    assert all(torch.equal(block, blocks[0]) for block in blocks)


def own(x, sizes):
    """The rows of this process among those of all."""
    return x.split(sizes)[rank]


def the_queue():
    """Equal to one in one process that is given the keys of all."""
    torch.manual_seed(0)
    queue, alone = (fastssl.Queue(10, 3, gather_distributed=together) for together in (True, False))
    alone.load_state_dict(queue.state_dict())
    for sizes in ([2, 2], [3, 1], [1, 4], [9, 8], [10, 1]):
        keys = torch.randn(sum(sizes), 3)
        queue.enqueue(own(keys, sizes))
        alone.enqueue(keys)
        assert torch.equal(queue.rows, alone.rows)
        assert torch.equal(queue.pointer, alone.pointer)


def the_memory_bank():
    """Its loss is that of the rows of all processes, and its gradient world_size times this one's share."""
    for strategy in (True, "ring"):
        torch.manual_seed(0)
        criterion = fastssl.NTXentLoss(0.2, (8, 3), gather_distributed=strategy)
        alone = fastssl.NTXentLoss(0.2, (8, 3))
        alone.load_state_dict(criterion.state_dict())
        for sizes in ([2, 2], [3, 1], [1, 4]):
            whole = torch.randn(2, sum(sizes), 3, requires_grad=True)
            part = torch.stack([own(x, sizes) for x in whole.detach()]).requires_grad_()
            want, got = alone(*whole), criterion(*part)
            want.backward()
            got.backward()
            torch.testing.assert_close(got, want)
            share = torch.stack([own(g, sizes) for g in whole.grad])
            torch.testing.assert_close(part.grad, world * share)
            torch.testing.assert_close(criterion.memory_bank.rows, alone.memory_bank.rows)


def the_shuffling():
    """Rows go out, are encoded among those of another process, and come home."""
    for sizes in ([4, 4], [5, 2]):
        torch.manual_seed(rank)
        weight, seen = torch.arange(1, 7.0).reshape(3, 2), []
        x = own(torch.arange(3.0 * sum(sizes)).reshape(-1, 3), sizes)
        keys = shuffled(lambda rows, seen=seen, weight=weight: seen.append(rows) or rows @ weight, x)
        assert torch.equal(keys, x @ weight)
        assert len(seen[0]) == len(x)
        everyone = gather_rows(seen[0])
        assert torch.equal(everyone.sort(0).values, gather_rows(x))
        assert not torch.equal(everyone, gather_rows(x))


def moco():
    """Equal weights and queues everywhere after a few steps under DistributedDataParallel."""
    torch.manual_seed(0)
    method = methods.MoCo(methods.small_resnet(1, 8), queue_size=20, momentum=0.9, projection_dim=8)
    model = torch.nn.parallel.DistributedDataParallel(method)
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], 0.1)
    sizes = [6, 5]
    torch.manual_seed(10 + rank)
    for step in range(3):
        images = torch.randint(0, 256, (sizes[rank], 1, 8, 8), dtype=torch.uint8)
        optimizer.zero_grad()
        model(method.augment(images)).backward()
        optimizer.step()
        method.after_step(step + 1, 3)
        assert int(method.queue.pointer) == (step + 1) * sum(sizes) % 20
    for name, value in method.state_dict().items():
        if "running" not in name:  # statistics are of the process's own images
            equal_everywhere(value)


def lightly_s_loss():
    """In a group, the loss of the rows of all; here its value against eager PyTorch."""
    torch.manual_seed(0)
    z = torch.randn(2, 7, 5)
    rows = normalize(z.flatten(0, 1), dim=1)
    logits = (rows @ rows.T / 0.5).fill_diagonal_(-torch.inf)
    want = cross_entropy(logits, torch.arange(14).roll(7))
    for strategy in ("all_gather", "ring"):
        part = [own(x, [4, 3]) for x in z]
        torch.testing.assert_close(fastssl.NTXentLoss(0.5, gather_distributed=strategy)(*part), want)


for check in (the_queue, the_memory_bank, the_shuffling, moco, lightly_s_loss):
    check()
dist.destroy_process_group()
