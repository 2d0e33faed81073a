"""Eager forms of losses whose originals cannot be installed: solo-learn's, SupCon's code, MoCo v3's, DINO's, DINOv2's.

Written down from the papers and the originals' documented behaviour, with all scores in memory, for any float type.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def simclr(z: Tensor, indexes: Tensor, temperature: float) -> Tensor:
    """Mean of -log of the share that all positives of a row have among all other rows."""
    z = F.normalize(z, dim=1)
    scores = z @ z.T / temperature
    self = torch.eye(len(z), dtype=torch.bool)
    positives = (indexes[:, None] == indexes) & ~self
    everyone = scores.masked_fill(self, -torch.inf).logsumexp(1)
    return (everyone - scores.masked_fill(~positives, -torch.inf).logsumexp(1)).mean()


def queue(query: Tensor, key: Tensor, rows: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of the first class, of rows as they are."""
    scores = torch.cat([(query * key).sum(1, keepdim=True), query @ rows], 1) / temperature
    return F.cross_entropy(scores, torch.zeros(len(query), dtype=torch.int64))


def one_direction(query: Tensor, key: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of the diagonal, of unit rows."""
    scores = F.normalize(query, dim=1) @ F.normalize(key, dim=1).T / temperature
    return F.cross_entropy(scores, torch.arange(len(query)))


def barlow(z1: Tensor, z2: Tensor, lamb: float, scale_loss: float) -> Tensor:
    a, b = ((z - z.mean(0)) / (z.var(0, correction=0) + 1e-5).sqrt() for z in (z1, z2))
    c = a.T @ b / len(z1)
    weights = torch.full_like(c, lamb).fill_diagonal_(1)
    return scale_loss * (weights * (c - torch.eye(len(c)).to(c)).square()).sum()


def byol(p: Tensor, z: Tensor) -> Tensor:
    return (F.normalize(p, dim=1) - F.normalize(z.detach(), dim=1)).square().sum(1).mean()


def vicreg(z1: Tensor, z2: Tensor, sim: float, var: float, cov: float) -> Tensor:
    loss = sim * (z1 - z2).square().mean()
    for z in (z1, z2):
        covariance = torch.cov(z.T)
        covariance = covariance - torch.diag(torch.diag(covariance))
        loss = loss + var * (1 - (z.var(0) + 1e-4).sqrt()).clamp_min(0).mean()
        loss = loss + cov * covariance.square().sum() / z.shape[1]
    return loss


def mae(images: Tensor, pred: Tensor, mask: Tensor, patch: int, normalize: bool) -> Tensor:
    n, c, h, w = images.shape
    target = images.reshape(n, c, h // patch, patch, w // patch, patch).permute(0, 2, 4, 3, 5, 1).reshape(pred.shape)
    if normalize:
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
    return ((pred - target).square().mean(-1) * mask).sum() / mask.sum()


def supcon(
    features: Tensor, labels: Tensor | None, mask: Tensor | None, temperature: float, mode: str, base: float
) -> Tensor:
    """The mean over anchors of what the weighted mean over positives is of -log of a softmax without the row itself."""
    images, views = features.shape[:2]
    rows = torch.cat([features[:, v].flatten(1) for v in range(views)])
    image = torch.arange(images).repeat(views)
    if mask is None:
        mask = torch.eye(images) if labels is None else (labels[:, None] == labels).float()
    total = features.new_zeros(())
    anchors = len(rows) if mode == "all" else images
    for i in range(anchors):
        others = torch.arange(len(rows)) != i
        log_p = torch.log_softmax(rows[others] @ rows[i] / temperature, 0)
        weights = mask.to(rows)[image[i]][image[others]]
        size = weights.sum() if weights.sum() > 1e-6 else 1.0
        total = total - (weights * log_p).sum() / size
    return total * (temperature / base) / anchors


def soft_cross_entropy(q: Tensor, s: Tensor, temp: float) -> Tensor:
    """Of logits with probabilities, a value for each row."""
    return -(q * F.log_softmax(s / temp, -1)).sum(-1)


def dino(student: Tensor, teacher: Tensor, center: Tensor, crops: int, temps: tuple[float, float]) -> Tensor:
    """Mean over the pairs of different crops, of logits crop by crop."""
    students, teachers = student.chunk(crops), teacher.detach().chunk(2)
    terms = [
        soft_cross_entropy(((t - center) / temps[1]).softmax(-1), s, temps[0]).mean()
        for i, t in enumerate(teachers) for v, s in enumerate(students) if i != v
    ]  # fmt: skip
    return torch.stack(terms).mean()


def dino_patches(student: Tensor, targets: Tensor, mask: Tensor, temp: float) -> Tensor:
    """The mean over the images of the mean over the masked patches of each; that of none is 0."""
    images = [
        soft_cross_entropy(q[m], x[m], temp).sum() / m.sum().clamp(min=1)
        for x, q, m in zip(student, targets, mask, strict=True)
    ]
    return torch.stack(images).mean()


def koleo(x: Tensor, eps: float = 1e-8) -> Tensor:
    """Minus the mean log of the distance of unit rows from their nearest neighbours."""
    u = F.normalize(x, dim=1, eps=eps)
    nearest = (u @ u.T).detach().fill_diagonal_(-1).argmax(1)
    return -(torch.nn.PairwiseDistance(2, eps=1e-8)(u, u[nearest]) + eps).log().mean()


def sinkhorn(logits: Tensor, temp: float, iterations: int = 3) -> Tensor:
    """SwAV's and DINOv2's matrix, prototypes by samples, whose rows and columns are divided in turn; it overflows."""
    q = (logits / temp).exp().T
    prototypes, samples = q.shape
    q = q / q.sum()
    for _ in range(iterations):
        q = q / q.sum(1, keepdim=True) / prototypes
        q = q / q.sum(0, keepdim=True) / samples
    balanced: Tensor = (q * samples).T
    return balanced
