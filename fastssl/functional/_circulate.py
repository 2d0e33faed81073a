"""How rows of one process meet those of the others: all at once, or block by block around a ring."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

Rows = Tensor | None  # [n, ...] of every process; None, on all of them, is what a call has no use for
Visit = Callable[..., Rows]
Combine = Callable[[Tensor, Tensor], Tensor]


def gather(own: Sequence[Rows], sizes: Sequence[int]) -> tuple[Any, ...]:
    """Return the rows of all processes in the order of ranks, of several tensors in one collective."""
    packed, most = _pack(own), max(sizes)
    if len(packed) < most:
        packed = torch.cat([packed, packed.new_zeros(most - len(packed), packed.shape[1])])
    everyone = packed.new_empty((len(sizes) * most, packed.shape[1]))
    dist.all_gather_into_tensor(everyone, packed)
    if min(sizes) < most:
        everyone = torch.cat([block[:n] for block, n in zip(everyone.split(most), sizes, strict=True)])
    return _unpack(everyone, own)


def all_at_once(visit: Visit, combine: Combine, own: Sequence[Rows], sizes: Sequence[int], rank: int) -> Rows:
    """Call `visit` with the rows of all processes; see `around_the_ring`."""
    found: Rows = visit(*gather(own, sizes))
    if found is None:
        return None
    n = sizes[rank]
    parts = found.new_empty((len(sizes) * n, *found.shape[1:]))
    dist.all_to_all_single(parts, found.contiguous(), [n] * len(sizes), list(sizes))
    home: Tensor = reduce(combine, parts.split(n))
    return home


def around_the_ring(visit: Visit, combine: Combine, own: Sequence[Rows], sizes: Sequence[int], rank: int) -> Rows:
    """Call `visit` with the rows of each process in turn, this one's first, while the next ones are on their way.

    `visit` may return one value a row of what it is shown. The values that the processes find for the same rows are
    combined as they follow these rows around the ring, and come home: they are what is returned.
    Three blocks of rows are in memory at a time: those shown, those coming, and this process's.
    """
    world = len(sizes)
    packed, shown, values = _pack(own), tuple(own), None
    for hop in range(world):
        following = sizes[(rank - hop - 1) % world]
        coming = _pass_on(packed, following) if hop < world - 1 else None
        found = visit(*shown)
        if found is not None:
            if values is not None:
                found = combine(values(), found)
            values = _pass_on(found, following)  # which are this process's own in the last round
        if coming is not None:
            packed = coming()
            shown = _unpack(packed, own)
    return None if values is None else values()


def _pass_on(block: Tensor, following: int) -> Callable[[], Tensor]:
    """Start sending a block to the next process and taking one of so many rows; the call returned waits for it."""
    rank, world = dist.get_rank(), dist.get_world_size()
    block, coming = block.contiguous(), block.new_empty((following, *block.shape[1:]))
    transfers = dist.batch_isend_irecv([
        dist.P2POp(dist.isend, block, (rank + 1) % world),
        dist.P2POp(dist.irecv, coming, (rank - 1) % world),
    ])  # fmt: skip

    def wait(sent: Tensor = block) -> Tensor:  # holds what is sent until it has left
        for transfer in transfers:
            transfer.wait()
        return coming

    return wait


def _pack(tensors: Sequence[Rows]) -> Tensor:
    """Return the rows of several tensors side by side as bytes [n, bytes]: one message instead of many."""
    rows = [t.detach().reshape(len(t), -1).contiguous() for t in tensors if t is not None]
    return torch.cat([t.view(torch.uint8) for t in rows], 1)


def _unpack(packed: Tensor, like: Sequence[Rows]) -> tuple[Rows, ...]:
    """Return the tensors, of other rows than `like`, that were packed."""
    widths = [0 if t is None else t[0].numel() * t.element_size() for t in like]
    # Copies, since a column of bytes need not begin where its type may.
    return tuple(
        None if t is None else piece.clone(memory_format=torch.contiguous_format).view(t.dtype).view(-1, *t.shape[1:])
        for t, piece in zip(like, packed.split(widths, 1), strict=True)
    )
