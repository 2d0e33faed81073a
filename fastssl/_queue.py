"""A queue of past keys: the negatives of MoCo, and the memory bank of NT-Xent."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import _checks
from .functional._peers import Peers, peers


class Queue(nn.Module):
    """The last `size` keys, in a buffer that is written in place: a ring whose oldest rows the new keys replace.

    Key number t since the start is row t mod size, whatever the batches were: a batch wraps around the end, and of one
    that is longer than the queue the last `size` rows stay. Both buffers, `rows` [size, dim] and `pointer` (0-d int64,
    the row that the next key goes to), are in the state dict, so a resumed run has the same negatives. Until the queue
    has been filled, the rest are random unit vectors from PyTorch's generator.

    Args:
        size: rows, >= 1.
        dim: width d of the keys, >= 1.
        dtype: of the rows: float64, float32, float16 or bfloat16; keys are cast to it.
        gather_distributed: enqueue the keys of all processes of torch.distributed's default group in rank order, so
            that equal queues stay equal; batches may differ in size. Without it every process has its own queue, which
            DistributedDataParallel, unless ``broadcast_buffers=False``, overwrites with that of rank 0.

    Raises:
        TypeError, ValueError: an argument is of another type or out of range.

    Nothing is copied but the new keys, and nothing waits for the device. `fastssl.functional.moco` does not need the
    queue in its backward pass, so the order of ``enqueue`` and ``backward`` is free.

    >>> queue = fastssl.Queue(65536, 128)
    >>> loss = fastssl.functional.moco(query, key, queue.rows)
    >>> queue.enqueue(key)
    """

    rows: Tensor
    pointer: Tensor

    def __init__(
        self, size: int, dim: int, dtype: torch.dtype = torch.float32, gather_distributed: bool = False
    ) -> None:
        super().__init__()
        _checks.positive_int("size", size)
        _checks.positive_int("dim", dim)
        if dtype not in _checks._FLOATS:
            raise TypeError(f"dtype: got {dtype!r}, want float64, float32, float16 or bfloat16")
        self.gather_distributed = bool(gather_distributed)
        self.register_buffer("rows", F.normalize(torch.randn(size, dim)).to(dtype))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Replace the oldest rows with `keys` [N, dim], N >= 1, of any float type, unit rows; no gradient flows.

        Raises:
            TypeError, ValueError: the keys are of another type, shape or device.
        """
        size, dim = self.rows.shape
        _checks.float_tensor("keys", keys, "[N, d]")
        if keys.shape[1] != dim:
            raise ValueError(f"keys: got width {keys.shape[1]}, want that of the queue, {dim}")
        if keys.device != self.rows.device:
            raise ValueError(f"keys: got device {keys.device}, want that of the queue, {self.rows.device}")
        if self.gather_distributed:
            keys = gather_rows(keys)
        count = keys.shape[0]
        kept = min(count, size)
        # The first key that stays is number count - kept of the batch.
        places = (self.pointer + torch.arange(count - kept, count, device=keys.device)) % size
        self.rows.index_copy_(0, places, keys[count - kept :].to(self.rows.dtype))
        self.pointer.copy_((self.pointer + count) % size)

    def extra_repr(self) -> str:
        size, dim = self.rows.shape
        gather = ", gather_distributed=True" if self.gather_distributed else ""
        return f"{size}, {dim}, dtype={self.rows.dtype}{gather}"


def gather_rows(x: Tensor, among: Peers | None = None) -> Tensor:
    """Return the rows of all processes in rank order, of which each may have another number; without gradient."""
    return (among or peers(True, len(x), x.device)).gather(x)
