"""Cross-entropy with sparse soft targets in Triton, one launch a pass: a program some places and all their classes.

Up to 1024 classes stay in registers, where each is read once, and the targets are taken off there: no atomics.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from . import launch

LOWEST = tl.constexpr(-3.4e38)  # below every finite logit


def sparse_cross_entropy_fwd(
    logits: torch.Tensor, index: torch.Tensor, weight: torch.Tensor, along_rows: bool, share: float, early: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return losses [N, P], float64 log-sum-exps [N, P], and `share` times the gradient of the sum, or [0]."""
    n, classes, places = logits.shape
    losses = torch.empty((n, places), dtype=torch.float32, device=logits.device)
    lse = torch.empty((n, places), dtype=torch.float64, device=logits.device)
    grad = _like(logits, along_rows) if early else logits.new_empty(0)
    block = launch.classes_tile(classes, along_rows)
    with torch.cuda.device_of(logits):
        sparse_cross_entropy_kernel[(_programs(n, places, along_rows, block),)](
            logits, index, weight, losses, lse, grad, share, n, places, index.shape[1], *logits.stride(),
            *index.stride(), *weight.stride(), CLASSES=classes, ALONG_ROWS=along_rows, WITH_GRAD=early, **block,
        )  # fmt: skip
    return losses, lse, grad


def sparse_cross_entropy_bwd(
    upstream: torch.Tensor, logits: torch.Tensor, index: torch.Tensor, weight: torch.Tensor, lse: torch.Tensor,
    along_rows: bool, of_logits: bool, of_weight: bool,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Return the gradients of logits and weights, or [0], for upstream gradients [N, P] of the losses."""
    n, classes, places = logits.shape
    grad = _like(logits, along_rows) if of_logits else logits.new_empty(0)
    grad_weight = torch.empty(
        (n, index.shape[1], places) if of_weight else 0, dtype=torch.float32, device=logits.device
    )
    block = launch.classes_tile(classes, along_rows)
    with torch.cuda.device_of(logits):
        sparse_cross_entropy_grad_kernel[(_programs(n, places, along_rows, block),)](
            upstream, logits, index, weight, lse.contiguous(), grad, grad_weight, n, places, index.shape[1],
            *upstream.stride(), *logits.stride(), *index.stride(), *weight.stride(), CLASSES=classes,
            ALONG_ROWS=along_rows, OF_LOGITS=of_logits, OF_WEIGHT=of_weight, **block,
        )  # fmt: skip
    return grad, grad_weight


def _like(logits: torch.Tensor, along_rows: bool) -> torch.Tensor:
    """Dense and empty; no view, as the backward pass writes into it."""
    n, classes, places = logits.shape
    strides = (classes * places, 1, classes) if along_rows else (classes * places, places, 1)
    return logits.new_empty_strided((n, classes, places), strides)


def _programs(n: int, places: int, along_rows: bool, block: dict[str, int]) -> int:
    size = block["BLOCK_P"]
    return triton.cdiv(n * places, size) if along_rows else n * triton.cdiv(places, size)


@triton.jit
def places_of(n, places, ALONG_ROWS: tl.constexpr, BLOCK_P: tl.constexpr):
    """Samples and places of a program, and which of them there are."""
    if ALONG_ROWS:
        number = tl.program_id(0).to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)
        return number // places, (number % places).to(tl.int32), number < n.to(tl.int64) * places
    else:  # of one sample, side by side
        blocks = tl.cdiv(places, BLOCK_P)
        place = tl.program_id(0) % blocks * BLOCK_P + tl.arange(0, BLOCK_P)
        return (tl.program_id(0) // blocks).to(tl.int64), place, place < places


@triton.jit
def target(index, weight, k, inside, stride_index, stride_weight, CLASSES: tl.constexpr):
    """Class and weight number k of places; 0 and 0 where an index names no class."""
    found = tl.load(index + k * stride_index, mask=inside, other=-1)
    named = (found >= 0) & (found < CLASSES)
    w = tl.load(weight + k * stride_weight, mask=inside, other=0.0)
    return tl.where(named, found, 0).to(tl.int32), tl.where(named, w, 0.0), named


@triton.jit
def load_classes(z, start, inside, stride_class, CLASSES: tl.constexpr, BLOCK_Q: tl.constexpr):
    """Logits [places, classes] in float32, -inf beyond the last class; their classes."""
    q = start + tl.arange(0, BLOCK_Q)
    at = z[:, None] + (q.to(tl.int64) * stride_class)[None, :]
    mask = inside[:, None] & (q < CLASSES)[None, :]
    return tl.load(at, mask=mask, other=float("-inf")).to(tl.float32), q, mask


@triton.jit
def store_gradient(
    grad, p, q, mask, index, weight, count, inside, factor, share, stride_index, stride_weight, stride_class,
    CLASSES: tl.constexpr,
):  # fmt: skip
    """Store p times `factor`, less `share` times each weight at its class."""
    found = p * factor[:, None]
    for k in range(0, count):
        i, w, named = target(index, weight, k, inside, stride_index, stride_weight, CLASSES)
        found -= tl.where((i[:, None] == q[None, :]) & named[:, None], (w * share)[:, None], 0.0)
    at = grad[:, None] + (q.to(tl.int64) * stride_class)[None, :]
    tl.store(at, found.to(grad.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["n", "count", "share", "stride_index_n", "stride_weight_n"])
def sparse_cross_entropy_kernel(
    logits,  # [N, Q, P], any strides
    index,  # [N, K, P] int32 or int64, any strides
    weight,  # [N, K, P] float32, any strides
    losses,  # out [N, P] float32
    lses,  # out [N, P] float64
    grad,  # out [N, Q, P] in the order of the logits
    share,
    n,
    places,
    count,
    stride_n,
    stride_class,
    stride_place,
    stride_index_n,
    stride_index,
    stride_index_place,
    stride_weight_n,
    stride_weight,
    stride_weight_place,
    CLASSES: tl.constexpr,
    ALONG_ROWS: tl.constexpr,
    WITH_GRAD: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_Q: tl.constexpr,
):
    """One program a block of places."""
    sample, place, inside = places_of(n, places, ALONG_ROWS, BLOCK_P)
    z = logits + sample * stride_n + place.to(tl.int64) * stride_place
    index += sample * stride_index_n + place.to(tl.int64) * stride_index_place
    weight += sample * stride_weight_n + place.to(tl.int64) * stride_weight_place

    x, q, mask = load_classes(z, 0, inside, stride_class, CLASSES, BLOCK_Q)
    top = tl.maximum(tl.max(x, 1), LOWEST)
    e = tl.exp(x - top[:, None])
    total = tl.sum(e, 1)
    for start in range(BLOCK_Q, CLASSES, BLOCK_Q):
        x, q, mask = load_classes(z, start, inside, stride_class, CLASSES, BLOCK_Q)
        new = tl.maximum(top, tl.max(x, 1))
        total = total * tl.exp(top - new) + tl.sum(tl.exp(x - new[:, None]), 1)
        top = new

    rest = tl.log(total)
    loss = tl.zeros((BLOCK_P,), tl.float32)
    whole = tl.zeros((BLOCK_P,), tl.float32)
    for k in range(0, count):
        i, w, named = target(index, weight, k, inside, stride_index, stride_weight, CLASSES)
        picked = tl.load(z + i.to(tl.int64) * stride_class, mask=inside & named, other=0.0).to(tl.float32)
        loss += w * (top - picked + rest)
        whole += w
    at = sample * places + place
    tl.store(losses + at, loss, mask=inside)
    tl.store(lses + at, top.to(tl.float64) + tl.log(total.to(tl.float64)), mask=inside)

    if WITH_GRAD:
        out = grad + sample * CLASSES * places + (place.to(tl.int64) * (CLASSES if ALONG_ROWS else 1))
        step = 1 if ALONG_ROWS else places
        factor = whole / total * share
        for start in range(0, CLASSES, BLOCK_Q):
            if CLASSES > BLOCK_Q:
                x, q, mask = load_classes(z, start, inside, stride_class, CLASSES, BLOCK_Q)
                e = tl.exp(x - top[:, None])
            store_gradient(
                out, e, q, mask, index, weight, count, inside, factor, share, stride_index, stride_weight, step, CLASSES
            )


@triton.jit(do_not_specialize=["n", "count", "stride_up_n", "stride_index_n", "stride_weight_n"])
def sparse_cross_entropy_grad_kernel(
    upstream,  # [N, P] float32, any strides
    logits,  # [N, Q, P], any strides
    index,  # [N, K, P] int32 or int64, any strides
    weight,  # [N, K, P] float32, any strides
    lses,  # [N, P] float64
    grad,  # out [N, Q, P] in the order of the logits
    grad_weight,  # out [N, K, P] float32
    n,
    places,
    count,
    stride_up_n,
    stride_up_place,
    stride_n,
    stride_class,
    stride_place,
    stride_index_n,
    stride_index,
    stride_index_place,
    stride_weight_n,
    stride_weight,
    stride_weight_place,
    CLASSES: tl.constexpr,
    ALONG_ROWS: tl.constexpr,
    OF_LOGITS: tl.constexpr,
    OF_WEIGHT: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_Q: tl.constexpr,
):
    """One program a block of places."""
    sample, place, inside = places_of(n, places, ALONG_ROWS, BLOCK_P)
    up = tl.load(upstream + sample * stride_up_n + place.to(tl.int64) * stride_up_place, mask=inside, other=0.0)
    z = logits + sample * stride_n + place.to(tl.int64) * stride_place
    index += sample * stride_index_n + place.to(tl.int64) * stride_index_place
    weight += sample * stride_weight_n + place.to(tl.int64) * stride_weight_place
    lse = tl.load(lses + sample * places + place, mask=inside, other=0.0)
    level = lse.to(tl.float32)

    whole = tl.zeros((BLOCK_P,), tl.float32)
    for k in range(0, count):
        i, w, named = target(index, weight, k, inside, stride_index, stride_weight, CLASSES)
        whole += w
        if OF_WEIGHT:
            picked = tl.load(z + i.to(tl.int64) * stride_class, mask=inside & named, other=0.0).to(tl.float64)
            found = tl.where(named, up * (lse - picked).to(tl.float32), 0.0)
            tl.store(grad_weight + (sample * count + k) * places + place, found, mask=inside)

    if OF_LOGITS:
        out = grad + sample * CLASSES * places + (place.to(tl.int64) * (CLASSES if ALONG_ROWS else 1))
        step = 1 if ALONG_ROWS else places
        factor = whole * up * tl.exp((level.to(tl.float64) - lse).to(tl.float32))
        for start in range(0, CLASSES, BLOCK_Q):
            x, q, mask = load_classes(z, start, inside, stride_class, CLASSES, BLOCK_Q)
            e = tl.exp(x - level[:, None])
            store_gradient(
                out, e, q, mask, index, weight, count, inside, factor, up, stride_index, stride_weight, step, CLASSES
            )
