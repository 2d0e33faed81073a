"""Every contrastive loss on the engine against its eager form in float64: accuracy, the op contract, bad input."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from accuracy import assert_close_to_exact
from conftest import DEVICES, runnable
from contrastive import CASES, LOSSES, TAUS, Case, scale_of, term_sizes, values

import fastssl
from fastssl import functional, losses, reference

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


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", [c for c in CASES if c.scalars not in (TAUS[0], TAUS[2])], ids=str)
def test_compile_fullgraph(case: Case, device: str) -> None:
    torch._dynamo.reset()
    tensors = case.inputs(6, 8, torch.Generator().manual_seed(0))
    form = getattr(functional, case.loss)
    expected = values(case, form, tensors, torch.float32, device)
    found = values(case, torch.compile(form, fullgraph=True, backend="aot_eager"), tensors, torch.float32, device)
    for name, x in expected.items():
        torch.testing.assert_close(found[name], x, rtol=1e-4, atol=1e-5 * max(1, x.abs().max().item()), msg=name)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_autocast(case: Case, device: str) -> None:
    """The loss is float32, gradients have the types of their inputs, and values are those of bfloat16 embeddings."""
    tensors = case.inputs(12, 16, torch.Generator().manual_seed(0))
    form = getattr(functional, case.loss)
    with torch.autocast(device, torch.bfloat16):
        found = values(case, form, tensors, torch.float32, device)
    by_hand = values(case, form, tensors, torch.bfloat16, device)
    for name, x in by_hand.items():
        if name == "weights":  # which is no embedding: it keeps its digits
            continue
        torch.testing.assert_close(found[name], x, rtol=2e-2, atol=1e-2 * x.abs().max().item(), msg=name)


@pytest.mark.parametrize("loss", LOSSES)
def test_types_of_results(loss: str) -> None:
    case = next(c for c in CASES if c.loss == loss)
    tensors = case.inputs(6, 8, torch.Generator().manual_seed(0))
    for dtype in TYPES:
        leaves = {k: x.to(dtype) if x.is_floating_point() else x for k, x in tensors.items()}
        out = case.call(getattr(functional, loss), leaves, case.scalars)
        assert out.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_nan_and_inf_reach_the_loss(loss: str, poison: float) -> None:
    case = next(c for c in CASES if c.loss == loss and c.options.get("reduction", "mean") == "mean")
    tensors = case.inputs(6, 8, torch.Generator().manual_seed(0))
    for name, x in tensors.items():
        if x.is_floating_point() and name != "queue":
            broken = {**tensors, name: x.clone()}
            broken[name].view(-1)[-1] = poison
            assert not case.call(getattr(functional, loss), broken, case.scalars).isfinite(), name


@pytest.mark.parametrize("tau", [0.0625, 0.02])
def test_small_losses_keep_their_digits(tau: float) -> None:
    """Where the positive takes nearly all of the probability: in float32, 1 - p alone would be noise."""
    z = torch.randn(40, 64)
    x, y = (z.clone().requires_grad_() for _ in range(2))
    a, b = (z.double().requires_grad_() for _ in range(2))
    scores = F.normalize(a) @ F.normalize(b).T / tau
    others = scores.masked_fill(torch.eye(40, dtype=torch.bool), -math.inf)
    rows, columns = (F.softplus(others.logsumexp(axis) - scores.diag()).mean() for axis in (1, 0))
    for found, exact in (
        (functional.info_nce(x, y, temperature=tau), rows),
        (functional.clip(x, y, 1 / tau), (rows + columns) / 2),
    ):
        assert 0 < exact < 1e-2
        torch.testing.assert_close(found.double(), exact.detach(), rtol=1e-4, atol=0)
        wanted = torch.autograd.grad(exact, (a, b), retain_graph=True)
        for g, e in zip(torch.autograd.grad(found, (x, y)), wanted, strict=True):
            torch.testing.assert_close(g.double(), e, rtol=1e-3, atol=1e-4 * e.abs().max().item())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_scaled_half_gradients_neither_underflow_nor_overflow(dtype: torch.dtype) -> None:
    """2048 rows: an unscaled gradient of the mean is below what float16 can hold; a scaler's factor brings it back."""
    x, y = (torch.randn(2048, 16).to(dtype).requires_grad_() for _ in range(2))
    for loss in (functional.clip, functional.siglip, functional.info_nce, functional.dcl):
        grads = torch.autograd.grad(loss(x, y) * 2.0**16, (x, y))
        exact = torch.autograd.grad(loss(x.double(), y.double()) * 2.0**16, (x, y))
        for g, e in zip(grads, exact, strict=True):
            assert g.isfinite().all()
            assert (g.double() - e.double()).norm() < 1e-2 * e.double().norm()


def test_rows_without_positives_or_negatives() -> None:
    z = torch.randn(6, 4, requires_grad=True)
    unique, same = torch.arange(6), torch.zeros(6, dtype=torch.int64)
    for loss in (functional.supcon, functional.multi_positive_ntxent):
        for labels in (unique, same, torch.tensor([0, 0, 1, 2, 3, 4])):
            out = loss(z, labels)
            (grad,) = torch.autograd.grad(out, z)
            assert out.isfinite()
            assert grad.isfinite().all()
        assert loss(z, unique) == 0
        assert loss(z[:1], unique[:1]) == 0
    assert functional.multi_positive_ntxent(z, same).abs() < 1e-6
    assert functional.info_nce(z[:1], z[:1]) == 0
    assert functional.clip(z[:1], z[:1]) == 0


def test_labels_may_be_any_integers() -> None:
    z, labels = torch.randn(40, 8), torch.randint(5, (40,))
    for loss in (functional.supcon, functional.multi_positive_ntxent):
        for other in (labels.int(), labels.to(torch.uint8), labels * 2**40 - 2**60, -labels):
            torch.testing.assert_close(loss(z, other), loss(z, labels), rtol=0, atol=0)


def test_linear_cross_entropy_is_that_of_torch() -> None:
    x, weight, bias = torch.randn(50, 24), torch.randn(97, 24), torch.randn(97)
    target = torch.randint(97, (50,))
    target[::4] = -100
    for reduction in ("mean", "sum", "none"):
        want = torch.nn.functional.cross_entropy(x @ weight.T + bias, target, reduction=reduction)
        found = functional.linear_cross_entropy(x, weight, target, bias, reduction=reduction)
        torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-5)
    nothing = torch.full((50,), -100)
    assert functional.linear_cross_entropy(x, weight, nothing).isnan()  # as in torch.nn.functional
    head = losses.LinearCrossEntropyLoss(24, 97)
    head(x, target).backward()
    assert head.weight.grad is not None
    assert head.bias.grad is not None
    assert set(head.state_dict()) == {"weight", "bias"}


@pytest.mark.parametrize("loss", LOSSES)
def test_modules_are_their_functions(loss: str) -> None:
    names = {
        "info_nce": "InfoNCE", "moco": "MoCo", "clip": "CLIP", "siglip": "SigLIP", "supcon": "SupCon", "dcl": "DCL",
        "multi_positive_ntxent": "MultiPositiveNTXent", "dclw": "DCLW", "cpc": "CPC", "alignment": "Alignment",
        "hard_negative_ntxent": "HardNegativeNTXent", "uniformity": "Uniformity",
    }  # fmt: skip
    if loss == "linear_cross_entropy":
        return
    made = getattr(losses, f"{names[loss]}Loss")
    case = next(c for c in CASES if c.loss == loss)
    tensors = case.inputs(8, 6, torch.Generator().manual_seed(0))
    settings = {k: v for k, v in {**case.options, **case.scalars}.items() if not k.startswith("logit")}
    rest = {k: v for k, v in case.scalars.items() if k.startswith("logit")}
    plain = Case(loss, case.inputs, {}, {}, case.listed)
    criterion = made(**settings)
    want = case.call(getattr(functional, loss), tensors, case.scalars)
    torch.testing.assert_close(plain.call(criterion, tensors, rest), want)
    assert all(name in repr(criterion) for name in settings)
    if "temperature" in settings:
        learnt = made(temperature=torch.nn.Parameter(torch.tensor(0.2)))
        assert [name for name, _ in learnt.named_parameters()] == ["temperature"]
        with pytest.raises(ValueError, match="temperature: got 0"):
            made(temperature=0)
    with pytest.raises(ValueError, match="gather_distributed: got 'all'"):
        made(gather_distributed="all")


Z, IDS = torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: functional.info_nce(Z, Z[:3]), ValueError, "positive_key: got"),
        (lambda: functional.info_nce(Z, Z, torch.zeros(4, 2)), ValueError, "negative_keys: got width 2"),
        (lambda: functional.info_nce(Z, Z, Z, negative_mode="paired"), ValueError, "negative_keys: got shape"),
        (lambda: functional.info_nce(Z, Z, Z, symmetric=True), ValueError, "symmetric: got True"),
        (lambda: functional.info_nce(Z, Z, reduction="max"), ValueError, "reduction: got 'max'"),
        (lambda: functional.info_nce(Z, Z, temperature=-1), ValueError, "temperature: got -1"),
        (lambda: functional.info_nce(Z, Z, gather_distributed="all"), ValueError, "gather_distributed: got 'all'"),
        (lambda: functional.moco(Z, Z, torch.zeros(5, 4)), ValueError, "query: got width 3 on cpu, want width 4"),
        (lambda: functional.clip(Z, Z.double()), TypeError, "text_features: got dtype torch.float64"),
        (lambda: functional.clip(Z, Z, math.inf), ValueError, "logit_scale: got inf"),
        (lambda: functional.siglip(Z, Z, labels=torch.zeros(3, dtype=torch.int64)), ValueError, "labels: got shape"),
        (lambda: functional.supcon(Z, torch.zeros(4)), TypeError, "labels: got dtype torch.float32"),
        (lambda: functional.supcon(Z[0], torch.zeros(1)), ValueError, "z: got shape"),
        (lambda: functional.dcl(Z[:1], Z[:1]), ValueError, "z0: got 1 pair, want at least 2"),
        (lambda: functional.dcl(Z, Z, weights=torch.zeros(3)), ValueError, "weights: got 3"),
        (lambda: functional.dclw(Z, Z, sigma=0), ValueError, "sigma: got 0"),
        (lambda: functional.hard_negative_ntxent(Z, Z, beta=-1), ValueError, "beta: got -1"),
        (lambda: functional.hard_negative_ntxent(Z, Z, tau_plus=1.0), ValueError, "tau_plus: got 1"),
        (lambda: functional.cpc(Z, Z), ValueError, "targets: got shape"),
        (lambda: functional.cpc([torch.zeros(2, 5, 3)], torch.zeros(2, 5, 3)), ValueError, r"predictions\[0\]: got"),
        (lambda: functional.alignment(Z, Z, alpha=0), ValueError, "alpha: got 0"),
        (lambda: functional.uniformity(Z[:1]), ValueError, "z: got 1 row"),
        (lambda: functional.uniformity(Z, t=0), ValueError, "t: got 0"),
        (lambda: functional.linear_cross_entropy(Z, Z, IDS[:3]), ValueError, "target: got"),
        (lambda: functional.linear_cross_entropy(Z, Z, IDS + 7), ValueError, "target: got values outside"),
        (lambda: functional.linear_cross_entropy(Z, Z, IDS, Z[0]), ValueError, "bias: got 3"),
    ],
)  # fmt: skip
def test_bad_input(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
