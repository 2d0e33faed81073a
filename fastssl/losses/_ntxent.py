from __future__ import annotations

from collections.abc import Sequence

import torch

from .. import _checks
from .._queue import Queue
from ..functional import ntxent
from ..functional._info_nce import against_queue
from ..functional._peers import check_gather
from ..functional._similarity import unit_rows


class NTXentLoss(torch.nn.Module):
    """NT-Xent loss of SimCLR as a module; the call, values and gradients of lightly's class of that name.

    With a memory bank it is the loss of MoCo: each out0[i] must pick its out1[i] among the rows of the bank, and the
    rest of the batch takes no part. The out1 enter the bank after the loss is computed, and only where out0 requires
    grad, so that evaluation leaves the bank as it is.

    Args:
        temperature: tau > 0, a number or a 0-d tensor (a parameter, if it is to be learnt).
        memory_bank_size: (rows, width of the embeddings) of the bank, or 0 for none. The bank is a `fastssl.Queue`
            in `memory_bank`: unlike lightly's, it is saved in checkpoints, and a batch that reaches its end goes on at
            its beginning rather than being cut there.
        gather_distributed: take the negatives of all processes: True, "all_gather" or "ring"; see `fastssl.losses`.
            With a memory bank the embeddings of all processes enter it, in rank order.

    Raises:
        TypeError, ValueError: an argument is of another type or out of range; see also `fastssl.functional.ntxent`.

    Shapes: two tensors [N, d] in, a 0-d float32 tensor out. The formulas are in `fastssl.functional.ntxent` and, with a
    memory bank, `fastssl.functional.moco`.

    >>> criterion = fastssl.NTXentLoss(temperature=0.1)
    >>> loss = criterion(projector(encoder(view0)), projector(encoder(view1)))
    """

    def __init__(
        self,
        temperature: float | torch.Tensor = 0.5,
        memory_bank_size: int | Sequence[int] = 0,
        gather_distributed: bool | str = False,
    ) -> None:
        super().__init__()
        device = temperature.device if isinstance(temperature, torch.Tensor) else torch.device("cpu")
        _checks.positive_scalar("temperature", temperature, device)
        check_gather(gather_distributed)
        self.temperature = temperature
        self.gather_distributed = gather_distributed
        self.memory_bank = _memory_bank(memory_bank_size, bool(gather_distributed))

    def forward(self, out0: torch.Tensor, out1: torch.Tensor) -> torch.Tensor:
        """Return the loss of the positive pairs (out0[i], out1[i])."""
        if self.memory_bank is None:
            return ntxent(out0, out1, self.temperature, self.gather_distributed)
        loss = against_queue(
            "out0", out0, "out1", out1, "memory_bank", self.memory_bank.rows, self.temperature, self.gather_distributed
        )
        if out0.requires_grad:
            exact = torch.promote_types(out1.dtype, torch.float32)
            self.memory_bank.enqueue(unit_rows(out1.detach().to(exact)))
        return loss

    def extra_repr(self) -> str:
        gather = f", gather_distributed={self.gather_distributed!r}" if self.gather_distributed else ""
        return f"temperature={self.temperature}{gather}"


def _memory_bank(size: int | Sequence[int], gather_distributed: bool) -> Queue | None:
    """Make the bank that `memory_bank_size` describes."""
    wanted = "want (rows, width of the embeddings), or 0 for no bank"
    if isinstance(size, bool) or not isinstance(size, (int, Sequence)) or isinstance(size, str):
        raise TypeError(f"memory_bank_size: got {type(size).__name__}, {wanted}")
    if isinstance(size, int):
        if size != 0:
            raise ValueError(f"memory_bank_size: got {size}, which does not tell the width of its rows; {wanted}")
        return None
    if len(size) != 2 or not all(isinstance(n, int) and n >= 1 for n in size):
        raise ValueError(f"memory_bank_size: got {size!r}, {wanted}")
    return Queue(size[0], size[1], gather_distributed=gather_distributed)
