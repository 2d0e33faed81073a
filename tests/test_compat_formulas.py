"""The stand-ins for what cannot be installed: against eager formulas, and against libraries that they are equal to."""

from __future__ import annotations

import compat_formulas as formulas
import lightly.loss
import pytest
import pytorch_metric_learning.losses as pml
import torch
import torch.nn.functional as F
from drop_in import assert_same, views
from hypothesis import given, settings
from hypothesis import strategies as st

from fastssl.losses.compat import moco_v3, solo
from fastssl.losses.compat.supcon import SupConLoss

SEEDS, TAUS = st.integers(0, 2**32), st.sampled_from([1.0, 0.5, 0.1, 0.07])
ROWS, WIDTHS = st.integers(2, 40), st.integers(2, 20)
any_problem = settings(max_examples=60, deadline=None)


@any_problem
@given(n=st.integers(1, 40), d=WIDTHS, tau=TAUS, seed=SEEDS, kind=st.sampled_from(["views", "few", "one", "four"]))
def test_simclr(n: int, d: int, tau: float, seed: int, kind: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    z = torch.cat(views(n, d, generator))
    few = torch.randint(-(2**40), 2**40, (max(1, n // 4),), generator=generator)
    indexes = {
        "views": torch.randperm(n, generator=generator).repeat(2),
        "few": few[torch.randint(len(few), (n,), generator=generator)].repeat_interleave(2),
        "one": torch.zeros(2 * n, dtype=torch.int64),
        "four": (torch.arange(2 * n) // 4).flip(0) if n % 2 == 0 else torch.arange(n).repeat(2),
    }[kind]
    calls = (lambda z, f=f: f(z, indexes, tau) for f in (formulas.simclr, solo.simclr_loss_func))
    assert_same(*calls, [z], 1 / tau, f"{kind} {tau}")


def test_simclr_in_several_blocks() -> None:
    generator = torch.Generator().manual_seed(0)
    for indexes in (torch.randperm(700, generator=generator) % 350, torch.arange(2600) % 2):
        z = torch.randn(len(indexes), 6, generator=generator).double()
        calls = (lambda z, f=f: f(z, indexes, 0.2) for f in (formulas.simclr, solo.simclr_loss_func))  # noqa: B023
        assert_same(*calls, [z], 5.0, "blocks")


def test_simclr_of_views_is_ntxent() -> None:
    for tau in (0.5, 0.1):
        z = views(30, 8, torch.Generator())
        ours = lambda x, y: solo.simclr_loss_func(torch.cat([x, y]), torch.arange(30).repeat(2), tau)  # noqa: B023, E731
        assert_same(lightly.loss.NTXentLoss(tau), ours, z, 1 / tau)


def test_simclr_does_not_overflow() -> None:
    z = torch.cat(views(20, 8, torch.Generator())).requires_grad_()
    exact = solo.simclr_loss_func(z, torch.arange(20).repeat(2), 0.005)
    found = solo.simclr_loss_func(z.float(), torch.arange(20).repeat(2), 0.005)
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=0)
    assert torch.autograd.grad(found, z)[0].isfinite().all()
    assert solo.simclr_loss_func(z, torch.arange(40)) == torch.inf  # no positives


@any_problem
@given(n=ROWS, k=st.integers(1, 50), d=WIDTHS, tau=TAUS, seed=SEEDS, unit=st.booleans())
def test_queue(n: int, k: int, d: int, tau: float, seed: int, unit: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    tensors = [*views(n, d, generator), torch.randn(k, d, generator=generator).double()]
    tensors = [F.normalize(x.float(), dim=1).double() if unit else x for x in tensors]
    tensors[2] = tensors[2].T.contiguous()
    calls = (lambda *x, f=f: f(*x, tau) for f in (formulas.queue, solo.mocov2plus_loss_func))
    largest = max(x.norm(dim=0 if i == 2 else 1).max().item() for i, x in enumerate(tensors))
    assert_same(*calls, tensors, largest**2 / tau, f"{tau}", grads=[True, True, seed % 2 == 0])


@any_problem
@given(n=ROWS, d=WIDTHS, tau=TAUS, seed=SEEDS)
def test_one_direction(n: int, d: int, tau: float, seed: int) -> None:
    z = views(n, d, torch.Generator().manual_seed(seed))
    exact = lambda q, k: formulas.one_direction(q, k.detach(), tau) * (2 * tau)  # noqa: E731
    assert_same(exact, lambda q, k: solo.mocov3_loss_func(q, k, tau), z, 1 / tau, f"MoCo v3 {tau}")
    assert_same(exact, lambda q, k: moco_v3.contrastive_loss(q, k, T=tau), z, 1 / tau, f"MoCo v3 {tau}")
    calls = (lambda q, k, f=f: f(q, k, tau) for f in (formulas.one_direction, solo.nnclr_loss_func))
    assert_same(*calls, z, 1 / tau, f"NNCLR {tau}")


@any_problem
@given(n=ROWS, d=WIDTHS, seed=SEEDS, weights=st.tuples(*[st.sampled_from([0.0, 0.005, 1.0, 25.0])] * 3))
def test_no_negatives(n: int, d: int, seed: int, weights: tuple[float, float, float]) -> None:
    z = views(n, d, torch.Generator().manual_seed(seed))
    spread, shortest = torch.stack(z).std(1).min().item(), torch.stack(z).norm(dim=2).min().item()
    calls = (lambda x, y, f=f: f(x, y, *weights) for f in (formulas.vicreg, solo.vicreg_loss_func))
    assert_same(*calls, z, where="VICReg", term=16 * sum(weights) / n)
    calls = (lambda x, y, f=f: f(x, y, *weights[:2]) for f in (formulas.barlow, solo.barlow_loss_func))
    assert_same(*calls, z, where="Barlow Twins", term=8 * weights[1] * (1 + weights[0] * d) / n / spread)
    cosine = lambda p, z: F.cosine_similarity(p, z.detach(), -1).mean()  # noqa: E731
    for simplified in (True, False):
        calls = (lambda p, z: 2 - 2 * cosine(p, z)), (lambda p, z: solo.byol_loss_func(p, z, simplified))  # noqa: B023
        assert_same(*calls, z, where="BYOL", term=8 / n / shortest)
        calls = (lambda p, z: -cosine(p, z)), (lambda p, z: solo.simsiam_loss_func(p, z, simplified))  # noqa: B023
        assert_same(*calls, z, where="SimSiam", term=8 / n / shortest)


def test_no_negatives_against_lightly() -> None:
    """With the factors by which solo-learn's differ."""
    z = views(12, 6, torch.Generator())
    ours = lambda x, y: solo.barlow_loss_func(x, y) / 0.025  # noqa: E731
    assert_same(lightly.loss.BarlowTwinsLoss(), ours, z, where="Barlow Twins", term=1.0)
    assert_same(lightly.loss.VICRegLoss(mu_param=50.0), solo.vicreg_loss_func, z, where="VICReg", term=20.0)


@any_problem
@given(n=st.integers(1, 5), side=st.integers(1, 4), patch=st.integers(1, 5), seed=SEEDS, normalize=st.booleans())
def test_mae(n: int, side: int, patch: int, seed: int, normalize: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(n, 3, side * patch, side * patch, generator=generator).double()
    pred = torch.randn(n, side**2, 3 * patch**2, generator=generator).double()
    mask = (torch.rand(n, side**2, generator=generator) < 0.7).double()
    mask[0, 0] = 1
    for kind in (torch.float64, torch.int64):
        chosen = mask.to(kind)
        calls = (
            lambda p, f=f: f(images.to(p), p, chosen, patch, normalize)  # noqa: B023
            for f in (formulas.mae, solo.mae_loss_func)
        )
        assert_same(*calls, [pred], where=f"MAE {kind}", term=10.0 / pred.numel())


@any_problem
@given(
    images=st.integers(2, 12), n_views=st.integers(1, 4), d=WIDTHS, tau=TAUS, seed=SEEDS, unit=st.booleans(),
    mode=st.sampled_from(["all", "one"]), kind=st.sampled_from([None, "labels", "column", "floats", "mask", "weights"]),
    base=st.sampled_from([0.07, 1.0]),
)  # fmt: skip
def test_supcon(
    images: int, n_views: int, d: int, tau: float, seed: int, unit: bool, mode: str, kind: str | None, base: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(images, n_views, d, generator=generator)
    features = F.normalize(features, dim=2).double() if unit else features.double()
    labels = torch.randint(max(1, images // 2), (images,), generator=generator)
    mask = torch.rand(images, images, generator=generator)
    mask = mask if kind == "weights" else (mask < 0.4).float()
    mine = {None: {}, "mask": {"mask": mask}, "weights": {"mask": mask}, "floats": {"labels": labels / 3},
            "labels": {"labels": labels}, "column": {"labels": labels[:, None]}}[kind]  # fmt: skip
    theirs = labels if kind in ("labels", "column", "floats") else None, mask if kind in ("mask", "weights") else None
    loss = SupConLoss(tau, mode, base)
    largest = features.norm(dim=2).max().item() ** 2
    assert_same(
        lambda x: formulas.supcon(x, *theirs, tau, mode, base), lambda x: loss(x, **mine), [features],
        max(1.0, largest) / tau * max(1.0, tau / base), f"{kind} {mode} {tau}",
    )  # fmt: skip


def test_supcon_against_pml() -> None:
    features, labels = torch.randn(15, 2, 8).double(), torch.randint(4, (15,))
    unit = lambda x: F.normalize(x, dim=2)  # noqa: E731
    ours = lambda x: SupConLoss(0.1, base_temperature=0.1)(unit(x), labels)  # noqa: E731
    original = lambda x: pml.SupConLoss(0.1)(x.transpose(0, 1).flatten(0, 1), labels.repeat(2))  # noqa: E731
    assert_same(original, ours, [features], 10.0)
    ours = lambda x: SupConLoss(0.1, base_temperature=0.1)(unit(x).unflatten(2, (2, 4)))  # noqa: E731
    original = lambda x: lightly.loss.NTXentLoss(0.1)(x[:, 0], x[:, 1])  # noqa: E731
    assert_same(original, ours, [features], 10.0)


F0, M0 = torch.randn(4, 2, 3), torch.ones(4, 4)
Z = torch.randn(4, 3)


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: SupConLoss(contrast_mode="two"), ValueError, "contrast_mode: got 'two'"),
        (lambda: SupConLoss()(Z), ValueError, r"features: got \(4, 3\), want \[B, V, ...\]"),
        (lambda: SupConLoss()(F0, torch.zeros(3)), ValueError, r"labels: got shape \(3,\), want \[4\]"),
        (lambda: SupConLoss()(F0, torch.zeros(4), M0), ValueError, "mask: got one beside labels"),
        (lambda: SupConLoss()(F0, mask=M0[:3]), ValueError, r"mask: got shape \(3, 4\), want \[4, 4\]"),
        (lambda: SupConLoss()(F0, [0, 0, 1, 1]), TypeError, "labels: got list"),
        (lambda: solo.simclr_loss_func(Z, torch.arange(3)), ValueError, r"indexes: got shape \(3,\), want \[4\]"),
        (lambda: solo.mocov2plus_loss_func(Z, Z, Z), ValueError, "negative_keys: got width 4"),
        (lambda: solo.mae_loss_func(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), Z, Z, 2), TypeError, "imgs: got dtype"),
        (lambda: moco_v3.contrastive_loss(Z, Z[:2]), ValueError, "positive_key: got shape"),
    ],
)
def test_bad_input(call, error: type[Exception], said: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=said):
        call()
