"""Cross-entropy with sparse soft targets in torch ops, a chunk of places at a time: any device, float64."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .tokens import chunks, sum_type


def sparse_cross_entropy_fwd(
    logits: Tensor, index: Tensor, weight: Tensor, along_rows: bool, share: float, early: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return losses [N, P], float64 log-sum-exps [N, P], and `share` times the gradient of the sum, or [0]."""
    n, _, places = logits.shape
    loss = torch.empty((n, places), dtype=weight.dtype, device=logits.device)
    lse = torch.empty((n, places), dtype=torch.float64, device=logits.device)
    grad = _like(logits, along_rows) if early else logits.new_empty(0)
    for sample, part in _parts(logits):
        z = logits[sample, :, part].to(sum_type(logits.dtype))
        named, i, w = _targets(index[sample, :, part], weight[sample, :, part], z)
        top = z.amax(1, keepdim=True)
        e = (z - top).exp_()
        total = e.sum(1, keepdim=True)
        picked = z.gather(1, i).masked_fill_(~named, 0)
        loss[sample, part] = (w * (top - picked + total.log())).sum(1)
        lse[sample, part] = (top.double() + total.double().log()).squeeze(1)
        if early:
            grad[sample, :, part] = _gradient(e.div_(total), i, w) * share
    return loss, lse, grad


def sparse_cross_entropy_bwd(
    upstream: Tensor, logits: Tensor, index: Tensor, weight: Tensor, lse: Tensor, along_rows: bool, of_logits: bool,
    of_weight: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return the gradients of logits and weights, or [0], for upstream gradients [N, P] of the losses."""
    grad_logits = _like(logits, along_rows) if of_logits else logits.new_empty(0)
    grad_weight = weight.new_empty(weight.shape if of_weight else (0,))
    for sample, part in _parts(logits):
        z = logits[sample, :, part].to(sum_type(logits.dtype))
        named, i, w = _targets(index[sample, :, part], weight[sample, :, part], z)
        up, level = (x[sample, None, part] for x in (upstream, lse))
        if of_weight:
            found = up * (level - z.gather(1, i)).to(z.dtype)
            grad_weight[sample, :, part] = found.masked_fill_(~named, 0)
        if of_logits:
            grad_logits[sample, :, part] = _gradient((z - level).exp().to(z.dtype), i, w) * up
    return grad_logits, grad_weight


def _parts(logits: Tensor) -> Iterator[tuple[slice, slice]]:
    n, q, places = logits.shape
    for part in chunks(places, q):
        for sample in chunks(n, q * min(places, part.stop - part.start)):
            yield sample, part


def _targets(index: Tensor, weight: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Whether an index names a class; classes and weights, 0 and 0 where it names none."""
    named = (index >= 0) & (index < z.shape[1])
    return named, torch.where(named, index, 0).long(), weight.masked_fill(~named, 0).to(z.dtype)


def _gradient(p: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """Of a softmax p, which is overwritten: p times the sum of the weights, less each weight at its index."""
    p.mul_(weight.sum(1, keepdim=True))
    # One by one, as an index may come twice.
    for i, w in zip(index.split(1, 1), weight.split(1, 1), strict=True):
        p.scatter_(1, i, p.gather(1, i) - w)
    return p


def _like(logits: Tensor, along_rows: bool) -> Tensor:
    """Dense and empty; no view, as the backward pass writes into it."""
    n, q, places = logits.shape
    strides = (q * places, 1, q) if along_rows else (q * places, places, 1)
    return logits.new_empty_strided((n, q, places), strides)
