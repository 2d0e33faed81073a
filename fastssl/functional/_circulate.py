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
# Whose rows are visited: hop h is those of the process h places before this one. Of each kind of visit, its hops.
Tour = tuple[tuple[str, range], ...]


def whole(world: int) -> Tour:
    """All processes, in the same way."""
    return (("all", range(world)),)


def half(world: int) -> Tour:
    """Every pair of processes once: itself "own"; "both" sides for two; and where two are opposite, "one" for each."""
    return (
        ("own", range(1)),
        ("both", range(1, (world + 1) // 2)),
        ("one", range(world // 2, world // 2 + 1 - world % 2)),
    )


def all_at_once(
    visit: Visit, combine: Combine, own: Sequence[Rows], sizes: Sequence[int], rank: int, tour: Tour
) -> Rows:  # fmt: skip
    """Do what `around_the_ring` does with the rows of all processes in memory, and those of one kind as one block."""
    world, everyone = len(sizes), gather(own, sizes)
    values: dict[int, Tensor] = {}  # by process
    visitors: list[int] = []
    for kind, hops in tour:
        hosts = sorted((rank - hop) % world for hop in hops)
        if not hosts:
            continue
        counts = [sizes[host] for host in hosts]
        found = visit(kind, *(_of(rows, hosts, sizes) for rows in everyone))
        if found is not None:
            values.update(zip(hosts, found.split(counts), strict=True))
            visitors += [(rank + hop) % world for hop in hops]
    if not values:
        return None
    sent = torch.cat([values[host] for host in sorted(values)])
    home = sent.new_empty((len(visitors) * sizes[rank], *sent.shape[1:]))
    taken = [sizes[rank] if visitor in visitors else 0 for visitor in range(world)]
    given = [sizes[host] if host in values else 0 for host in range(world)]
    dist.all_to_all_single(home, sent, taken, given)
    combined: Tensor = reduce(combine, home.split(sizes[rank]))
    return combined


def around_the_ring(
    visit: Visit, combine: Combine, own: Sequence[Rows], sizes: Sequence[int], rank: int, tour: Tour
) -> Rows:  # fmt: skip
    """Call `visit` with a kind and the rows of each process of a tour in turn, while the next ones are on their way.

    `visit` may return, for one kind of visit, a value for each row it is shown. The values that processes find for the
    same rows are combined as they follow these rows around the ring, and come home at last: they are what is returned.
    Three blocks of rows are in memory at a time: those shown, those coming, and this process's.
    """
    world, packed, shown = len(sizes), _pack(own), tuple(own)
    values: Callable[[], Tensor] | None = None
    end = max(hop for _, hops in tour for hop in hops)
    for kind, hops in tour:
        for hop in hops:
            following = sizes[(rank - hop - 1) % world]
            coming = _exchange(packed, 1, following) if hop < end else None
            found = visit(kind, *shown)
            if found is not None:
                if values is not None:
                    found = combine(values(), found)
                last = hop == hops[-1]
                values = _exchange(found, -hop, sizes[rank]) if last else _exchange(found, 1, following)
            if coming is not None:
                packed = coming()
                shown = _unpack(packed, own)
    return None if values is None else values()


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


def _of(everyone: Rows, hosts: Sequence[int], sizes: Sequence[int]) -> Rows:
    """Return the rows of some processes among those of all."""
    if everyone is None or len(hosts) == len(sizes):
        return everyone
    blocks = everyone.split(list(sizes))
    return blocks[hosts[0]] if len(hosts) == 1 else torch.cat([blocks[host] for host in hosts])


def _exchange(block: Tensor, step: int, rows: int) -> Callable[[], Tensor]:
    """Start sending a block so many places on and taking one of so many rows; the call returned waits for it."""
    rank, world = dist.get_rank(), dist.get_world_size()
    block, coming = block.contiguous(), block.new_empty((rows, *block.shape[1:]))
    transfers = dist.batch_isend_irecv([
        dist.P2POp(dist.isend, block, (rank + step) % world),
        dist.P2POp(dist.irecv, coming, (rank - step) % world),
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
