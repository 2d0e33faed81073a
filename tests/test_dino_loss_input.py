"""Bad input to DINO's loss: one sentence with the argument, what it got and what it wants."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from fastssl.functional import dino_loss

GOOD, OTHER = torch.zeros(2, 4, 3), torch.zeros(2, 4, 3)
ONE = torch.zeros(1, 4, 3)
META = torch.empty(2, 4, 3, device="meta")
VIEW = torch.zeros(4, 3)

# call, error, argument, got, want
BAD: list[tuple[Callable[[], Any], type[Exception], str, str, str]] = [
    (lambda: dino_loss(None, GOOD), TypeError, "student_logits", "NoneType", r"\[V, B, K\] or a list"),
    (lambda: dino_loss(GOOD, "x"), TypeError, "teacher_logits", "str", r"\[V, B, K\] or a list"),
    (lambda: dino_loss(GOOD.long(), GOOD), TypeError, "student_logits", "int64", "float32"),
    (lambda: dino_loss(GOOD, GOOD.bool()), TypeError, "teacher_logits", "bool", "float32"),
    (lambda: dino_loss(VIEW, GOOD), ValueError, "student_logits", r"\(4, 3\)", r"\[V, B, K\]"),
    (lambda: dino_loss(GOOD, GOOD[None]), ValueError, "teacher_logits", r"\(1, 2, 4, 3\)", r"\[V, B, K\]"),
    (lambda: dino_loss(GOOD[:, :0], GOOD), ValueError, "student_logits", r"\(2, 0, 3\)", r"\[V, B, K\]"),
    (lambda: dino_loss(GOOD[:0], GOOD), ValueError, "student_logits", r"\(0, 4, 3\)", r"\[V, B, K\]"),
    (lambda: dino_loss(GOOD, GOOD[..., :0]), ValueError, "teacher_logits", r"\(2, 4, 0\)", r"\[V, B, K\]"),
    (lambda: dino_loss([], GOOD), ValueError, "student_logits", "empty list", "at least one view"),
    (lambda: dino_loss([VIEW, None], GOOD), TypeError, r"student_logits\[1\]", "NoneType", "torch.Tensor"),
    (lambda: dino_loss([VIEW, VIEW[0]], GOOD), ValueError, r"student_logits\[1\]", r"\(3,\)", r"\[B, K\]"),
    (lambda: dino_loss([VIEW, VIEW[:0]], GOOD), ValueError, r"student_logits\[1\]", r"\(0, 3\)", r"\[B, K\]"),
    (lambda: dino_loss([VIEW, VIEW[:, :2]], GOOD), ValueError, r"student_logits\[1\]", "2", "student_logits"),
    (lambda: dino_loss([VIEW, VIEW.half()], GOOD), TypeError, r"student_logits\[1\]", "float16", "float32"),
    (lambda: dino_loss(GOOD, [VIEW, META[0]]), ValueError, r"teacher_logits\[1\]", "meta", "cpu"),
    (lambda: dino_loss(GOOD, GOOD[..., :2]), ValueError, "teacher_logits", "width 2", "student_logits, 3"),
    (lambda: dino_loss(GOOD, META), ValueError, "teacher_logits", "meta", "cpu"),
    (lambda: dino_loss(GOOD, GOOD.double()), TypeError, "teacher_logits", "float64", "float64 for both"),
    (lambda: dino_loss(GOOD.double(), GOOD), TypeError, "teacher_logits", "float32", "float64 for both"),
    (lambda: dino_loss(ONE, ONE), ValueError, "skip_same_view", "one view on each side", "False"),
    (lambda: dino_loss([VIEW], ONE), ValueError, "skip_same_view", "one view on each side", "False"),
    (lambda: dino_loss(GOOD, OTHER, 0.5), TypeError, "center", "float", r"\[3\] or \[2, 3\]"),
    (lambda: dino_loss(GOOD, OTHER, torch.zeros(3).int()), TypeError, "center", "int32", r"\[3\] or \[2, 3\]"),
    (lambda: dino_loss(GOOD, OTHER, torch.zeros(4)), ValueError, "center", r"\(4,\)", r"\[3\] or \[2, 3\]"),
    (lambda: dino_loss(GOOD, OTHER, torch.zeros(1, 3)), ValueError, "center", r"\(1, 3\)", r"\[3\] or \[2, 3\]"),
    (lambda: dino_loss(GOOD, OTHER, META[0, 0]), ValueError, "center", "meta", "cpu"),
    (
        lambda: dino_loss(GOOD, OTHER, torch.zeros(3), soft_targets=True),
        ValueError, "center", "soft_targets", "None",
    ),
    (lambda: dino_loss(GOOD, OTHER, row_weights=[1.0] * 4), TypeError, "row_weights", "list", r"\[4\]"),
    (lambda: dino_loss(GOOD, OTHER, row_weights=torch.ones(4).long()), TypeError, "row_weights", "int64", r"\[4\]"),
    (lambda: dino_loss(GOOD, OTHER, row_weights=torch.ones(3)), ValueError, "row_weights", r"\(3,\)", r"\[4\]"),
    (lambda: dino_loss(GOOD, OTHER, row_weights=META[0, :, 0]), ValueError, "row_weights", "meta", "cpu"),
    (lambda: dino_loss(GOOD, [*OTHER, torch.zeros(6, 3)], row_weights=torch.ones(4)), ValueError, "row_weights",
     r"\(4,\)", r"\[6\]"),
    (lambda: dino_loss(GOOD, OTHER, None, 0), ValueError, "student_temp", "0", "> 0"),
    (lambda: dino_loss(GOOD, OTHER, None, math.nan), ValueError, "student_temp", "nan", "finite"),
    (lambda: dino_loss(GOOD, OTHER, None, "hot"), TypeError, "student_temp", "str", "number"),
    (lambda: dino_loss(GOOD, OTHER, None, 0.1, -0.04), ValueError, "teacher_temp", "-0.04", "> 0"),
    (lambda: dino_loss(GOOD, OTHER, None, 0.1, math.inf), ValueError, "teacher_temp", "inf", "finite"),
    (lambda: dino_loss(GOOD, OTHER, None, 0.1, torch.ones(1)), ValueError, "teacher_temp", r"\(1,\)", "0-d"),
    (lambda: dino_loss(GOOD, OTHER, None, 0.1, META[0, 0, 0]), ValueError, "teacher_temp", "meta", "cpu"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "argument", "got", "want"), BAD)
def test_bad_input(call: Callable[[], Any], error: type[Exception], argument: str, got: str, want: str) -> None:
    with pytest.raises(error, match=rf"{argument}: got .*{got}.*want .*{want}"):
        call()
