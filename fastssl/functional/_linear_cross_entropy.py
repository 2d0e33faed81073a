"""A linear classifier and its cross-entropy, without the logits: the head of a masked language model."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import _checks
from ._pairwise_logsumexp import logsumexp, pair
from ._peers import peers
from ._similarity import REDUCTIONS, choice, embeddings, paired_scores, positions, reduced, softplus_excess

_ALIGN = 16  # rows of whole 16s are the ones that accelerators copy fast


def linear_cross_entropy(
    x: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    r"""Cross-entropy of x weight^T + bias over a vocabulary, without the logits [N, V].

        nll_i = log sum_v exp(<x_i, w_v> + b_v) - <x_i, w_{target_i}> - b_{target_i}

    Args:
        x: hidden states [N, d]; float32, float16, bfloat16 or float64; any strides.
        weight: [V, d], the same dtype and device, as of `torch.nn.Linear`.
        target: int64 [N] in [0, V), or `ignore_index`. Values on an accelerator are not read, as that would stall it.
        bias: [V] or None.
        ignore_index: targets that do not count.
        reduction: "mean" over the targets that count, "sum", or "none" for nll [N], 0 where a target does not.

    Returns:
        A float32 tensor (float64 for float64), 0-d or [N]; NaN for a mean over no targets, as in `torch.nn.functional`.

    Raises:
        TypeError, ValueError: an argument is of another type, dtype, shape, device or value; the message names it.

    Memory beyond inputs and gradients is O((N + V) d). Rows that do not count take part on an accelerator: hand over
    those that do where they are few, as in BERT. x, weight and bias get their gradients.

    Source: Wijmans et al., Cut Your Losses in Large-Vocabulary Language Models, 2024, without its gradient filter.
    """
    pair("x", x, "weight", weight)
    choice("reduction", reduction, REDUCTIONS)
    rows, vocabulary = len(x), len(weight)
    if not isinstance(target, Tensor) or target.dtype != torch.int64 or target.shape != (rows,):
        got = f"{target.dtype} {tuple(target.shape)}" if isinstance(target, Tensor) else type(target).__name__
        raise ValueError(f"target: got {got}, want int64 [{rows}]")
    if target.device != x.device:
        raise ValueError(f"target: got device {target.device}, want {x.device}")
    counts = target != ignore_index
    if bias is not None:
        _checks.float_tensor("bias", bias, "[V]")
        if len(bias) != vocabulary or bias.device != x.device:
            raise ValueError(f"bias: got {len(bias)} on {bias.device}, want [{vocabulary}] on {x.device}")
    if x.device.type == "cpu" and not torch.compiler.is_compiling():
        chosen = target[counts]
        if len(chosen) and not 0 <= int(chosen.min()) <= int(chosen.max()) < vocabulary:
            raise ValueError(f"target: got values outside [0, {vocabulary}), want classes, or {ignore_index} for none")
        if 0 < len(chosen) < rows:
            nll = linear_cross_entropy(x[counts], weight, chosen, bias, ignore_index, "none")
            return _reduce(torch.zeros(rows, dtype=nll.dtype).index_put((counts,), nll), counts, reduction)
    products, (h, w) = embeddings(x, weight, normalize=False)
    if bias is not None:
        # One more feature, which is 1: the general form needs no bias.
        extra = F.pad(torch.ones_like(h[:, :1]), (0, _ALIGN - 1))
        h, w = torch.cat([h, extra], 1), torch.cat([w, F.pad(bias.to(w.dtype)[:, None], (0, _ALIGN - 1))], 1)
    place = torch.where(counts, target, 0)
    scale = torch.ones((), dtype=torch.float64)
    own = place.int(), positions(vocabulary, x.device)
    lse = logsumexp(h, w, scale, own, products, bounded=False)[0]
    nll = softplus_excess(lse, paired_scores(h, w[place]))
    return _reduce(torch.where(counts, nll, 0.0).to(h.dtype), counts, reduction)


def _reduce(nll: Tensor, counts: Tensor, reduction: str) -> Tensor:
    if reduction == "mean":
        return nll.sum(dtype=torch.float64).div(counts.sum()).to(nll.dtype)
    return reduced(nll, reduction, peers(False, len(nll), nll.device), nll.dtype)
