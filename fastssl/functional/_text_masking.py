"""Masks over text: docstring, checks, schema, fake. The draws are in the kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import _backend, _checks
from ._registration import define_data_op
from ._seeds import check_view, sample_ids_on, seed_or_random

_backend.register(
    "text_masking",
    triton=_backend.Kernel((torch.int64,)),
    cpp=_backend.Kernel((torch.int64,)),
    torch=_backend.Kernel((torch.int64,)),
)


def text_masking(
    tokens: Tensor,
    mask_token_id: int,
    vocab_size: int,
    *,
    mask_prob: float = 0.15,
    replace_prob: float = 0.8,
    random_prob: float = 0.1,
    special_tokens: Tensor | None = None,
    ignore_index: int = -100,
    seed: int | Tensor | None = None,
    sample_ids: Tensor | None = None,
    view: int = 0,
) -> tuple[Tensor, Tensor]:
    """Choose tokens for masked language modelling, and hide them as BERT does.

    Each token is chosen with probability `mask_prob`, independently. Of the chosen ones `replace_prob` become the mask
    token, `random_prob` a token uniform over the vocabulary, and the rest stay.

    Args:
        tokens: int64 [n, T], any strides.
        mask_token_id: of the mask token, in [0, vocab_size).
        vocab_size: of the vocabulary, >= 1.
        mask_prob, replace_prob, random_prob: in [0, 1], the last two at most 1 together.
        special_tokens: bool [n, T], True for tokens that are never chosen, such as padding and separators.
        ignore_index: the label of tokens that are not chosen; that of `torch.nn.functional.cross_entropy`.
        seed, sample_ids, view: as for `random_masking`.

    Returns:
        inputs int64 [n, T], and labels int64 [n, T]: the token where it was chosen, else `ignore_index`.

    Raises:
        TypeError, ValueError: an argument is of another type, shape or range.
        RuntimeError: the backend that is forced cannot run this call.

    The draws of token t come from Philox4x32-10 with counter (id, view, 67 + 256 t), the same on every backend.

    Source: Devlin et al., BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding, 2019,
    appendix A.1, with independent choices.
    """
    if not isinstance(tokens, Tensor):
        raise TypeError(f"tokens: got {type(tokens).__name__}, want an int64 tensor [n, T]")
    if tokens.dtype != torch.int64 or tokens.ndim != 2 or 0 in tokens.shape:
        raise ValueError(f"tokens: got {tokens.dtype} {tuple(tokens.shape)}, want int64 [n, T], none empty")
    _checks.int_in("vocab_size", vocab_size, 1, 2**31 - 1)
    _checks.int_in("mask_token_id", mask_token_id, 0, vocab_size - 1)
    _checks.int_in("ignore_index", ignore_index, -(2**63), 2**63 - 1)
    choose = _checks.fraction("mask_prob", mask_prob)
    replace, random = _checks.fraction("replace_prob", replace_prob), _checks.fraction("random_prob", random_prob)
    if replace + random > 1:
        raise ValueError(f"random_prob: got {random} beside replace_prob {replace}, want at most 1 together")
    if special_tokens is not None:
        if not isinstance(special_tokens, Tensor):
            raise TypeError(f"special_tokens: got {type(special_tokens).__name__}, want a bool tensor [n, T], or None")
        got, want = ((t.dtype, tuple(t.shape), t.device) for t in (special_tokens, tokens))
        want = (torch.bool, *want[1:])
        if got != want:
            raise ValueError("special_tokens: got {} {} on {}, want {} {} on {}".format(*got, *want))
    check_view(view)
    thresholds = [int(p * 2**32) for p in (choose, replace, random)]
    inputs, labels = torch.ops.fastssl.text_masking(
        tokens, special_tokens, seed_or_random(seed, tokens.device),
        sample_ids_on(sample_ids, tokens.shape[0], tokens.device), mask_token_id, vocab_size, thresholds, ignore_index,
        view, _backend.requested(),
    )  # fmt: skip
    return inputs, labels


def _forward(
    tokens: Tensor, special: Tensor | None, seed: Tensor, sample_ids: Tensor | None, mask_token_id: int,
    vocab_size: int, thresholds: list[int], ignore_index: int, view: int, backend: str,
) -> Any:  # fmt: skip
    return _backend.select("text_masking", tokens, backend).text_masking_fwd(
        tokens, special, seed, sample_ids, mask_token_id, vocab_size, thresholds, ignore_index, view
    )


def _fake(tokens: Tensor, *rest: object) -> Any:
    return tokens.new_empty(tokens.shape), tokens.new_empty(tokens.shape)


define_data_op(
    "text_masking(Tensor tokens, Tensor? special, Tensor seed, Tensor? sample_ids, int mask_token_id, int vocab_size,"
    " int[] thresholds, int ignore_index, int view, str backend) -> (Tensor inputs, Tensor labels)",
    _forward, _fake,
)  # fmt: skip
