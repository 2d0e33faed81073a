"""Random words of masks and patches, the same on every backend: Philox of (sample id, view, purpose + 256 block)."""

from __future__ import annotations

import torch
from torch import Tensor

from .philox import philox

RANDOM, MULTIBLOCK, BLOCKWISE, TEXT, PATCHES, NOISE = range(64, 70)  # purposes
EVERYONE = -1  # the id of draws that all samples share
# Polynomials, the highest power first: (log(1 + t) - t + t^2 / 2) / t^3 for sqrt(1/2) <= 1 + t < sqrt(2), sin(pi f / 2)
# / f and cos(pi f / 2) in f^2 for |f| <= 1/2; within 6e-9 of the functions, before rounding.
LOG = (-0.078596115, 0.12881647, -0.13128754, 0.14181192, -0.16624554, 0.20002286, -0.2500081, 0.33333316)
SIN = (-0.004602177, 0.07968023, -0.6459635, 1.5707964)
COS = (0.00090363174, -0.020860072, 0.2536692, -1.2337005, 1.0)
LN2, ROOT_HALF_BITS = 0.6931472, 0x3F3504F3


def ids_or_range(sample_ids: Tensor | None, n: int, device: torch.device) -> Tensor:
    """The sample ids int64 [n], by default 0 .. n - 1."""
    return torch.arange(n, device=device) if sample_ids is None else sample_ids


def words(seed: Tensor, ids: Tensor, view: int, purpose: int, first: int, last: int) -> list[Tensor]:
    """The four words of blocks first .. last - 1 of each id, each int64 [n, last - first]."""
    counter = purpose + 256 * torch.arange(first, last, device=ids.device)
    low, high = (ids & 0xFFFFFFFF)[:, None], ((ids >> 32) & 0xFFFFFFFF)[:, None]
    # Filled on the device: no copy from the host waits for it.
    return philox(seed.to(ids.device, non_blocking=True), (low, high, torch.full_like(counter, view), counter))


def uniform(word: Tensor) -> Tensor:
    """Float64 in [0, 1)."""
    return word.double() * 2.0**-32


def between(low: float, high: float | Tensor, u: Tensor) -> Tensor:
    """Return low + (high - low) u, each step rounded on its own."""
    return low + (high - low) * u


def sides(area: Tensor, aspect: Tensor) -> tuple[Tensor, Tensor]:
    """Height and width of a block of an area, height / width being the aspect; rounded half up."""
    return tuple((x.sqrt() + 0.5).floor() for x in (area * aspect, area / aspect))  # type: ignore[return-value]


def below(word: Tensor, count: int) -> Tensor:
    """Uniform over 0 .. count - 1, for counts below 2^31."""
    return (word * count) >> 32


def normals(words: list[Tensor]) -> list[Tensor]:
    """Four Gaussian numbers float32 of four words, by Box and Muller; products and sums in float32, none fused."""

    def horner(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
        value = torch.full_like(x, coefficients[0])
        for c in coefficients[1:]:
            value = value * x + c
        return value

    out = []
    for first, second in (words[:2], words[2:]):
        u = ((first >> 8) + 1).float() * 2.0**-24  # in (0, 1]
        exponent = (u.view(torch.int32) - ROOT_HALF_BITS) >> 23
        t = (u.view(torch.int32) - (exponent << 23)).view(torch.float32) - 1
        square = t * t
        log = (t + (horner(LOG, t) * t * square - square * 0.5)) + exponent.float() * LN2
        radius = (log * -2).double().sqrt().float()  # that of float32 need not be the nearest on a CPU
        f = ((second >> 6) & 0xFFFFFF).float() * 2.0**-24 - 0.5  # of a quarter of the circle
        sin, cos, turns = f * horner(SIN, f * f), horner(COS, f * f), second >> 30
        x, y = torch.where(turns % 2 == 1, sin, cos), torch.where(turns % 2 == 1, cos, sin)
        x, y = torch.where((turns == 1) | (turns == 2), -x, x), torch.where(turns >= 2, -y, y)
        out += [radius * x, radius * y]
    return out
