"""Contrastive predictive coding: InfoNCE of predictions several steps ahead."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import _checks
from ._info_nce import info_nce
from ._peers import Gather


def cpc(
    predictions: Sequence[Tensor],
    targets: Tensor,
    temperature: float | Tensor = 1.0,
    normalize: bool = False,
    gather_distributed: Gather = False,
) -> Tensor:
    r"""CPC's loss: each prediction must find its own future among all futures of the batch.

    With p = predictions[k - 1][n, t] = W_k c_{n, t} of what comes k steps after t, z = targets, and all pairs (n', t')
    of the batch as candidates:

        loss = 1/K sum_k mean_{n, t} [ log sum_{n', t'} exp(<p, z_{n', t'+k}> / tau) - <p, z_{n, t+k}> / tau ]

    Args:
        predictions: K tensors [N, T - k, D], k = 1 .. K < T; float32, float16, bfloat16 or float64.
        targets: encodings [N, T, D], the same dtype and device.
        temperature: tau > 0, a number or a 0-d tensor.
        normalize: divide the rows by max(|row|, 1e-12) first.
        gather_distributed: take the candidates of all processes: True, "all_gather" or "ring"; see `fastssl.losses`.

    Returns:
        A 0-d float32 tensor (float64 for float64 embeddings); log of the number of candidates at chance.

    Raises:
        TypeError, ValueError: an argument is of another type, dtype, shape, device or value; the message names it.

    Source: van den Oord et al., Representation Learning with Contrastive Predictive Coding, 2018, eq. 4.
    """
    _checks.float_tensor("targets", targets, "[N, T, D]")
    if isinstance(predictions, Tensor) or len(predictions) == 0:
        raise ValueError("predictions: want a list of tensors [N, T - k, D], one for each k = 1 .. K")
    n, length, d = targets.shape
    losses = []
    for k, prediction in enumerate(predictions, 1):
        _checks.float_tensor(f"predictions[{k - 1}]", prediction, "[N, T, D]")
        if prediction.shape != (n, length - k, d):
            raise ValueError(
                f"predictions[{k - 1}]: got shape {tuple(prediction.shape)}, want {(n, length - k, d)}: what comes {k} "
                f"steps after each of the first {length - k} targets"
            )
        pairs = prediction.flatten(0, 1), targets[:, k:].flatten(0, 1)
        losses.append(
            info_nce(*pairs, temperature=temperature, normalize=normalize, gather_distributed=gather_distributed)
        )
    return torch.stack(losses).mean()
