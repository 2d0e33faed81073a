"""Every contrastive loss on the engine against its eager form in float64: accuracy, the op contract, bad input."""

from __future__ import annotations

import pytest
import torch
from accuracy import assert_close_to_exact
from conftest import DEVICES, runnable
from contrastive import CASES, Case, scale_of, term_sizes, values

import fastssl
from fastssl import functional, reference

TYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
on_backends = pytest.mark.parametrize(("device", "backend"), runnable("pairwise_logsumexp"))


def check(case: Case, n: int, d: int, dtype: torch.dtype, device: str = "cpu") -> None:
    """Hold a loss to the rule on one problem."""
    generator = torch.Generator().manual_seed(100 * n + d)
    # One value for every type.
    tensors = {
        name: x.to(dtype).double() if x.is_floating_point() else x for name, x in case.inputs(n, d, generator).items()
    }
    spec, form = getattr(reference, case.loss), getattr(functional, case.loss)
    exact = values(case, spec, tensors, torch.float64)
    eager = values(case, spec, tensors, dtype, device)
    kernel = values(case, form, tensors, dtype, device)
    assert_close_to_exact(
        kernel, eager, exact, term_sizes(case, tensors, exact), dtype, scale_of(case), f"{case} n {n} d {d}"
    )


@on_backends
@pytest.mark.parametrize("case", CASES, ids=str)
def test_accuracy(case: Case, device: str, backend: str, nan_filled: None) -> None:
    with fastssl.use_backend(backend):
        for n, d in ((2, 3), (7, 16), (33, 48), (130, 20)):
            check(case, n, d, torch.float32, device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_accuracy_over_types(case: Case, dtype: torch.dtype, device: str) -> None:
    for n, d in ((5, 8), (40, 32)):
        check(case, n, d, dtype, device)
