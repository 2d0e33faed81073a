"""The stand-ins for pytorch-metric-learning against the originals."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from drop_in import assert_same, results, views
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning import distances, losses, miners, reducers, regularizers

import fastssl
from fastssl.losses.compat import pytorch_metric_learning as here

NAMES = st.sampled_from(["NTXentLoss", "SupConLoss"])
SEEDS, TAUS = st.integers(0, 2**32), st.sampled_from([1.0, 0.1, 0.07])
any_problem = settings(max_examples=60, deadline=None)


def labels_of(kind: str, rows: int, generator: torch.Generator) -> torch.Tensor:
    """Labels of a few classes, of one, all different, or as floats."""
    few = torch.randint(0, max(2, rows // 3), (rows,), generator=generator)
    return {
        "few": few, "one": torch.zeros_like(few), "all": torch.arange(rows), "floats": few / 3, "int32": few.int()
    }[kind]  # fmt: skip


KINDS = st.sampled_from(["few", "few", "one", "all", "floats", "int32"])


@any_problem
@given(name=NAMES, m=st.integers(1, 40), d=st.integers(2, 20), tau=TAUS, kind=KINDS, seed=SEEDS)
def test_labels(name: str, m: int, d: int, tau: float, kind: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, labels = views(m, d, generator)[0], labels_of(kind, m, generator)
    pair = (getattr(module, name)(temperature=tau) for module in (losses, here))
    assert_same(*(lambda x, f=loss: f(x, labels) for loss in pair), [x], 1 / tau, f"{name} {kind} {tau}")


@any_problem
@given(
    name=NAMES, m=st.integers(1, 30), n=st.integers(1, 30), d=st.integers(2, 20), tau=TAUS, kind=KINDS, seed=SEEDS,
    fixed=st.booleans(),
)  # fmt: skip
def test_references(name: str, m: int, n: int, d: int, tau: float, kind: str, seed: int, fixed: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, y = views(m, d, generator)[0], views(n, d, generator)[0]
    labels, ref_labels = labels_of(kind, m, generator), labels_of(kind, n, generator)
    pair = (getattr(module, name)(temperature=tau) for module in (losses, here))
    calls = (lambda x, y, f=loss: f(x, labels, None, y, ref_labels) for loss in pair)
    assert_same(*calls, [x, y], 1 / tau, f"{name} {kind} {tau}", grads=[True, not fixed])


@any_problem
@given(name=NAMES, n=st.integers(2, 30), d=st.integers(2, 20), kind=KINDS, seed=SEEDS, given_again=st.booleans())
def test_references_with_the_same_labels(name: str, n: int, d: int, kind: str, seed: int, given_again: bool) -> None:
    """The original then takes pairs (i, i) for a row and itself."""
    generator = torch.Generator().manual_seed(seed)
    z, labels = views(n, d, generator), labels_of(kind, n, generator)
    pair = (getattr(module, name)() for module in (losses, here))
    calls = (lambda x, y, f=loss: f(x, labels, None, y, labels if given_again else None) for loss in pair)
    assert_same(*calls, z, 1 / 0.07, f"{name} {kind}")


@any_problem
@given(name=NAMES, n=st.integers(1, 30), d=st.integers(2, 20), tau=TAUS, seed=SEEDS, symmetric=st.booleans())
def test_self_supervised(name: str, n: int, d: int, tau: float, seed: int, symmetric: bool) -> None:
    z = views(n, d, torch.Generator().manual_seed(seed))
    pair = (module.SelfSupervisedLoss(getattr(module, name)(tau), symmetric) for module in (losses, here))
    assert_same(*pair, z, 1 / tau, f"{name} {symmetric} {tau}")


@any_problem
@given(
    name=NAMES, size=st.integers(7, 40), d=st.integers(2, 10), kind=KINDS, seed=SEEDS,
    batches=st.lists(st.integers(2, 7), min_size=1, max_size=6), masked=st.booleans(),
)  # fmt: skip
def test_memory(name: str, size: int, d: int, kind: str, seed: int, batches: list[int], masked: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    original, ours = (module.CrossBatchMemory(getattr(module, name)(0.1), d, size) for module in (losses, here))
    for rows in batches:
        x, labels = views(rows, d, generator)[0].requires_grad_(), labels_of(kind, rows, generator)
        mask = torch.rand(rows, generator=generator) < 0.5 if masked else None
        if mask is not None:
            mask[0] = True  # with none to take in, the original holds its empty memory for full
        wanted, found = (
            results(partial(memory, labels=labels, enqueue_mask=mask), [x], torch.float64)
            for memory in (original, ours)
        )
        for part in wanted:
            torch.testing.assert_close(found[part], wanted[part], rtol=1e-9, atol=1e-9)
        for part in ("embedding_memory", "label_memory"):
            torch.testing.assert_close(getattr(ours, part), getattr(original, part))


def test_memory_of_single_rows_has_no_positive_in_an_own_copy() -> None:
    x = torch.randn(1, 4, requires_grad=True)
    memory = here.CrossBatchMemory(here.NTXentLoss(0.1), 4, 8)
    for label in (0, 1, 2):
        assert memory(torch.randn(1, 4), torch.tensor([label])) == 0
    assert memory(x, torch.tensor([3])) == 0  # its own copy would be a positive, and the others negatives
    assert memory(x, torch.tensor([0])) > 0


def test_memory_that_took_nothing_in_is_empty() -> None:
    memory = here.CrossBatchMemory(here.NTXentLoss(0.1), 3, 8)
    assert memory(X, LABELS, enqueue_mask=torch.zeros(4, dtype=torch.bool)) == 0
    assert memory(X, LABELS, enqueue_mask=torch.ones(4, dtype=torch.bool)) == 0  # nothing to compare
    assert memory(X, LABELS, enqueue_mask=torch.zeros(4, dtype=torch.bool)) > 0


def test_memory_is_in_checkpoints() -> None:
    generator = torch.Generator().manual_seed(0)
    batches = [(views(5, 4, generator)[0].float(), torch.randint(3, (5,), generator=generator)) for _ in range(6)]
    whole = here.CrossBatchMemory(here.SupConLoss(), 4, 12)
    for batch in batches[:3]:
        whole(*batch)
    resumed = here.CrossBatchMemory(here.SupConLoss(), 4, 12)
    resumed.load_state_dict(copy.deepcopy(whole.state_dict()))
    for batch in batches[3:]:
        assert whole(*batch) == resumed(*batch)
    whole.reset_queue()
    assert whole(*batches[0]) == here.CrossBatchMemory(here.SupConLoss(), 4, 12)(*batches[0])
    # The original's have the memory alone.
    whole.load_state_dict(losses.CrossBatchMemory(losses.SupConLoss(), 4, 12).state_dict())


def test_nothing_is_lost_at_small_temperatures() -> None:
    """In float32, where the original's losses end at 87, and where it leaves out those that are rounded to 0."""
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [1.0, 0.1]], requires_grad=True)
    labels = torch.tensor([0, 0, 1, 1])
    for name in ("NTXentLoss", "SupConLoss"):
        exact = getattr(losses, name)(0.005)(x.double(), labels)
        ours, original = (getattr(module, name)(0.005)(x, labels) for module in (here, losses))
        torch.testing.assert_close(ours.double(), exact, rtol=1e-6, atol=0)
        if name == "NTXentLoss":
            assert exact > 100 > 90 > original
    near = torch.tensor([[1.0, 0.0], [1.0, 0.001], [-1.0, 0.1], [0.05, 1.0], [0.0, 1.0]], requires_grad=True)
    labels = torch.tensor([0, 0, 1, 2, 2])
    exact = here.SupConLoss(0.02)(near.double(), labels)
    # A sum that holds the positives is as good as the floor of accuracy.py for float32, and no better.
    atol = 16 * torch.finfo(torch.float32).eps
    torch.testing.assert_close(here.SupConLoss(0.02)(near, labels).double(), exact, rtol=1e-4, atol=atol)


def test_large_batches_need_no_memory_for_triplets() -> None:
    x = torch.randn(3000, 16, requires_grad=True)
    (grad,) = torch.autograd.grad(here.NTXentLoss()(x, torch.arange(3000) // 30), x)
    assert grad.isfinite().all()


def test_same_as_the_losses_of_fastssl() -> None:
    x, labels = torch.randn(20, 6), torch.randint(4, (20,))
    torch.testing.assert_close(here.NTXentLoss(0.1)(x, labels), fastssl.losses.MultiPositiveNTXentLoss(0.1)(x, labels))
    torch.testing.assert_close(here.SupConLoss(0.1)(x, labels), fastssl.losses.SupConLoss(0.1)(x, labels))


def test_nan_stays_nan() -> None:
    x, labels = torch.randn(4, 3), torch.tensor([0, 0, 1, 1])
    x[1, 1] = torch.nan
    for loss in (here.NTXentLoss(), here.SupConLoss()):
        assert loss(x, labels).isnan()
        assert loss(x, torch.zeros(4)).isnan()  # all of one label: the loss is 0 otherwise


def test_defaults_may_be_given() -> None:
    x, labels = torch.randn(6, 3), torch.tensor([0, 0, 1, 1, 2, 2])
    given = {"distance": distances.CosineSimilarity(), "embedding_regularizer": None, "collect_stats": False}
    for name, reducer in (("NTXentLoss", reducers.MeanReducer()), ("SupConLoss", reducers.AvgNonZeroReducer())):
        with_them = getattr(here, name)(temperature=0.2, reducer=reducer, **given)
        assert with_them(x, labels) == getattr(here, name)(temperature=0.2)(x, labels)


X, LABELS = torch.randn(4, 3), torch.tensor([0, 0, 1, 1])


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: here.NTXentLoss(distance=distances.LpDistance()), ValueError, "distance: got LpDistance, want None"),
        (lambda: here.SupConLoss(reducer=reducers.MeanReducer()), ValueError, "reducer: got MeanReducer, want None or"),
        (
            lambda: here.SupConLoss(embedding_regularizer=regularizers.LpRegularizer()), ValueError,
            "embedding_regularizer: got LpRegularizer, want None",
        ),
        (lambda: here.NTXentLoss(collect_stats=True), ValueError, "collect_stats: got True"),
        (lambda: here.NTXentLoss(margin=1), TypeError, "margin: got an argument that NTXentLoss does not have"),
        (lambda: here.NTXentLoss(-1.0)(X, LABELS), ValueError, "temperature: got -1.0"),
        (lambda: here.NTXentLoss()(X), ValueError, r"labels: got None, want \[m\]"),
        (lambda: here.NTXentLoss()(X, LABELS[:3]), ValueError, r"labels: got \(3,\), want \[4\]"),
        (lambda: here.NTXentLoss()(X, LABELS, (LABELS,) * 4), ValueError, "indices_tuple: got pairs or triplets"),
        (lambda: here.NTXentLoss()(X, LABELS, None, X[:3], LABELS), ValueError, r"ref_labels: got \(4,\), want \[3\]"),
        (lambda: here.SelfSupervisedLoss(losses.NTXentLoss()), TypeError, "loss: got NTXentLoss, want"),
        (lambda: here.SelfSupervisedLoss(here.NTXentLoss(), margin=1), TypeError, "margin: got an argument"),
        (
            lambda: here.CrossBatchMemory(here.NTXentLoss(), 3, miner=miners.MultiSimilarityMiner()), ValueError,
            "miner: got MultiSimilarityMiner, want None",
        ),
        (lambda: here.CrossBatchMemory(here.NTXentLoss(), 3, 2)(X, LABELS), ValueError, "got 4 for the memory"),
        (lambda: here.CrossBatchMemory(here.NTXentLoss(), 5)(X, LABELS), ValueError, "embeddings: got width 3, want 5"),
    ],
)  # fmt: skip
def test_bad_input(call, error: type[Exception], said: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=said):
        call()
