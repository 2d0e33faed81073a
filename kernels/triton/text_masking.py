"""Masked language modelling in Triton, one launch."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .draws import TEXT, id_of, key_of, words

BLOCK = 256  # tokens a program


def text_masking_fwd(
    tokens: torch.Tensor, special: torch.Tensor | None, seed: torch.Tensor, sample_ids: torch.Tensor | None,
    mask_token_id: int, vocab_size: int, thresholds: list[int], ignore_index: int, view: int,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Return inputs and labels int64 [n, T]; thresholds: floor(p 2^32) of choosing, replacing and a random token."""
    n, length = tokens.shape
    inputs, labels = (torch.empty((n, length), dtype=torch.int64, device=tokens.device) for _ in range(2))
    with torch.cuda.device_of(tokens):
        text_masking_kernel[(n * triton.cdiv(length, BLOCK),)](
            tokens, None if special is None else special.view(torch.uint8),
            seed if seed.device == tokens.device else int(seed), sample_ids, inputs, labels, length,
            mask_token_id, vocab_size, *thresholds, ignore_index, view, *tokens.stride(),
            *((0, 0) if special is None else special.stride()), 0 if sample_ids is None else sample_ids.stride(0),
            BLOCK=BLOCK,
        )  # fmt: skip
    return inputs, labels


@triton.jit(
    do_not_specialize=[
        "seed", "length", "mask_token_id", "vocab_size", "choose", "replace", "random", "ignore_index", "view",
        "stride_token_n", "stride_special_n",
    ]
)  # fmt: skip
def text_masking_kernel(
    tokens,  # [n, T] int64
    special,  # [n, T] bytes, or None
    seed,  # [] int64, or a number
    sample_ids,  # [n] int64, or None: 0, 1 ...
    inputs,  # out [n, T] int64
    labels,  # out [n, T] int64
    length,
    mask_token_id,
    vocab_size,
    choose,  # this and the following two: floor(p 2^32)
    replace,
    random,
    ignore_index,
    view,
    stride_token_n,
    stride_token_t,
    stride_special_n,
    stride_special_t,
    stride_ids,
    BLOCK: tl.constexpr,
):
    """One program a block of tokens of a sample."""
    blocks = tl.cdiv(length, BLOCK)
    sample = (tl.program_id(0) // blocks).to(tl.int64)
    at = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    inside = at < length
    w0, w1, w2, _ = words(key_of(seed), id_of(sample_ids, sample, stride_ids), view, TEXT, at)
    token = tl.load(tokens + sample * stride_token_n + at.to(tl.int64) * stride_token_t, mask=inside, other=0)
    chosen = w0.to(tl.int64) < choose.to(tl.int64)
    if special is not None:
        never = tl.load(special + sample * stride_special_n + at.to(tl.int64) * stride_special_t, mask=inside, other=0)
        chosen = chosen & (never == 0)
    action = w1.to(tl.int64)
    limit = replace.to(tl.int64)
    drawn = (w2.to(tl.int64) * vocab_size.to(tl.int64)) >> 32
    changed = tl.where(action < limit, mask_token_id.to(tl.int64), tl.where(action < limit + random, drawn, token))
    place = sample * length + at
    tl.store(inputs + place, tl.where(chosen, changed, token), mask=inside)
    tl.store(labels + place, tl.where(chosen, token, ignore_index.to(tl.int64)), mask=inside)
