"""NTXentLoss with a memory bank: lightly's values and gradients, and what it does better."""

from __future__ import annotations

import pytest
import torch
from conftest import runnable
from lightly.loss import NTXentLoss as LightlyNTXentLoss
from torch.nn.functional import normalize

import fastssl


def pair(n, d, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, d, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for _ in range(2)]


def twins(rows, dim, temperature=0.5):
    """Ours and lightly's, with the same bank."""
    mine, theirs = fastssl.NTXentLoss(temperature, (rows, dim)), LightlyNTXentLoss(temperature, (rows, dim))
    theirs.memory_bank.bank.copy_(mine.memory_bank.rows)
    return mine, theirs


def gradients(loss, inputs):
    return torch.autograd.grad(1.7 * loss, inputs)


@pytest.mark.parametrize(("device", "backend"), runnable("pairwise_logsumexp"))
@pytest.mark.parametrize("temperature", [1.0, 0.5, 0.07, 0.01])
def test_it_is_lightly_s_loss(device, backend, temperature):
    """Over several steps, in which both banks go round; the batch divides the size, as lightly drops rows else."""
    mine, theirs = (criterion.to(device) for criterion in twins(24, 16, temperature))
    for step in range(7):
        views = [z.detach().to(device).requires_grad_() for z in pair(8, 16, step)]
        with fastssl.use_backend(backend):
            got = mine(*views)
        want = theirs(*views)
        torch.testing.assert_close(got, want)
        for a, b in zip(gradients(got, views), gradients(want, views), strict=True):
            torch.testing.assert_close(a, b)
        torch.testing.assert_close(mine.memory_bank.rows, theirs.memory_bank.bank)
        assert int(mine.memory_bank.pointer) == int(theirs.memory_bank.bank_ptr)


@pytest.mark.parametrize(("n", "rows", "dim"), [(1, 1, 1), (3, 7, 5), (7, 3, 2), (64, 1000, 128), (5, 129, 257)])
def test_it_is_lightly_s_loss_at_any_size(n, rows, dim):
    mine, theirs = twins(rows, dim)
    views = pair(n, dim)
    torch.testing.assert_close(mine(*views), theirs(*views))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_types(dtype):
    criterion = fastssl.NTXentLoss(0.1, (32, 8))
    bank = criterion.memory_bank.rows.clone()
    views = pair(6, 8, dtype=dtype)
    loss = criterion(*views)
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    q, k = (normalize(z.detach().double(), dim=1) for z in views)
    logits = torch.cat([(q * k).sum(1, keepdim=True), q @ bank.double().T], 1) / 0.1
    want = (logits.logsumexp(1) - logits[:, 0]).mean()
    tolerance = 1e-6 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(loss.double(), want, rtol=tolerance, atol=tolerance)
    assert gradients(loss, views)[0].dtype == dtype
    torch.testing.assert_close(criterion.memory_bank.rows[:6].double(), k, rtol=1e-6, atol=1e-6)


def test_batches_wrap_around():
    """Where lightly's bank drops the rows that do not fit."""
    criterion = fastssl.NTXentLoss(0.5, (10, 4))
    stream = torch.cat([criterion.memory_bank.rows, torch.empty(0, 4)])
    for step in range(5):
        views = pair(4, 4, step)
        criterion(*views)
        stream = torch.cat([stream, normalize(views[1].detach())])
    bank = criterion.memory_bank
    torch.testing.assert_close(bank.rows.roll(-int(bank.pointer), 0), stream[-10:])
    assert int(bank.pointer) == 0


def test_evaluation_leaves_the_bank_as_it_is():
    criterion = fastssl.NTXentLoss(0.5, (10, 4))
    before = criterion.memory_bank.rows.clone()
    query, key = pair(4, 4)
    criterion(query.detach(), key)
    with torch.no_grad():
        criterion(query * 1, key)
    assert torch.equal(criterion.memory_bank.rows, before)
    criterion(query, key.detach())
    assert not torch.equal(criterion.memory_bank.rows, before)


def test_the_bank_survives_a_checkpoint(tmp_path):
    whole = fastssl.NTXentLoss(0.5, (10, 4))
    losses = []
    for step in range(6):
        if step == 3:
            torch.save(whole.state_dict(), tmp_path / "bank.pt")
        losses.append(whole(*pair(4, 4, step)))
    resumed = fastssl.NTXentLoss(0.5, (10, 4))
    resumed.load_state_dict(torch.load(tmp_path / "bank.pt"))
    assert [resumed(*pair(4, 4, step)) for step in range(3, 6)] == losses[3:]
    assert not fastssl.NTXentLoss().state_dict()


def test_the_temperature_learns():
    temperature = torch.nn.Parameter(torch.tensor(0.3))
    criterion = fastssl.NTXentLoss(temperature, (20, 6))
    bank = criterion.memory_bank.rows.clone()
    views = pair(5, 6)
    (got,) = gradients(criterion(*views), [temperature])
    q, k = (normalize(z, dim=1) for z in views)
    logits = torch.cat([(q * k).sum(1, keepdim=True), q @ bank.T], 1) / temperature
    (want,) = gradients((logits.logsumexp(1) - logits[:, 0]).mean(), [temperature])
    torch.testing.assert_close(got, want)


def test_it_compiles():
    eager, compiled = (fastssl.NTXentLoss(0.5, (10, 4)) for _ in range(2))
    compiled.load_state_dict(eager.state_dict())
    step = torch.compile(compiled, fullgraph=True, backend="aot_eager", dynamic=True)
    for n in (3, 4, 5):
        views = pair(n, 4, n)
        got, want = step(*views), eager(*views)
        torch.testing.assert_close(got, want)
        for a, b in zip(gradients(got, views), gradients(want, views), strict=True):
            torch.testing.assert_close(a, b)
        torch.testing.assert_close(compiled.memory_bank.rows, eager.memory_bank.rows)


@pytest.mark.parametrize("gather", [True, "all_gather", "ring"])
def test_gathering_in_one_process_changes_nothing(gather):
    views = pair(5, 4)
    assert fastssl.NTXentLoss(0.1, gather_distributed=gather)(*views) == fastssl.NTXentLoss(0.1)(*views)
    banks = [fastssl.NTXentLoss(0.1, (10, 4), gather_distributed=how) for how in (gather, False)]
    banks[1].load_state_dict(banks[0].state_dict())
    assert banks[0](*views) == banks[1](*views)


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (
            lambda: fastssl.NTXentLoss(0.5, 4096),
            ValueError,
            "memory_bank_size: got 4096, which does not tell the width",
        ),
        (lambda: fastssl.NTXentLoss(0.5, -1), ValueError, "memory_bank_size: got -1"),
        (lambda: fastssl.NTXentLoss(0.5, (0, 4)), ValueError, r"memory_bank_size: got \(0, 4\), want \(rows, width"),
        (lambda: fastssl.NTXentLoss(0.5, (4,)), ValueError, r"memory_bank_size: got \(4,\)"),
        (lambda: fastssl.NTXentLoss(0.5, (4, 2.0)), ValueError, r"memory_bank_size: got \(4, 2.0\)"),
        (lambda: fastssl.NTXentLoss(0.5, "big"), TypeError, "memory_bank_size: got str"),
        (lambda: fastssl.NTXentLoss(0.5, True), TypeError, "memory_bank_size: got bool"),
        (lambda: fastssl.NTXentLoss(0.5, 0, "mpi"), ValueError, "gather_distributed: got 'mpi', want False, True"),
        (lambda: fastssl.NTXentLoss(0, (4, 2)), ValueError, "temperature: got 0"),
        (lambda: fastssl.NTXentLoss(0.5, (4, 2))(*pair(3, 5)), ValueError, "out0: got width 5 on cpu, want width 2"),
        (lambda: fastssl.NTXentLoss(0.5, (4, 2))(pair(3, 2)[0], pair(4, 2)[0]), ValueError, "out1: got shape"),
    ],
)
def test_bad_input(make, error, says):
    with pytest.raises(error, match=says):
        make()
