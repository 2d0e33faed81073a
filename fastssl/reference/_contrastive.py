"""The contrastive losses with all scores in memory; see the functions of the same names in `fastssl.functional`."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def info_nce(
    query: Tensor, positive_key: Tensor, negative_keys: Tensor | None = None, temperature: float | Tensor = 0.1,
    reduction: str = "mean", negative_mode: str = "unpaired", symmetric: bool = False, normalize: bool = True,
) -> Tensor:  # fmt: skip
    if normalize:
        query, positive_key = F.normalize(query, dim=-1), F.normalize(positive_key, dim=-1)
        negative_keys = None if negative_keys is None else F.normalize(negative_keys, dim=-1)
    own = torch.arange(len(query), device=query.device)
    if negative_keys is None:
        scores = query @ positive_key.T / temperature
        nll = F.cross_entropy(scores, own, reduction="none")
        if symmetric:
            nll = (nll + F.cross_entropy(scores.T, own, reduction="none")) / 2
    else:
        others = "nd,nmd->nm" if negative_mode == "paired" else "nd,md->nm"
        positive = (query * positive_key).sum(1, keepdim=True)
        scores = torch.cat([positive, torch.einsum(others, query, negative_keys)], 1) / temperature
        nll = F.cross_entropy(scores, torch.zeros_like(own), reduction="none")
    return nll if reduction == "none" else nll.sum() if reduction == "sum" else nll.mean()


def moco(query: Tensor, key: Tensor, queue: Tensor, temperature: float | Tensor = 0.2) -> Tensor:
    query, key = F.normalize(query, dim=1), F.normalize(key.detach(), dim=1)
    return info_nce(query, key, queue.detach(), temperature, normalize=False)


def clip(x: Tensor, y: Tensor, logit_scale: float | Tensor = 1 / 0.07, normalize: bool = True) -> Tensor:
    return info_nce(x, y, temperature=1 / logit_scale, symmetric=True, normalize=normalize)


def siglip(
    x: Tensor, y: Tensor, logit_scale: float | Tensor = 10.0, logit_bias: float | Tensor = -10.0,
    labels: Tensor | None = None, normalize: bool = True,
) -> Tensor:  # fmt: skip
    if normalize:
        x, y = F.normalize(x, dim=1), F.normalize(y, dim=1)
    logits = x @ y.T * logit_scale + logit_bias
    labels = torch.arange(len(x), device=x.device) if labels is None else labels
    signs = torch.where(labels[:, None] == labels, 1.0, -1.0).to(logits)
    return -F.logsigmoid(signs * logits).sum() / len(x)


def _scores(z: Tensor, temperature: float | Tensor, normalize: bool) -> Tensor:
    z = F.normalize(z, dim=1) if normalize else z
    return z @ z.T / temperature


def supcon(z: Tensor, labels: Tensor, temperature: float | Tensor = 0.1, normalize: bool = True) -> Tensor:
    scores = _scores(z, temperature, normalize)
    self = torch.eye(len(z), dtype=torch.bool, device=z.device)
    positives = (labels[:, None] == labels) & ~self
    log_p = scores - scores.masked_fill(self, -torch.inf).logsumexp(1, keepdim=True)
    has = positives.any(1)
    if not has.any():
        return (z * 0).sum()
    return -((log_p.masked_fill(~positives, 0)).sum(1)[has] / positives.sum(1)[has]).mean()


def multi_positive_ntxent(
    z: Tensor, labels: Tensor, temperature: float | Tensor = 0.07, normalize: bool = True
) -> Tensor:
    scores = _scores(z, temperature, normalize)
    same = labels[:, None] == labels
    rows, cols = (same & ~torch.eye(len(z), dtype=torch.bool, device=z.device)).nonzero(as_tuple=True)
    if len(rows) == 0:
        return (z * 0).sum()
    negatives = scores.masked_fill(same, -torch.inf)[rows]
    logits = torch.cat([scores[rows, cols, None], negatives], 1)
    return F.cross_entropy(logits, torch.zeros_like(rows))


def _views(z0: Tensor, z1: Tensor, temperature: float | Tensor) -> tuple[Tensor, Tensor]:
    """Return scores [2N, 2N] with self and positive left out, and the positives [2N]."""
    n = len(z0)
    scores = _scores(torch.cat([z0, z1]), temperature, True)
    i = torch.arange(2 * n, device=z0.device)
    pair = i % n
    return scores.masked_fill(pair[:, None] == pair, -torch.inf), scores[i, i.roll(n)]


def dcl(z0: Tensor, z1: Tensor, temperature: float | Tensor = 0.1, weights: Tensor | None = None) -> Tensor:
    scores, positive = _views(z0, z1, temperature)
    positive = positive if weights is None else positive * weights.repeat(2)
    return (scores.logsumexp(1) - positive).mean()


def dclw(z0: Tensor, z1: Tensor, temperature: float | Tensor = 0.1, sigma: float = 0.5) -> Tensor:
    likeness = F.softmax(F.cosine_similarity(z0, z1).detach() / sigma, 0)
    return dcl(z0, z1, temperature, 2 - len(z0) * likeness)


def hard_negative_ntxent(
    z0: Tensor, z1: Tensor, temperature: float | Tensor = 0.5, beta: float = 1.0, tau_plus: float = 0.1
) -> Tensor:
    scores, positive = _views(z0, z1, temperature)
    count = len(scores) - 2
    weight = (beta * scores).exp() if beta else scores.isfinite().to(scores)
    hard = (weight * scores.exp()).sum(1) / (weight.sum(1) / count)
    least = count * torch.exp(-1 / torch.as_tensor(temperature, dtype=scores.dtype))
    negatives = ((hard - tau_plus * count * positive.exp()) / (1 - tau_plus)).clamp_min(least)
    return -(positive.exp() / (positive.exp() + negatives)).log().mean()


def cpc(
    predictions: list[Tensor], targets: Tensor, temperature: float | Tensor = 1.0, normalize: bool = False
) -> Tensor:
    return torch.stack([
        info_nce(p.flatten(0, 1), targets[:, k:].flatten(0, 1), temperature=temperature, normalize=normalize)
        for k, p in enumerate(predictions, 1)
    ]).mean()  # fmt: skip


def alignment(z0: Tensor, z1: Tensor, alpha: float = 2.0) -> Tensor:
    distances: Tensor = torch.linalg.vector_norm(F.normalize(z0, dim=1) - F.normalize(z1, dim=1), dim=1)
    return distances.pow(alpha).mean()


def uniformity(z: Tensor, t: float = 2.0) -> Tensor:
    z = F.normalize(z, dim=1)
    potentials = (2 * t * (z @ z.T - 1)).masked_fill(torch.eye(len(z), dtype=torch.bool, device=z.device), -torch.inf)
    return potentials.flatten().logsumexp(0) - math.log(len(z) * (len(z) - 1))


def linear_cross_entropy(
    x: Tensor, weight: Tensor, target: Tensor, bias: Tensor | None = None, ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:  # fmt: skip
    return F.cross_entropy(F.linear(x, weight, bias), target, ignore_index=ignore_index, reduction=reduction)
