"""A quick comparison on this machine: fastssl's NT-Xent against the eager form, interleaved in one process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .functional import ntxent


@dataclass(frozen=True)
class Row:
    """Medians of one size: milliseconds of forward plus backward."""

    pairs: int
    dim: int
    fastssl_ms: float
    eager_ms: float

    @property
    def speedup(self) -> float:
        """Eager time over fastssl's."""
        return self.eager_ms / self.fastssl_ms


def eager_ntxent(z0: Tensor, z1: Tensor, temperature: float) -> Tensor:
    """NT-Xent as it is usually written, with the 2N x 2N matrix; z0, z1 [N, d] -> 0-d."""
    z = torch.nn.functional.normalize(torch.cat([z0, z1]).float())
    logits = z @ z.T / temperature
    logits.fill_diagonal_(float("-inf"))
    n = len(z0)
    partner = torch.arange(2 * n, device=z.device).roll(n)
    return torch.nn.functional.cross_entropy(logits, partner)


def compare(
    sizes: list[int], dim: int, temperature: float, dtype: torch.dtype, device: torch.device, repeats: int
) -> Iterator[Row]:
    """Yield one row for each number of pairs, as it is measured."""
    for pairs in sizes:
        generator = torch.Generator().manual_seed(0)
        z = [torch.randn(pairs, dim, generator=generator).to(device, dtype).requires_grad_() for _ in range(2)]
        times: dict[str, list[float]] = {"fastssl": [], "eager": []}
        forms: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {"fastssl": ntxent, "eager": eager_ntxent}
        for turn in range(repeats + 1):
            for name, form in forms.items():  # in turn, so that a change of the machine's pace meets both
                taken = _timed(form, z[0], z[1], temperature)
                if turn:  # the first turn warms up
                    times[name].append(taken)
        yield Row(pairs, dim, statistics.median(times["fastssl"]), statistics.median(times["eager"]))


def _timed(form: Callable[[Tensor, Tensor, float], Tensor], z0: Tensor, z1: Tensor, temperature: float) -> float:
    _wait(z0.device)
    start = time.perf_counter()
    torch.autograd.grad(form(z0, z1, temperature), (z0, z1))
    _wait(z0.device)
    return 1e3 * (time.perf_counter() - start)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
