"""Loss of masked patches in torch ops, for any device and float type; the gradient is written along with it."""

from __future__ import annotations

import torch
from torch import Tensor

from .mask_patchify import patches_at
from .tokens import chunks, places, sum_type

EPS = 1e-6  # added to the variance of a patch
MSE, L1, SMOOTH_L1 = range(3)


def masked_mse_fwd(
    pred: Tensor, images: Tensor, ids: Tensor | None, weights: Tensor | None, patch: list[int], loss: int, beta: float,
    norm_pix: bool, channels_last: bool, scale: list[float], shift: list[float], with_grad: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return the loss [] and its gradient by pred, in float32 for float16, or [0].

    Row j of pred [N, R, E] is of patch ids[:, j] with weight 1, -1 being none, or of patch j with weight weights[:, j].
    """
    n, rows, elements = pred.shape
    dtype = sum_type(pred.dtype)
    if weights is None:
        assert ids is not None
        sides = (size // side for size, side in zip(images.shape[2:], patch, strict=True))
        at, counted = places(ids, torch.Size(sides).numel())
        weights = counted.to(dtype)
    else:
        at, counted = torch.arange(rows, device=pred.device).expand(n, rows), weights != 0
    total, weight = pred.new_zeros((), dtype=torch.float64), weights.sum(dtype=torch.float64)
    share = (weights / (weight * elements)).to(dtype)
    # A gradient over as many numbers is too small for float16.
    kept = torch.float32 if pred.dtype == torch.float16 else pred.dtype
    grad = torch.empty(pred.shape if with_grad else 0, dtype=kept, device=pred.device)
    for part in chunks(n, rows * elements):
        target = patches_at(images[part], at[part], patch, scale, shift, channels_last, dtype)
        if norm_pix:
            target = (target - target.mean(2, keepdim=True)) / (target.var(2, keepdim=True) + EPS).sqrt()
        difference = (pred[part].to(dtype) - target).masked_fill_(~counted[part][..., None], 0)
        value, slope = _losses(difference, loss, beta)
        total += (value.mean(2) * weights[part]).sum(dtype=torch.float64)
        if with_grad:
            grad[part] = (slope * share[part][..., None]).masked_fill_(~counted[part][..., None], 0)
    return (total / weight).to(dtype), grad


def _losses(d: Tensor, loss: int, beta: float) -> tuple[Tensor, Tensor]:
    """The loss of each difference and its derivative."""
    if loss == MSE:
        return d.square(), 2 * d
    # The sign of NaN is 0, NaN itself has to go on.
    size, sign = d.abs(), torch.where(d.isnan(), d, d.sign())
    if loss == L1:
        return size, sign
    near = size < beta
    return torch.where(near, d.square() * 0.5 / beta, size - 0.5 * beta), torch.where(near, d / beta, sign)


def scale_(x: Tensor, factor: Tensor) -> None:
    """Multiply x in place by the 0-d factor."""
    if factor.device.type != "cpu" or factor != 1:
        x.mul_(factor)
