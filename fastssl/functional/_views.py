"""The two views of a batch as the rows of one problem."""

from __future__ import annotations

import torch
from torch import Tensor

from ._peers import Ids, Peers
from ._similarity import embeddings, paired_scores, positions


def views(z0: Tensor, z1: Tensor, scale: Tensor, found: Peers) -> tuple[torch.dtype, Tensor, Tensor, Ids]:
    """Return the products' type, unit rows z = [z0; z1], the scaled scores of their positives in float64 [2N], and ids.

    The ids are those of the pairs: where they are equal, a row meets itself or its positive. `found` is made for all 2N
    rows.
    """
    products, rows = embeddings(z0, z1, normalize=True)
    own = positions(len(z0), z0.device, found.start // 2).repeat(2)
    return products, torch.cat(rows), (paired_scores(*rows) * scale).repeat(2), (own, own)
