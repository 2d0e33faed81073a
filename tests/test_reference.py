"""The specification itself, against explicit loops and worked examples."""

from __future__ import annotations

import math

import pytest
import torch

from fastssl import reference


def ntxent_by_loops(z0: torch.Tensor, z1: torch.Tensor, tau: float) -> float:
    rows = [*z0.tolist(), *z1.tolist()]
    n, m = len(z0), len(rows)

    def cosine(a: list[float], b: list[float]) -> float:
        norms = [max(math.sqrt(sum(x * x for x in v)), 1e-12) for v in (a, b)]
        return sum(x * y for x, y in zip(a, b, strict=True)) / (norms[0] * norms[1])

    total = 0.0
    for i in range(m):
        others = [math.exp(cosine(rows[i], rows[j]) / tau) for j in range(m) if j != i]
        total += math.log(sum(others)) - cosine(rows[i], rows[(i + n) % m]) / tau
    return total / m


@pytest.mark.parametrize(("n", "d"), [(1, 1), (1, 4), (2, 3), (5, 1), (7, 8)])
@pytest.mark.parametrize("tau", [1.0, 0.5, 0.07])
def test_ntxent_equals_loops(n: int, d: int, tau: float) -> None:
    z0, z1 = torch.randn(2, n, d, dtype=torch.float64)
    assert reference.ntxent(z0, z1, tau).item() == pytest.approx(ntxent_by_loops(z0, z1, tau), rel=1e-12, abs=1e-12)


def test_ntxent_gradcheck() -> None:
    z0, z1 = torch.randn(2, 4, 3, dtype=torch.float64).requires_grad_().unbind()
    assert torch.autograd.gradcheck(reference.ntxent, (z0, z1, torch.tensor(0.3, dtype=torch.float64)))


def test_worked_example() -> None:
    # One anchor, its positive and one negative, tau 0.5: the anchor's row of a batch of two pairs
    # in which the fourth embedding is so placed that it does not count.
    anchor, positive, negative = ([1.0, 0.0], [0.9, 0.1], [-0.8, 0.6])
    for candidate, exact in ((negative, 0.027284), ([0.7, 0.3], 0.621199)):
        scores = [
            torch.cosine_similarity(torch.tensor(anchor), torch.tensor(v), dim=0).item() / 0.5
            for v in (positive, candidate)
        ]
        loss = math.log(sum(map(math.exp, scores))) - scores[0]
        assert loss == pytest.approx(exact, abs=2e-6)


def test_collapsed_embeddings_give_chance_level() -> None:
    z = torch.ones(16, 4)
    assert reference.ntxent(z, z, 0.5).item() == pytest.approx(math.log(31), rel=1e-6)
