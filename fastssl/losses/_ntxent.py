from __future__ import annotations

import torch

from .. import _checks
from ..functional import ntxent


class NTXentLoss(torch.nn.Module):
    """NT-Xent loss of SimCLR as a module; the call, values and gradients of lightly's class of that name.

    Args:
        temperature: tau > 0, a number or a 0-d tensor (a parameter, if it is to be learnt).
        memory_bank_size: 0. A bank of past negatives is not available yet.
        gather_distributed: False. Negatives from other processes are not available yet.

    Raises:
        NotImplementedError: a memory bank or distributed gathering is asked for.
        TypeError, ValueError: see `fastssl.functional.ntxent`.

    Shapes: two tensors [N, d] in, a 0-d float32 tensor out. The formula is in `fastssl.functional.ntxent`.

    >>> criterion = fastssl.NTXentLoss(temperature=0.1)
    >>> loss = criterion(projector(encoder(view0)), projector(encoder(view1)))
    """

    def __init__(
        self,
        temperature: float | torch.Tensor = 0.5,
        memory_bank_size: int | tuple[int, ...] = 0,
        gather_distributed: bool = False,
    ) -> None:
        super().__init__()
        device = temperature.device if isinstance(temperature, torch.Tensor) else torch.device("cpu")
        _checks.positive_scalar("temperature", temperature, device)
        if memory_bank_size != 0:
            raise NotImplementedError(
                f"memory_bank_size: got {memory_bank_size!r}, want 0: the memory bank is not available yet"
            )
        if gather_distributed:
            raise NotImplementedError(
                "gather_distributed: got True, want False: negatives from other processes are not available yet"
            )
        self.temperature = temperature

    def forward(self, out0: torch.Tensor, out1: torch.Tensor) -> torch.Tensor:
        """Return the loss of the positive pairs (out0[i], out1[i])."""
        return ntxent(out0, out1, self.temperature)

    def extra_repr(self) -> str:
        return f"temperature={self.temperature}"
