"""Problems of the loss on masked patches, and the accuracy rule for its value and its gradient."""

from __future__ import annotations

import torch
from masking_reference import hold_to_the_rule, normalized, sum_type
from torch import Tensor

from fastssl import reference
from fastssl.functional import masked_mse

LOSSES = ("mse", "l1", "smooth_l1")


def problem(
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    n: int = 3,
    channels: int = 3,
    side: int = 24,
    patch: int = 8,
) -> tuple[Tensor, Tensor, Tensor]:
    """Predictions [N, L, E], uint8 images and a mask [N, L] of which about two thirds are set."""
    images = torch.randint(0, 256, (n, channels, side, side), dtype=torch.uint8, device=device)
    tokens = (side // patch) ** 2
    pred = torch.randn(n, tokens, channels * patch**2, device=device).to(dtype)
    mask = torch.rand(n, tokens, device=device) < 0.66
    mask[0, 0], mask[0, 1] = True, False
    return pred, images, mask


def loss_and_grad(call, pred: Tensor, upstream: float) -> tuple[Tensor, Tensor]:  # type: ignore[no-untyped-def]
    leaf = pred.detach().requires_grad_()
    loss = call(leaf)
    (grad,) = torch.autograd.grad(loss, leaf, torch.tensor(upstream).to(loss))
    return loss.detach(), grad


def check(
    pred: Tensor, images: Tensor, masked: Tensor, patch: tuple[int, int, int] | None, where: object,
    upstream: float = 1.7, loss: str = "mse", beta: float = 1.0, norm_pix: bool = True, channels_last: bool = True,
    mean: list[float] | None = None, std: list[float] | None = None,
) -> None:  # fmt: skip
    """Hold the loss and its gradient to the rule, whichever form the arguments have."""
    pixels = images.double() if patch is None else normalized(images, mean, std)
    offset = torch.zeros_like(pixels) if patch is None else normalized(torch.zeros_like(images), mean, std)
    targets, sizes = (
        x if patch is None else reference.patchify(x, patch, channels_last)
        for x in (pixels, (pixels - offset).abs() + offset.abs())
    )
    tokens = targets.shape[1]
    if masked.dtype != torch.int64:
        weights = masked.double()
    elif masked.shape[1] == pred.shape[1]:  # one row an id
        weights = (masked >= 0).double()
        targets, sizes = (reference.gather_tokens(x, masked) for x in (targets, sizes))
    else:
        place = torch.where(masked < 0, tokens, masked)
        weights = torch.zeros(len(pred), tokens + 1, device=pred.device).double().scatter(1, place, 1.0)[:, :-1]

    def spec(x: Tensor) -> Tensor:  # on rows as if they were images of one pixel a token
        rows = targets.to(x.dtype).transpose(1, 2)[:, :, None, None]
        options = {"norm_pix": norm_pix, "loss": loss, "beta": beta}
        return reference.masked_mse(x, rows, weights.to(x.dtype), (1, 1, 1), **options)

    options = {"loss": loss, "beta": beta, "norm_pix": norm_pix, "channels_last": channels_last}
    if patch is None:
        call = lambda x: masked_mse(x, images, masked, **options)  # noqa: E731
    else:
        flat = patch[0] == 1 and images.shape[2] == 1
        given = images[:, :, 0] if flat else images
        size = patch if not flat else patch[1] if patch[1] == patch[2] else patch[1:]
        call = lambda x: masked_mse(x, given, masked, size, mean=mean, std=std, **options)  # noqa: E731
    found = loss_and_grad(call, pred, upstream)
    exact, eager = (loss_and_grad(spec, pred.to(kind), upstream) for kind in (torch.float64, sum_type(pred)))
    assert found[0].shape == ()
    assert found[0].dtype == sum_type(pred)
    assert found[1].dtype == pred.dtype
    # Rounding errors of a difference: of pred, of the target and, where it is normalised, of the pixels it comes from.
    spread = (targets.var(-1, keepdim=True) + 1e-6).sqrt() if norm_pix else torch.ones(1).to(targets)
    target = (targets - targets.mean(-1, keepdim=True)) / spread if norm_pix else targets
    error = pred.double().abs() + target.abs()
    error = error + sizes.amax(-1, keepdim=True) / spread * (1 + target.abs() * norm_pix)
    share = weights[..., None] / (weights.sum() * targets.shape[2])
    difference = (pred.double() - target).abs()
    slope, curve = {"mse": (2 * difference, 2.0), "l1": (torch.ones_like(error), 0.0)}.get(
        loss, (torch.ones_like(error), 1 / beta)
    )
    hold_to_the_rule(found[0], eager[0], exact[0], (share * slope * error).sum() + exact[0].abs(), (where, "loss"))
    grad_scale = upstream * share * (slope + curve * error)
    hold_to_the_rule(found[1], eager[1], exact[1], grad_scale.abs(), (where, "gradient"))


def statistics(channels: int) -> dict[str, list[float]]:
    return {"mean": [0.1 * c - 0.3 for c in range(channels)], "std": [0.2 + 0.3 * c for c in range(channels)]}
