from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def excluded_pairs(m: int, n: int, exclude: object, device: torch.device) -> Tensor:
    """Return bool [m, n]: which pairs are left out."""
    if exclude is None:
        return torch.zeros(m, n, dtype=torch.bool, device=device)
    if isinstance(exclude, str):
        exclude = torch.arange(max(m, n), device=device)
        exclude = (exclude[:m], exclude[:n])
    rows, cols = exclude if isinstance(exclude, tuple) else (exclude, exclude)
    return rows[:, None] == cols[None, :]  # type: ignore[no-any-return, index]


def pairwise_logsumexp(
    x: Tensor, y: Tensor | None = None, scale: float | Tensor = 1.0, exclude: object = None, normalize: bool = False,
    columns: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:  # fmt: skip
    """Row (and column) log-sum-exp of scale x y^T, with all scores in memory. See `fastssl.functional`."""
    y = x if y is None else y
    if normalize:
        x, y = F.normalize(x, dim=1), F.normalize(y, dim=1)
    left_out = excluded_pairs(len(x), len(y), exclude, x.device)
    scores = (x @ y.T * scale).masked_fill(left_out, -torch.inf)
    # A row without a pair has no gradient rather than a NaN one.
    both = [s.masked_fill(e.all(1)[:, None], 0).logsumexp(1).masked_fill(e.all(1), -torch.inf)
            for s, e in ((scores, left_out), (scores.T, left_out.T))]  # fmt: skip
    return (both[0], both[1]) if columns else both[0]
