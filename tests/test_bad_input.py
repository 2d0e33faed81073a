"""Bad input to the ops and losses: one sentence with the argument, what it got and what it wants."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

import fastssl
from fastssl.functional import (
    blockwise_masking,
    gather_tokens,
    mask_patchify,
    masked_mse,
    multiblock_masking,
    ntxent,
    random_masking,
    restore_tokens,
    text_masking,
)

good = torch.randn(4, 3)
meta = torch.empty(4, 3, device="meta")
tokens, ids = torch.randn(2, 5, 3), torch.tensor([[0, 3, -1], [2, 1, 4]])
restore, token = torch.tensor([[0, 2, 1, 3], [1, 0, 3, 2]]), torch.zeros(3)
images, pred = torch.zeros(2, 3, 4, 6, dtype=torch.uint8), torch.zeros(2, 6, 12)
mask, floats = torch.ones(2, 6, dtype=torch.bool), torch.zeros(2, 3, 4, 6)
words = torch.zeros(2, 5, dtype=torch.int64)

# call, error, argument, got, want
TABLE: list[tuple[Callable[[], Any], type[Exception], str, str, str]] = [
    (lambda: ntxent([[1.0]], good), TypeError, "z0", "list", "torch.Tensor"),
    (lambda: ntxent(good, None), TypeError, "z1", "NoneType", "torch.Tensor"),
    (lambda: ntxent(good.long(), good), TypeError, "z0", "torch.int64", "float32"),
    (lambda: ntxent(good, good.bool()), TypeError, "z1", "torch.bool", "float32"),
    (lambda: ntxent(good.to(torch.complex64), good), TypeError, "z0", "torch.complex64", "float32"),
    (lambda: ntxent(good, good.double()), TypeError, "z1", "torch.float64", "the dtype of z0, torch.float32"),
    (lambda: ntxent(good[0], good[0]), ValueError, "z0", r"\(3,\)", r"\[N, d\]"),
    (lambda: ntxent(good[None], good[None]), ValueError, "z0", r"\(1, 4, 3\)", r"\[N, d\]"),
    (lambda: ntxent(good, good[:2]), ValueError, "z1", r"\(2, 3\)", r"\(4, 3\)"),
    (lambda: ntxent(good, good[:, :2]), ValueError, "z1", r"\(4, 2\)", r"\(4, 3\)"),
    (lambda: ntxent(good[:0], good[:0]), ValueError, "z0", r"\(0, 3\)", "N >= 1"),
    (lambda: ntxent(good[:, :0], good[:, :0]), ValueError, "z0", r"\(4, 0\)", "d >= 1"),
    (lambda: ntxent(good, meta), ValueError, "z1", "meta", "the device of z0, cpu"),
    (lambda: ntxent(good, good, 0), ValueError, "temperature", "0", "> 0"),
    (lambda: ntxent(good, good, -0.5), ValueError, "temperature", "-0.5", "> 0"),
    (lambda: ntxent(good, good, math.nan), ValueError, "temperature", "nan", "finite"),
    (lambda: ntxent(good, good, math.inf), ValueError, "temperature", "inf", "finite"),
    (lambda: ntxent(good, good, "hot"), TypeError, "temperature", "str", "number"),
    (lambda: ntxent(good, good, None), TypeError, "temperature", "NoneType", "number"),
    (lambda: ntxent(good, good, True), TypeError, "temperature", "bool", "number"),
    (lambda: ntxent(good, good, torch.tensor(0.0)), ValueError, "temperature", "0.0", "> 0"),
    (lambda: ntxent(good, good, torch.tensor([0.5])), ValueError, "temperature", r"\(1,\)", "0-d"),
    (lambda: ntxent(good, good, torch.tensor(1)), ValueError, "temperature", "int64", "float"),
    (lambda: ntxent(good, good, torch.empty((), device="meta")), ValueError, "temperature", "meta", "cpu"),
    (lambda: fastssl.use_backend("fortran"), ValueError, "name", "'fortran'", "'triton'"),
    (lambda: fastssl.NTXentLoss(temperature=0.0), ValueError, "temperature", "0.0", "> 0"),
    (lambda: fastssl.NTXentLoss(temperature="hot"), TypeError, "temperature", "str", "number"),
    (lambda: fastssl.NTXentLoss(memory_bank_size=64), ValueError, "memory_bank_size", "64", "rows, width"),
    (lambda: fastssl.NTXentLoss(gather_distributed="mpi"), ValueError, "gather_distributed", "'mpi'", "'ring'"),
    (lambda: fastssl.NTXentLoss()(good, good[:1]), ValueError, "z1", r"\(1, 3\)", r"\(4, 3\)"),
]

# The same for the ops of masked training.
MASKING: list[tuple[Callable[[], Any], type[Exception], str, str, str]] = [
    (lambda: random_masking(0, 4), ValueError, "n", "0", "int >= 1"),
    (lambda: random_masking(2.0, 4), ValueError, "n", "2.0", "int >= 1"),
    (lambda: random_masking(1, 0), ValueError, "length", "0", "int >= prefix_tokens"),
    (lambda: random_masking(1, 3, prefix_tokens=3), ValueError, "length", "3", "= 4"),
    (lambda: random_masking(1, 2.5), ValueError, "length", "2.5", "int"),
    (lambda: random_masking(1, 3, prefix_tokens=-1), ValueError, "prefix_tokens", "-1", r"int in \[0"),
    (lambda: random_masking(1, 3, 1), ValueError, "mask_ratio", "1", r"\[0, 1\)"),
    (lambda: random_masking(1, 3, -0.1), ValueError, "mask_ratio", "-0.1", r"\[0, 1\)"),
    (lambda: random_masking(1, 3, math.nan), ValueError, "mask_ratio", "nan", r"\[0, 1\)"),
    (lambda: random_masking(1, 3, "most"), TypeError, "mask_ratio", "str", r"\[0, 1\)"),
    (lambda: random_masking(2, 3, [0.5]), ValueError, "mask_ratio", "1 numbers", "n = 2"),
    (lambda: random_masking(2, 3, [0.5, 1.5]), ValueError, "mask_ratio", "1.5", r"\[0, 1\)"),
    (lambda: random_masking(2, 3, torch.zeros(2, 1)), (ValueError, TypeError), "mask_ratio", "", ""),
    (lambda: random_masking(2, 3, torch.empty(2, device="meta")), ValueError, "mask_ratio", "meta", "CPU"),
    (lambda: random_masking(1, 3, noise=[[1.0]]), TypeError, "noise", "list", "Tensor"),
    (lambda: random_masking(1, 3, noise=torch.zeros(1, 3).long()), TypeError, "noise", "int64", "float"),
    (lambda: random_masking(2, 3, noise=torch.zeros(1, 3)), ValueError, "noise", r"\(1, 3\)", r"\(2, 3\)"),
    (
        lambda: random_masking(2, 3, noise=torch.zeros(2, 3), prefix_tokens=1),
        ValueError, "noise", r"\(2, 3\)", r"\(2, 2\)",
    ),
    (lambda: random_masking(1, 3, noise=torch.zeros(1, 3), seed=1), ValueError, "seed", "noise", "one"),
    (lambda: random_masking(1, 3, seed=0.5), ValueError, "seed", "0.5", "64-bit integer"),
    (lambda: random_masking(1, 3, seed=True), ValueError, "seed", "True", "64-bit integer"),
    (lambda: random_masking(1, 3, seed=2**64), ValueError, "seed", "18446744073709551616", "64-bit"),
    (lambda: random_masking(1, 3, seed=torch.zeros(2).long()), ValueError, "seed", r"\(2,\)", r"\[\]"),
    (lambda: random_masking(1, 3, seed=torch.zeros(())), ValueError, "seed", "float32", "int64"),
    (lambda: random_masking(2, 3, sample_ids=[0, 1]), TypeError, "sample_ids", "list", r"int64 tensor \[2\]"),
    (lambda: random_masking(2, 3, sample_ids=ids[0]), ValueError, "sample_ids", r"\(3,\)", r"\[2\]"),
    (lambda: random_masking(2, 3, sample_ids=torch.zeros(2)), ValueError, "sample_ids", "float32", "int64"),
    (lambda: random_masking(1, 3, view=-1), ValueError, "view", "-1", r"int in \[0"),
    (lambda: random_masking(1, 3, view=2**32), ValueError, "view", "4294967296", r"int in \[0"),
    (lambda: multiblock_masking(0, (4, 4)), ValueError, "n", "0", "int >= 1"),
    (lambda: multiblock_masking(1, 14), ValueError, "grid", "14", r"\(H, W\)"),
    (lambda: multiblock_masking(1, (4, 0)), ValueError, "grid", "0", "int >= 1"),
    (lambda: multiblock_masking(1, (1, 2, 3, 4)), ValueError, "grid", r"\(1, 2, 3, 4\)", r"\(T, H, W\)"),
    (lambda: multiblock_masking(1, (4, 4), num_blocks=0), ValueError, "num_blocks", "0", "int >= 1"),
    (lambda: multiblock_masking(1, (4, 4), scale=(0.2, 0.1)), ValueError, "scale", r"\(0.2, 0.1\)", "low <= high"),
    (lambda: multiblock_masking(1, (4, 4), scale=(0.2, 1.1)), ValueError, "scale", "1.1", "<= 1"),
    (lambda: multiblock_masking(1, (4, 4), scale=0.2), ValueError, "scale", "0.2", "two numbers"),
    (lambda: multiblock_masking(1, (4, 4), aspect_ratio=(0, 1)), ValueError, "aspect_ratio", "0", "0 < low"),
    (lambda: multiblock_masking(1, (4, 4), aspect_ratio=(1, math.inf)), ValueError, "aspect_ratio", "inf", "two"),
    (lambda: multiblock_masking(1, (4, 4), aspect_ratio=(1, math.nan)), ValueError, "aspect_ratio", "nan", "two"),
    (lambda: multiblock_masking(1, (4, 4), temporal_scale=(1, 2)), ValueError, "temporal_scale", "2", "<= 1"),
    (lambda: multiblock_masking(1, (4, 4), seed="a"), ValueError, "seed", "'a'", "64-bit integer"),
    (lambda: multiblock_masking(1, (4, 4), sample_ids=ids), ValueError, "sample_ids", r"\(2, 3\)", r"\[1\]"),
    (lambda: blockwise_masking(1, (2, 4, 4), 3), ValueError, "grid", r"\(2, 4, 4\)", r"\(H, W\)"),
    (lambda: blockwise_masking(1, (4, 4), -1), ValueError, "num_masked", "-1", r"int in \[0, 16\]"),
    (lambda: blockwise_masking(1, (4, 4), 17), ValueError, "num_masked", "17", r"int in \[0, 16\]"),
    (lambda: blockwise_masking(1, (4, 4), 2.0), ValueError, "num_masked", "2.0", "int"),
    (lambda: blockwise_masking(2, (4, 4), torch.zeros(2)), ValueError, "num_masked", "float32", r"int64 \[2\]"),
    (lambda: blockwise_masking(2, (4, 4), torch.tensor([3])), ValueError, "num_masked", r"\(1,\)", r"\[2\]"),
    (lambda: blockwise_masking(1, (4, 4), 3, min_patches=0), ValueError, "min_patches", "0", "int >= 1"),
    (lambda: blockwise_masking(1, (4, 4), 3, max_patches=0), ValueError, "max_patches", "0", "int >= 1"),
    (lambda: blockwise_masking(1, (4, 4), 3, aspect_ratio=(2, 1)), ValueError, "aspect_ratio", "2", "low <= high"),
    (lambda: text_masking([[1]], 1, 5), TypeError, "tokens", "list", r"int64 tensor \[n, T\]"),
    (lambda: text_masking(words.int(), 1, 5), ValueError, "tokens", "int32", r"int64 \[n, T\]"),
    (lambda: text_masking(words[0], 1, 5), ValueError, "tokens", r"\(5,\)", r"\[n, T\]"),
    (lambda: text_masking(words[:, :0], 1, 5), ValueError, "tokens", r"\(2, 0\)", "none empty"),
    (lambda: text_masking(words, 5, 5), ValueError, "mask_token_id", "5", r"\[0, 4\]"),
    (lambda: text_masking(words, 0, 0), ValueError, "vocab_size", "0", r"\[1"),
    (lambda: text_masking(words, 1, 5, mask_prob=1.5), ValueError, "mask_prob", "1.5", r"\[0, 1\]"),
    (lambda: text_masking(words, 1, 5, mask_prob=None), TypeError, "mask_prob", "NoneType", "number"),
    (lambda: text_masking(words, 1, 5, random_prob=0.3), ValueError, "random_prob", "0.3", "at most 1"),
    (lambda: text_masking(words, 1, 5, special_tokens=words), ValueError, "special_tokens", "int64", "bool"),
    (
        lambda: text_masking(words, 1, 5, special_tokens=words[0] > 0),
        ValueError, "special_tokens", r"\(5,\)", r"\(2, 5\)",
    ),
    (lambda: text_masking(words, 1, 5, ignore_index=0.5), ValueError, "ignore_index", "0.5", "int"),
    (lambda: gather_tokens("x", ids), TypeError, "x", "str", "Tensor"),
    (lambda: gather_tokens(tokens.long(), ids), TypeError, "x", "int64", "float32"),
    (lambda: gather_tokens(tokens[0], ids), ValueError, "x", r"\(5, 3\)", r"\[N, P \+ L, D\]"),
    (lambda: gather_tokens(tokens[:0], ids[:0]), ValueError, "x", r"\(0, 5, 3\)", r"\[N"),
    (lambda: gather_tokens(tokens, ids.int()), TypeError, "ids", "int32", "int64"),
    (lambda: gather_tokens(tokens, [[0]]), TypeError, "ids", "list", "int64"),
    (lambda: gather_tokens(tokens, ids[:1]), ValueError, "ids", r"\(1, 3\)", "N = 2"),
    (lambda: gather_tokens(tokens, ids[0]), ValueError, "ids", r"\(3,\)", r"\[N, K\]"),
    (lambda: gather_tokens(tokens, ids + 1), ValueError, "ids", "5", "0 to 4"),
    (lambda: gather_tokens(tokens, ids - 1), ValueError, "ids", "-2", "-1 for none"),
    (lambda: gather_tokens(tokens, ids, prefix_tokens=1), ValueError, "ids", "4", "0 to 3"),
    (lambda: gather_tokens(tokens, ids.to("meta")), ValueError, "ids", "meta", "cpu"),
    (lambda: gather_tokens(tokens, ids, prefix_tokens=6), ValueError, "prefix_tokens", "6", r"\[0, 5\]"),
    (lambda: gather_tokens(tokens, ids, prefix_tokens=-1), ValueError, "prefix_tokens", "-1", r"\[0, 5\]"),
    (lambda: restore_tokens(tokens.bool(), restore, token), TypeError, "visible", "bool", "float32"),
    (lambda: restore_tokens(tokens[0], restore, token), ValueError, "visible", r"\(5, 3\)", r"\[N, P \+ K, D\]"),
    (lambda: restore_tokens(tokens, restore.float(), token), TypeError, "ids_restore", "float32", "int64"),
    (lambda: restore_tokens(tokens, restore[:1], token), ValueError, "ids_restore", r"\(1, 4\)", "N = 2"),
    (lambda: restore_tokens(tokens, restore, None), TypeError, "mask_token", "NoneType", "float tensor"),
    (lambda: restore_tokens(tokens, restore, token.long()), TypeError, "mask_token", "int64", "float tensor"),
    (lambda: restore_tokens(tokens, restore, token[:2]), ValueError, "mask_token", r"\(2,\)", r"\[3\]"),
    (lambda: restore_tokens(tokens, restore, token, good[:3]), ValueError, "pos", r"\(3, 3\)", r"\[4, 3\]"),
    (lambda: restore_tokens(tokens, restore, token, meta), ValueError, "pos", "meta", "cpu"),
    (lambda: restore_tokens(tokens, restore, token, prefix_tokens=6), ValueError, "prefix_tokens", "6", r"\[0, 5\]"),
    (lambda: mask_patchify("cat.jpg", ids, 2), TypeError, "images", "str", "tensor"),
    (lambda: mask_patchify(images.int(), ids, 2), TypeError, "images", "int32", "uint8"),
    (lambda: mask_patchify(images[0], ids, 2), ValueError, "images", r"\(3, 4, 6\)", r"\[N, C, H, W\]"),
    (lambda: mask_patchify(images[:0], ids[:0], 2), ValueError, "images", r"\(0, 3, 4, 6\)", "none empty"),
    (lambda: mask_patchify(floats.clone().requires_grad_(), ids, 2), ValueError, "images", "grad", "detach"),
    (lambda: mask_patchify(images, ids, 4), ValueError, "patch_size", "4", r"divisor of the images' \(1, 4, 6\)"),
    (lambda: mask_patchify(images, ids, 0), ValueError, "patch_size", "0", "int >= 1"),
    (lambda: mask_patchify(images, ids, 2.0), ValueError, "patch_size", "2.0", "int"),
    (lambda: mask_patchify(images, ids, (1, 2, 2, 2)), ValueError, "patch_size", r"\(1, 2, 2, 2\)", "int"),
    (lambda: mask_patchify(images, ids, True), ValueError, "patch_size", "True", "int"),
    (lambda: mask_patchify(images, ids + 2, 2), ValueError, "ids_keep", "6", "0 to 5"),
    (lambda: mask_patchify(images, ids[:1], 2), ValueError, "ids_keep", r"\(1, 3\)", "N = 2"),
    (lambda: mask_patchify(images, ids, 2, good), ValueError, "pos", r"\(4, 3\)", "L = 6"),
    (lambda: mask_patchify(images, ids, 2, words), TypeError, "pos", "int64", "floats"),
    (lambda: mask_patchify(images, ids, 2, torch.empty(6, 2, device="meta")), ValueError, "pos", "meta", "cpu"),
    (lambda: mask_patchify(images, ids, 2, mean=[0.5]), ValueError, "mean", "1 numbers", "3, one a channel"),
    (lambda: mask_patchify(images, ids, 2, std=[1, 0, 1]), ValueError, "std", "0", "> 0"),
    (lambda: mask_patchify(images[:, :2], ids, 2), ValueError, "mean", "None for images of 2 channels", "2 numbers"),
    (lambda: mask_patchify(images, ids, 2, dtype=torch.int8), ValueError, "dtype", "int8", "float16"),
    (lambda: masked_mse(pred.long(), images, mask, 2), TypeError, "pred", "int64", "float32"),
    (lambda: masked_mse(pred[0], images, mask, 2), ValueError, "pred", r"\(6, 12\)", r"\[N, L or M, D\]"),
    (lambda: masked_mse(pred[..., :9], images, mask, 2), ValueError, "pred", r"\(2, 6, 9\)", r"\[2, L or M, 12\]"),
    (lambda: masked_mse(pred[:1], images, mask, 2), ValueError, "pred", r"\(1, 6, 12\)", r"\[2, L or M, 12\]"),
    (lambda: masked_mse(pred.to("meta"), images, mask, 2), ValueError, "pred", "meta", "cpu"),
    (lambda: masked_mse(pred, images, mask), ValueError, "patch_size", "None", "images"),
    (lambda: masked_mse(pred, images, mask, 5), ValueError, "patch_size", "5", "divisor"),
    (lambda: masked_mse(pred, images, mask, 2, loss="huber"), ValueError, "loss", "'huber'", "'smooth_l1'"),
    (lambda: masked_mse(pred, images, mask, 2, beta=0), ValueError, "beta", "0", "> 0"),
    (lambda: masked_mse(pred, images, mask, 2, beta=math.inf), ValueError, "beta", "inf", "finite"),
    (lambda: masked_mse(pred, floats.double(), mask, 2), TypeError, "images", "float64", r"images.float\(\)"),
    (lambda: masked_mse(pred, images, None, 2), TypeError, "masked", "NoneType", "mask"),
    (lambda: masked_mse(pred, images, mask.int(), 2), TypeError, "masked", "int32", "bool or float"),
    (lambda: masked_mse(pred, images, mask[:, :5], 2), ValueError, "masked", r"\(2, 5\)", r"\(2, 6\)"),
    (lambda: masked_mse(pred[:, :5], images, mask, 2), ValueError, "masked", "5 predictions", "L predictions"),
    (lambda: masked_mse(pred[:, :5], images, ids, 2), ValueError, "pred", "5 rows", "M = 3 or L = 6"),
    (lambda: masked_mse(pred, images, ids + 2, 2), ValueError, "masked", "6", "0 to 5"),
    (lambda: masked_mse(pred, images, mask.to("meta"), 2), ValueError, "masked", "meta", "cpu"),
    (lambda: masked_mse(tokens[..., :1], tokens[..., :1], mask[:, :5]), ValueError, "norm_pix", "True", "False"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "argument", "got", "want"), TABLE + MASKING)
def test_one_clear_sentence(
    call: Callable[[], Any], error: type[Exception], argument: str, got: str, want: str
) -> None:
    with pytest.raises(error, match=rf"{argument}: got .*{got}.* want .*{want}") as info:
        call()
    assert "\n" not in str(info.value)


def test_device_tensor_that_is_not_checked_gives_nan() -> None:
    # What an accelerator does with a bad temperature tensor, which nobody reads on the host.
    from fastssl.kernels.torch.ntxent import ntxent_fwd

    for tau in (0.0, -0.5, math.nan):
        assert ntxent_fwd(good, good, torch.tensor(tau))[0].isnan()
