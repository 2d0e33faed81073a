"""Modules whose numbers stay wide when the model around them is cast to 16 bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class Wide(nn.Module):
    """A module whose tensors `.half()`, `.bfloat16()` and `.to()` move, but do not round to 16 bits: running averages.

    Their steps, a thousandth of the value or less, would round to none.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        def move(t: Tensor) -> Tensor:
            moved = fn(t)
            return moved if moved.dtype == t.dtype or moved.dtype.itemsize >= 4 else t.to(moved.device)

        return super()._apply(move, recurse)
