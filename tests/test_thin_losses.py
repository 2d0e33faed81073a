"""Losses without negatives: Barlow Twins, VICReg, cosine similarity, BYOL. What several processes give is in
test_compat_distributed.py.
"""

from __future__ import annotations

import lightly.loss
import pytest
import torch
import torch.nn.functional as F
from drop_in import assert_same, results, views
from hypothesis import given, settings
from hypothesis import strategies as st

from fastssl import losses

SEEDS, WIDTHS = st.integers(0, 2**32), st.integers(1, 40)
any_problem = settings(max_examples=40, deadline=None)
MODULES = (losses.BarlowTwinsLoss(), losses.VICRegLoss(), losses.NegativeCosineSimilarity(), losses.BYOLLoss())


@any_problem
@given(n=st.integers(2, 40), d=WIDTHS, seed=SEEDS, weight=st.sampled_from([0.0, 5e-3, 1.0]))
def test_same_as_lightly(n: int, d: int, seed: int, weight: float) -> None:
    z = views(n, d, torch.Generator().manual_seed(seed))
    spread, shortest = torch.stack(z).std(1).min().item(), torch.stack(z).norm(dim=2).min().item()
    terms = {
        "BarlowTwinsLoss": 8 * (1 + weight * d) / n / spread, "VICRegLoss": 8 * (26 + weight) / n,
        "NegativeCosineSimilarity": 8 / n / shortest,
    }  # fmt: skip
    given = {"BarlowTwinsLoss": (weight,), "VICRegLoss": (25.0, weight, 1.0), "NegativeCosineSimilarity": ()}
    for name, term in terms.items():
        pair = (getattr(module, name)(*given[name]) for module in (lightly.loss, losses))
        assert_same(*pair, z, where=name, term=term)


@any_problem
@given(n=st.integers(1, 40), d=WIDTHS, seed=SEEDS)
def test_byol(n: int, d: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = [*views(n, d, generator), *views(n, d, generator)]
    shortest = torch.stack(rows).norm(dim=2).min().item()

    def formula(p: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return (F.normalize(p, dim=1) - F.normalize(z.detach(), dim=1)).square().sum(1).mean()

    assert_same(formula, losses.BYOLLoss(), rows[:2], where="one", term=8 / n / shortest)
    both = lambda p0, z1, p1, z0: formula(p0, z1) + formula(p1, z0)  # noqa: E731
    assert_same(both, losses.BYOLLoss(), rows, where="both", term=8 / n / shortest)


def test_derivatives() -> None:
    z = [x.requires_grad_() for x in views(5, 4, torch.Generator())]
    for loss in MODULES[:3]:
        assert torch.autograd.gradcheck(loss, z)
        assert torch.autograd.gradgradcheck(loss, z)
    assert torch.autograd.grad(losses.BYOLLoss()(*z), z, allow_unused=True)[1] is None  # of the target


def test_barlow_twins_by_hand() -> None:
    """Two rows of features that are the same in one view, and opposite in the other, all standardised to 1 and -1."""
    a, b = torch.tensor([[1.0, 1.0], [-1.0, -1.0]]), torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    # c = [[1, -1], [1, -1]]: (1 - 1)^2 + (1 + 1)^2, and twice 1 beside the diagonal.
    torch.testing.assert_close(losses.BarlowTwinsLoss(0.5)(a, b), torch.tensor(5.0), rtol=1e-4, atol=0)


def test_vicreg_by_hand() -> None:
    a, b = torch.tensor([[0.5, 0.0], [-0.5, 0.0]]), torch.tensor([[2.0, 2.0], [-2.0, -2.0]])
    # mse: (2.25 + 4) / 2; variances 1/2, 0 and 8, 8; the covariances beside the diagonal 0 and 8.
    loss = losses.VICRegLoss(1.0, 0.0, 0.0), losses.VICRegLoss(0.0, 1.0, 0.0, eps=0), losses.VICRegLoss(0.0, 0.0, 1.0)
    wanted = 3.125, ((1 - 0.5**0.5) + 1) / 4, 64.0
    for module, value in zip(loss, wanted, strict=True):
        torch.testing.assert_close(module(a, b), torch.tensor(value), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("loss", MODULES, ids=lambda loss: type(loss).__name__)
def test_float32_of_half_precision_and_under_autocast(loss: torch.nn.Module, dtype: torch.dtype) -> None:
    z = [x.to(dtype).requires_grad_() for x in views(30, 16, torch.Generator())]
    exact = results(loss, [x.detach().double().requires_grad_() for x in z], torch.float64, 1.0)["loss"]
    value = loss(*z)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), exact, rtol=1e-5, atol=1e-6)
    assert torch.autograd.grad(value, z[0])[0].dtype == dtype
    with torch.autocast("cpu", torch.bfloat16):
        single = [x.float() for x in z]
        torch.testing.assert_close(loss(*single), value)


@pytest.mark.parametrize("loss", MODULES, ids=lambda loss: type(loss).__name__)
def test_compiles_whole(loss: torch.nn.Module) -> None:
    compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend="aot_eager")
    for n in (4, 9):
        z = [x.float() for x in views(n, 6, torch.Generator())]
        torch.testing.assert_close(compiled(*z), loss(*z))


@pytest.mark.parametrize("loss", MODULES, ids=lambda loss: type(loss).__name__)
def test_nan_stays_nan(loss: torch.nn.Module) -> None:
    z0, z1 = torch.randn(2, 6, 4)
    z0[3, 1] = torch.nan
    assert loss(z0, z1).isnan()


def test_strides_and_representation() -> None:
    z = torch.randn(2, 7, 12)
    for loss in MODULES:
        assert loss(z[0, :, ::2], z[1, :, ::2]) == loss(z[0, :, ::2].clone(), z[1, :, ::2].clone())
    assert repr(losses.BarlowTwinsLoss(1)) == "BarlowTwinsLoss(lambda_param=1, gather_distributed=False)"
    assert "mu_param=25.0" in repr(losses.VICRegLoss())
    assert repr(losses.NegativeCosineSimilarity(0)) == "NegativeCosineSimilarity(dim=0, eps=1e-08)"


Z = torch.randn(4, 3)


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: losses.BarlowTwinsLoss(gather_distributed="star"), ValueError, "gather_distributed: got 'star'"),
        (lambda: losses.BarlowTwinsLoss()(Z[:1], Z[:1]), ValueError, "z_a: got 1 row, want at least 2"),
        (lambda: losses.BarlowTwinsLoss()(Z[0], Z[0]), ValueError, r"z_a: got shape \(3,\), want \[N, D\]"),
        (lambda: losses.BarlowTwinsLoss()(Z, Z.long()), TypeError, "z_b: got torch.int64, want a float tensor"),
        (lambda: losses.VICRegLoss()(Z, None), TypeError, "z_b: got NoneType"),
        (lambda: losses.VICRegLoss()(Z, Z[:2]), ValueError, r"z_b: got \(2, 3\) on cpu, want"),
        (lambda: losses.VICRegLoss()(Z[:, :0], Z[:, :0]), ValueError, "want no axis of length 0"),
        (lambda: losses.VICRegLoss()(Z[0], Z[0]), ValueError, r"want \[N, ..., D\]"),
        (lambda: losses.NegativeCosineSimilarity()(Z, Z.long()), TypeError, "second argument: got torch.int64"),
        (lambda: losses.NegativeCosineSimilarity()(Z[:0], Z[:0]), TypeError, "want a float tensor that is not empty"),
        (lambda: losses.BYOLLoss()(Z, Z, Z), ValueError, "z0: got None, want both of p1 and z0"),
    ],
)
def test_bad_input(call, error: type[Exception], said: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=said):
        call()
