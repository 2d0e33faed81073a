"""Bad input to the ops and losses: one sentence with the argument, what it got and what it wants."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

import fastssl
from fastssl.functional import ntxent

good = torch.randn(4, 3)
meta = torch.empty(4, 3, device="meta")

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
    (lambda: fastssl.NTXentLoss(memory_bank_size=(64, 3)), NotImplementedError, "memory_bank_size", "64", "0"),
    (lambda: fastssl.NTXentLoss(gather_distributed=True), NotImplementedError, "gather_distributed", "True", "False"),
    (lambda: fastssl.NTXentLoss()(good, good[:1]), ValueError, "z1", r"\(1, 3\)", r"\(4, 3\)"),
]


@pytest.mark.parametrize(("call", "error", "argument", "got", "want"), TABLE)
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
