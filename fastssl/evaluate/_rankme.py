from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from .. import _checks
from ._features import Data, data_protocol, features
from ._result import Result

_EPS = 1e-7


@dataclass(frozen=True, kw_only=True)
class RankMeResult(Result):
    """Result of `rankme`.

    Attributes:
        rank: the effective rank, from 1 to the smaller of `images` and `width`.
        images: rows of the matrix of features.
        width: its columns.
        protocol: how it was found.
    """

    rank: float
    images: int
    width: int

    @property
    def scores(self) -> dict[str, float]:
        """The rank."""
        return {"RankMe": self.rank}


def rankme(encoder: nn.Module | None, data: Data, *, images: int | None = 25600, batch_size: int = 256) -> RankMeResult:
    r"""Measure how many directions the features use, without labels.

        exp(-sum_k p_k log p_k),        p_k = s_k / sum_j s_j + 1e-7

    where s are the singular values of the matrix of features [n, f], as they are: neither centred nor scaled.

    Args:
        encoder: module float32 [B, C, H, W] -> [B, f]; None stands for the pixels. It is left as it was.
        data: images or `Features`, or a name or folder (its training split).
        images: at most so many of them, evenly thinned; None takes all. 25,600 are the source's.
        batch_size: images a forward pass.

    Returns:
        The effective rank.

    Raises:
        TypeError, ValueError: an argument is of another type or out of range.

    Source: Garrido et al. 2023, "RankMe: Assessing the Downstream Performance of Pretrained Self-Supervised
        Representations by Their Rank", equation 1; there of the projections, here of what the encoder keeps.
    """
    if images is not None:
        _checks.positive_int("images", images)
    whole = features(encoder, data, batch_size=batch_size)
    step = 1 if images is None else -(-len(whole.x) // images)
    part = whole.take(range(0, len(whole.x), step))
    values = torch.linalg.svdvals(part.x.double())
    p = values / values.sum() + _EPS
    protocol = {
        "normalisation": "none",
        "spectrum": f"singular values over their sum, plus {_EPS}",
        "thinned": f"every {step}. image",
        **data_protocol(data=part),
    }
    n, width = part.x.shape
    return RankMeResult(rank=(-(p * p.log()).sum()).exp().item(), images=n, width=width, protocol=protocol)
