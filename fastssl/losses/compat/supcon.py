"""The loss of the reference code of SupCon (`losses.py` of SupContrast).

Features are taken as they are, as there: normalise them first.

Differences:

- What the scores are taken relative to, for stability, is the largest one of those that count; there it is the largest
  of all, which is that of a row with itself: at a temperature of 0.005 nothing may be left of the others.
- A mask may hold weights >= 0, and need not be symmetric, as there; it is read in float32 (float64 for float64).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ... import _checks
from ...functional._pairwise_logsumexp import logsumexp
from ...functional._peers import class_sums
from ...functional._similarity import choice, embeddings, paired_scores, positions, ranks

__all__ = ["SupConLoss"]


class SupConLoss(torch.nn.Module):
    r"""Supervised contrastive loss of several views an image; SimCLR's without labels and mask.

    With rows z of all V views of all B images, s_ij = <z_i, z_j> / tau, and w_ij = 1 where the images of rows i and j
    have one label (or the entry of `mask` for their images; or 1 for the same image), w_ii = 0:

        loss = tau / base_temperature * mean_i [ sum_j w_ij ( log sum_{k != i} exp(s_ik) - s_ij ) / sum_j w_ij ]

    The mean is over all rows, or with ``contrast_mode="one"`` over those of the first view; a row without positives
    counts as 0.

    Args:
        temperature: tau > 0.
        contrast_mode: "all" or "one".
        base_temperature: what tau is divided by before the loss is multiplied with it.

    Source: Khosla et al., Supervised Contrastive Learning, 2020, eq. 2.
    """

    def __init__(
        self, temperature: float | Tensor = 0.07, contrast_mode: str = "all", base_temperature: float = 0.07
    ) -> None:
        super().__init__()
        choice("contrast_mode", contrast_mode, ("all", "one"))
        self.temperature, self.contrast_mode, self.base_temperature = temperature, contrast_mode, base_temperature

    def forward(self, features: Tensor, labels: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Return the loss of features [B, V, ...], with labels [B], or a mask [B, B], or neither."""
        if not isinstance(features, Tensor) or features.ndim < 3:
            got = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise ValueError(f"features: got {got}, want [B, V, ...]")
        features = _checks.float_tensor("features", features.flatten(2), "[B, V, D]")
        images, views = features.shape[:2]
        device = features.device
        scale = 1 / _checks.positive_scalar("temperature", self.temperature, device)
        if labels is not None and mask is not None:
            raise ValueError("mask: got one beside labels, want one of them at most")
        labels = labels.flatten() if isinstance(labels, Tensor) else labels
        _of_images("labels", labels, (images,))
        _of_images("mask", mask, (images, images))

        products, (z,) = embeddings(features.transpose(0, 1).flatten(0, 1), normalize=False)  # the first views first
        anchors = z if self.contrast_mode == "all" else z[:images]
        rows = len(anchors)
        everyone = positions(len(z), device)
        other = None if rows == len(z) else z
        lse = logsumexp(anchors, other, scale, (everyone[:rows], everyone), products, bounded=False)[0]
        repeats = rows // images

        # The positives' scores are those of a weighted sum of rows. In float64: a row comes out of it without rounding.
        views_sum = z.double().view(views, images, -1).sum(0)
        own: Tensor | float = 1.0
        if mask is not None:
            weights = mask.to(device, z.dtype).double()
            sums, count = weights @ views_sum, views * weights.sum(1)
            own = weights.diagonal().repeat(repeats)
        elif labels is not None:
            ids = ranks(labels.to(device), labels.to(device))[0].long()
            totals, place, classmates = class_sums(ids, views_sum)
            sums, count = totals[place], views * classmates.double()
        else:
            sums, count = views_sum, torch.full((images,), float(views), dtype=torch.float64, device=device)
        count = count.repeat(repeats) - own
        own = own[:, None] if isinstance(own, Tensor) else own
        others = sums.repeat(repeats, 1) - own * anchors.double()
        has = count > 1e-6
        positive = paired_scores(anchors, others.to(z.dtype)) * scale
        # As in the original, weights of which there are hardly any are not divided by their sum, but by 1.
        nll = torch.where(count > 0, lse, 0.0) * count - positive
        loss = (nll / torch.where(has, count, 1.0)).mean()
        return (loss * (self.temperature / self.base_temperature)).to(z.dtype)


def _of_images(name: str, value: object, shape: tuple[int, ...]) -> None:
    if value is not None and not isinstance(value, Tensor):
        raise TypeError(f"{name}: got {type(value).__name__}, want a tensor {list(shape)} or None")
    if value is not None and value.shape != shape:
        raise ValueError(f"{name}: got shape {tuple(value.shape)}, want {list(shape)}")
