"""The loss on masked patches: docstring, checks, schema, fake, autograd. The maths is in the kernels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import _backend, _checks
from ._patches import PIXELS, PatchSize, as_video, patch_sides, scale_and_shift, tokens_of
from ._registration import define
from ._unit_gradient import define_times, times

LOSSES = ("mse", "l1", "smooth_l1")
_backend.register(
    "masked_mse",
    triton=_backend.Kernel(_backend.FLOATS),
    cpp=_backend.Kernel(_backend.FLOATS),
    torch=_backend.Kernel((torch.float64, *_backend.FLOATS)),
)


def masked_mse(
    pred: Tensor,
    images: Tensor,
    masked: Tensor,
    patch_size: PatchSize | None = None,
    norm_pix: bool = True,
    *,
    loss: str = "mse",
    beta: float = 1.0,
    channels_last: bool = True,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Tensor:
    r"""Reconstruction loss of the masked patches, whose targets are read from the images.

    With w the mask, t the pixels of a patch and \hat t = (t - mean t) / sqrt(var t + 1e-6), var unbiased, over all
    pixels and channels of that patch together:

        loss = sum_{n,l} w_nl mean_i f(pred_nli - \hat t_nli) / sum_{n,l} w_nl

    f(x) is x^2 ("mse"), |x| ("l1"), or x^2 / (2 beta) where |x| < beta, else |x| - beta / 2 ("smooth_l1").

    Args:
        pred: float [N, L, C t p q], a prediction for each patch, or [N, M, C t p q], for masked ones only.
        images: uint8 or float [N, C, H, W], or videos [N, C, T, H, W]; any C and strides. Or, without a patch size, the
            targets themselves, such as the features of a teacher, [N, L, D]. They are data: no derivative by them.
        masked: which patches count, numbered row by row, frame by frame. Either a mask [N, L], bool, or float and then
            a weight, 1 for what was removed; or int64 ids [N, M], -1 for none, of which row j of `pred` is for patch
            ids[n, j], or, where it has L > M rows, row l for patch l. A mask takes a prediction for each patch.
        patch_size: p, (p, q) or (t, p, q) in pixels; a divisor of the images.
        norm_pix: compare with \hat t rather than t.
        loss: "mse", "l1" or "smooth_l1".
        beta: where the smooth L1 loss turns linear, > 0.
        channels_last: elements of a patch are (t, p, q, c), as MAE's code has them, else (c, t, p, q), as in the
            weights of a convolution.
        mean, std: one number a channel, for values in [0, 1]. By default ImageNet's for uint8 images of 1 or 3
            channels, while floats are taken as normalised already.

    Returns:
        A 0-d float32 tensor (float64 for float64 predictions); NaN where no patch is masked.

    Raises:
        TypeError, ValueError: an argument is of another type, shape or range. Ids on a GPU are not looked at: what is
            out of range there counts as -1.
        RuntimeError: the backend that is forced cannot run this call, or a second derivative is asked for.

    Differentiable in `pred`. The gradient is made in the forward pass, which reads the masked patches and their
    predictions once; what is not masked is not read, so NaN there does no harm. NaN in a masked patch gives NaN. Sums
    are taken in float32 or better, in an order that does not depend on timing: results are deterministic on
    every backend. The mask has no derivative, and the loss no second one.

    Source: He et al., Masked Autoencoders Are Scalable Vision Learners, 2022, section 3; Xie et al., SimMIM, 2022
        ("l1").
    """
    _checks.float_tensor("pred", pred, "[N, (L or M), D]")
    if loss not in LOSSES:
        raise ValueError(f"loss: got {loss!r}, want {', '.join(map(repr, LOSSES))}")
    if isinstance(beta, bool) or not isinstance(beta, (int, float)) or not 0 < beta < math.inf:
        raise ValueError(f"beta: got {beta!r}, want a finite number > 0")
    video, patch, channels_last = _targets(images, patch_size, channels_last)
    size, tokens = video.shape[1] * math.prod(patch), tokens_of(video, patch)
    if pred.shape[0] != video.shape[0] or pred.shape[2] != size:
        raise ValueError(f"pred: got shape {tuple(pred.shape)}, want [{video.shape[0]}, L or M, {size}]")
    if pred.device != video.device:
        raise ValueError(f"pred: got device {pred.device}, want that of the images, {video.device}")
    if norm_pix and size == 1:
        raise ValueError("norm_pix: got True for patches of one number, which have no variance; want False")
    if video.dtype == torch.float64 and pred.dtype != torch.float64:
        raise TypeError(f"images: got float64 for {pred.dtype} predictions, want images.float()")
    ids, weights = _chosen(masked, pred, tokens)
    scale, shift = scale_and_shift(video, mean, std)
    with_grad = pred.requires_grad and torch.is_grad_enabled()
    found: Tensor = torch.ops.fastssl.masked_mse(
        pred, video, ids, weights, patch, LOSSES.index(loss), float(beta), bool(norm_pix), channels_last, scale, shift,
        with_grad, _backend.requested(),
    )[0]  # fmt: skip
    return found


def _targets(images: Tensor, patch_size: PatchSize | None, channels_last: bool) -> tuple[Tensor, list[int], bool]:
    """Images [N, C, T, H, W] and their patch; features [N, L, D] are L patches of one pixel and D channels."""
    if patch_size is not None:
        video = as_video(images)
        return video, patch_sides(patch_size, video), bool(channels_last)
    if not isinstance(images, Tensor) or images.ndim != 3 or images.dtype not in PIXELS[1:]:
        raise ValueError("patch_size: got None, want one for images; without it the targets are float [N, L, D]")
    return as_video(images.transpose(1, 2).unsqueeze(2)), [1, 1, 1], True


def _chosen(masked: object, pred: Tensor, tokens: int) -> tuple[Tensor | None, Tensor | None]:
    """Ids of the rows of `pred`, or weights float [N, L]."""
    if not isinstance(masked, Tensor):
        raise TypeError(f"masked: got {type(masked).__name__}, want a mask [N, L] or int64 ids [N, M]")
    exact = torch.float64 if pred.dtype == torch.float64 else torch.float32
    if masked.dtype == torch.int64:
        _checks.token_ids("masked", masked, pred, "[N, M]", tokens)
        if pred.shape[1] == masked.shape[1]:
            return masked, None
        if pred.shape[1] != tokens:
            raise ValueError(f"pred: got {pred.shape[1]} rows, want M = {masked.shape[1]} or L = {tokens}")
        # Ids that name no token fall into a column of their own. Twice the same id counts once.
        place = torch.where((masked < 0) | (masked >= tokens), tokens, masked)
        weights = torch.zeros((pred.shape[0], tokens + 1), dtype=exact, device=pred.device).scatter(1, place, 1.0)
        return None, weights[:, :tokens]
    if masked.dtype != torch.bool and not masked.is_floating_point():
        raise TypeError(f"masked: got dtype {masked.dtype}, want bool or float (a mask), or int64 (ids)")
    if masked.shape != (pred.shape[0], tokens) or pred.shape[1] != tokens:
        raise ValueError(
            f"masked: got a mask {tuple(masked.shape)} for {pred.shape[1]} predictions, want [N, L] = "
            f"({pred.shape[0]}, {tokens}) and L predictions"
        )
    if masked.device != pred.device:
        raise ValueError(f"masked: got device {masked.device}, want {pred.device}")
    return None, masked.detach().to(exact)


def _forward(
    pred: Tensor, images: Tensor, ids: Tensor | None, weights: Tensor | None, patch: list[int], loss: int, beta: float,
    norm_pix: bool, channels_last: bool, scale: list[float], shift: list[float], with_grad: bool, backend: str,
) -> Any:  # fmt: skip
    kernels = _backend.select("masked_mse", pred, backend)
    return kernels.masked_mse_fwd(
        pred, images, ids, weights, patch, loss, beta, norm_pix, channels_last, scale, shift, with_grad
    )


def _fake(
    pred: Tensor, images: Tensor, ids: Tensor | None, weights: Tensor | None, patch: list[int], loss: int, beta: float,
    norm_pix: bool, channels_last: bool, scale: list[float], shift: list[float], with_grad: bool, backend: str,
) -> Any:  # fmt: skip
    exact = torch.float64 if pred.dtype == torch.float64 else torch.float32
    kept = torch.float32 if pred.dtype == torch.float16 else pred.dtype
    return pred.new_empty((), dtype=exact), pred.new_empty(pred.shape if with_grad else (0,), dtype=kept)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.dtype, ctx.backend = inputs[0].dtype, inputs[-1]
    # Not marked as without derivative: a second derivative then meets the refusal below, and is not silently 0.
    ctx.save_for_backward(output[1])
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad: Tensor | None, *unused: Any) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 13
    (unit,) = ctx.saved_tensors
    found = times(unit, grad, ctx.dtype, ctx.backend, torch.ops.fastssl.masked_mse_backward)
    return found, *(None,) * 12


define(
    "masked_mse(Tensor pred, Tensor images, Tensor? ids, Tensor? weights, int[] patch, int loss, float beta,"
    " bool norm_pix, bool channels_last, float[] scale, float[] shift, bool with_grad, str backend)"
    " -> (Tensor loss, Tensor grad_pred)",
    _forward, _fake, _differentiate, _save,
)  # fmt: skip
define_times("masked_mse_backward", "masked_mse")
