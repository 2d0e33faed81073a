"""Visible patches of images: docstring, checks, schema, fake, autograd. The copying is in the kernels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import _backend, _checks
from ._patches import PatchSize, as_video, patch_sides, patches_dtype, scale_and_shift, tokens_of
from ._registration import define

_backend.register(
    "mask_patchify",
    triton=_backend.Kernel(_backend.FLOATS),
    cpp=_backend.Kernel(_backend.FLOATS),
    torch=_backend.Kernel((torch.float64, *_backend.FLOATS)),
)


def mask_patchify(
    images: Tensor,
    ids_keep: Tensor,
    patch_size: PatchSize,
    pos: Tensor | None = None,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    channels_last: bool = False,
    dtype: torch.dtype | None = None,
) -> Any:
    """Cut the visible patches out of images, normalised on the way, so that a patch embedding sees nothing else.

    With a convolution of equal kernel and stride as the embedding, ``torch.addmm(positions, patches,
    weight.flatten(1).T)`` on flattened rows is what it would give for these patches, plus their positions; its bias can
    be added to `pos`.

    Args:
        images: uint8 or float [N, C, H, W], or videos [N, C, T, H, W]; any C and strides. They are data: the op has no
            derivative by them.
        ids_keep: int64 [N, K], patches of each image in any order, numbered row by row, frame by frame; -1 for none,
            which gives zeros.
        patch_size: p, (p, q) or (t, p, q) in pixels; a divisor of the images.
        pos: float [L, D] or [1, L, D], the positions of all L patches, to gather with them.
        mean, std: one number a channel, for values in [0, 1]. By default ImageNet's for uint8 images of 1 or 3
            channels, while floats are taken as normalised already.
        channels_last: elements of a patch in the order (t, p, q, c) of MAE's targets; by default (c, t, p, q), the
            order of a convolution's weights.
        dtype: of the patches; by default that of autocast where it is on, else that of float images, else float32.

    Returns:
        patches [N, K, C t p q]; or, with `pos`, the pair of them and positions [N, K, D] = pos[ids_keep].

    Raises:
        TypeError, ValueError: an argument is of another type, shape or range. Ids on a GPU are not looked at: what is
            out of range there counts as -1.
        RuntimeError: the backend that is forced cannot run this call.

    Differentiable in `pos`, deterministically and without atomics. Reads the bytes of the visible patches alone.
    """
    video = as_video(images)
    patch = patch_sides(patch_size, video)
    tokens = tokens_of(video, patch)
    _checks.token_ids("ids_keep", ids_keep, video, "[N, K]", tokens)
    if pos is not None:
        if not isinstance(pos, Tensor) or not pos.is_floating_point():
            raise TypeError(f"pos: got {pos.dtype if isinstance(pos, Tensor) else type(pos).__name__}, want floats")
        if pos.ndim not in (2, 3) or pos.shape[-2] != tokens or pos.numel() != tokens * pos.shape[-1]:
            raise ValueError(f"pos: got shape {tuple(pos.shape)}, want [L, D] or [1, L, D] with L = {tokens}")
        if pos.device != video.device:
            raise ValueError(f"pos: got device {pos.device}, want {video.device}")
        pos = pos.reshape(tokens, -1)
    scale, shift = scale_and_shift(video, mean, std)
    patches, positions = torch.ops.fastssl.mask_patchify(
        video,
        ids_keep,
        patch,
        pos,
        scale,
        shift,
        bool(channels_last),
        patches_dtype(dtype, video),
        _backend.requested(),
    )
    return patches if pos is None else (patches, positions)


def _forward(
    images: Tensor, ids: Tensor, patch: list[int], pos: Tensor | None, scale: list[float], shift: list[float],
    channels_last: bool, dtype: torch.dtype, backend: str,
) -> Any:  # fmt: skip
    exact = torch.float64 in (dtype, images.dtype, None if pos is None else pos.dtype)
    like = images.new_empty(0, dtype=torch.float64 if exact else dtype)
    kernels = _backend.select("mask_patchify", like, backend)
    return kernels.mask_patchify_fwd(images, ids, patch, pos, scale, shift, channels_last, dtype)


def _fake(
    images: Tensor, ids: Tensor, patch: list[int], pos: Tensor | None, scale: list[float], shift: list[float],
    channels_last: bool, dtype: torch.dtype, backend: str,
) -> Any:  # fmt: skip
    shape = (*ids.shape, images.shape[1] * math.prod(patch))
    positions = images.new_empty(0, dtype=torch.float32) if pos is None else pos.new_empty((*ids.shape, pos.shape[1]))
    return images.new_empty(shape, dtype=dtype), positions


def _backward(grad: Tensor, ids: Tensor, tokens: int, backend: str) -> Tensor:
    out: Tensor = _backend.select("mask_patchify", grad, backend).mask_patchify_bwd(grad, ids, tokens)
    return out


def _backward_fake(grad: Tensor, ids: Tensor, tokens: int, backend: str) -> Tensor:
    exact = torch.float64 if grad.dtype == torch.float64 else torch.float32
    return grad.new_empty((tokens, grad.shape[2]), dtype=exact)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ids, pos = inputs[1], inputs[3]
    ctx.tokens, ctx.dtype = (None, None) if pos is None else (pos.shape[0], pos.dtype)
    ctx.backend = inputs[-1]
    ctx.save_for_backward(ids)
    ctx.mark_non_differentiable(output[0])
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, unused: Tensor | None, grad: Tensor | None) -> tuple[Tensor | None, ...]:
    (ids,) = ctx.saved_tensors
    found = None
    if grad is not None and ctx.needs_input_grad[3]:
        found = torch.ops.fastssl.mask_patchify_backward(grad, ids, ctx.tokens, ctx.backend).to(ctx.dtype)
    return None, None, None, found, *(None,) * 5


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, ids, _, ctx.backend = inputs
    ctx.dtype = grad.dtype
    ctx.save_for_backward(ids)


def _differentiate_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    # The backward pass is linear, and its transpose gathers.
    (ids,) = ctx.saved_tensors
    rows = grad.to(ctx.dtype).expand(ids.shape[0], *grad.shape)
    return torch.ops.fastssl.gather_tokens(rows, ids, 0, ctx.backend), None, None, None


define(
    "mask_patchify(Tensor images, Tensor ids, int[] patch, Tensor? pos, float[] scale, float[] shift,"
    " bool channels_last, ScalarType dtype, str backend) -> (Tensor patches, Tensor positions)",
    _forward, _fake, _differentiate, _save,
)  # fmt: skip
define(
    "mask_patchify_backward(Tensor grad, Tensor ids, SymInt tokens, str backend) -> Tensor",
    _backward, _backward_fake, _differentiate_backward, _save_backward,
)  # fmt: skip
