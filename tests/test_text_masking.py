"""Masking of text: the same bits everywhere, and BERT's proportions."""

from __future__ import annotations

import pytest
import torch
from conftest import DEVICES, runnable
from hypothesis import given, settings
from hypothesis import strategies as st
from masking_reference import TEXT, hold_to_the_contract_of_draws, words
from scipy import stats

import fastssl
from fastssl import reference
from fastssl.functional import text_masking

BACKENDS = runnable("text_masking", torch.int64)
on_backends = pytest.mark.parametrize(("device", "backend"), BACKENDS)
BERT = (103, 30522)  # [MASK] and the vocabulary of bert-base-uncased


@on_backends
@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 90)),
    probabilities=st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)),
    vocab_size=st.sampled_from([1, 7, 30522, 2**31 - 1]),
    special=st.booleans(),
    ignore_index=st.sampled_from([-100, 0, -(2**40)]),
    seed=st.integers(-(2**63), 2**64 - 1),
    first=st.integers(0, 2**62),
    view=st.integers(0, 2**32 - 1),
)
def test_every_backend_draws_the_reference(
    device: str, backend: str, shape: tuple[int, int], probabilities: tuple[float, float, float], vocab_size: int,
    special: bool, ignore_index: int, seed: int, first: int, view: int,
) -> None:  # fmt: skip
    tokens = torch.randint(0, vocab_size, shape)
    never = torch.rand(shape) < 0.3 if special else None
    choose, replace, random = probabilities
    options = {
        "mask_prob": choose, "replace_prob": replace, "random_prob": random * (1 - replace),
        "ignore_index": ignore_index, "view": view,
    }  # fmt: skip
    expected = reference.text_masking(
        tokens, vocab_size - 1, vocab_size, seed % 2**64, special_tokens=never, first_id=first, **options
    )  # fmt: skip
    ids = first + torch.arange(shape[0], device=device)
    never = None if never is None else never.to(device)
    with fastssl.use_backend(backend):
        found = text_masking(
            tokens.to(device), vocab_size - 1, vocab_size, special_tokens=never, seed=seed, sample_ids=ids, **options
        )  # fmt: skip
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == torch.int64
        assert a.is_contiguous()
        assert torch.equal(a.cpu(), b)


@on_backends
def test_choices_follow_from_the_words_of_philox(device: str, backend: str) -> None:
    tokens = torch.arange(1000, 1300, device=device).view(2, 150)
    with fastssl.use_backend(backend):
        inputs, labels = text_masking(tokens, *BERT, mask_prob=0.5, seed=2**60, view=5)
    for i in range(2):
        for t in range(150):
            chosen, action, random, _ = words(2**60, i, 5, TEXT, t)
            token, expected = int(tokens[i, t]), int(tokens[i, t])
            if chosen < 2**31:
                masked, replaced = action < int(0.8 * 2**32), action < int(0.8 * 2**32) + int(0.1 * 2**32)
                expected = 103 if masked else random * 30522 >> 32 if replaced else token
            assert int(inputs[i, t]) == expected
            assert int(labels[i, t]) == (token if chosen < 2**31 else -100)


def test_proportions_are_berts() -> None:
    tokens = torch.randint(1000, 2000, (400, 500))
    special = torch.rand(400, 500) < 0.1
    inputs, labels = text_masking(tokens, *BERT, special_tokens=special, seed=1)
    chosen = labels != -100
    assert not (chosen & special).any()
    assert torch.equal(labels[chosen], tokens[chosen])
    assert torch.equal(inputs[~chosen], tokens[~chosen])

    def likely(hits: torch.Tensor, trials: int, p: float) -> bool:
        return stats.binomtest(int(hits.sum()), trials, p).pvalue > 1e-4

    count = int(chosen.sum())
    assert likely(chosen, int((~special).sum()), 0.15)
    masked, kept = chosen & (inputs == 103), chosen & (inputs == tokens)
    other = chosen & ~masked & ~kept
    random = 0.1 * (1 - 2 / 30522)  # a random token may be the mask token, or the same again
    assert likely(masked, count, 0.8 + 0.1 / 30522)
    assert likely(other, count, random)
    assert likely(kept, count, 0.1 + 0.1 / 30522)
    # Whether one token is chosen says nothing about the next, nor about what becomes of it.
    assert abs(torch.corrcoef(torch.stack([chosen[:, 1:].flatten(), chosen[:, :-1].flatten()]).double())[0, 1]) < 0.012
    assert stats.chisquare(torch.histc(inputs[other].double(), 20, 0, 30522).numpy()).pvalue > 1e-4


def test_random_tokens_are_uniform_over_the_vocabulary() -> None:
    tokens = torch.zeros(200, 100, dtype=torch.int64)
    inputs, labels = text_masking(tokens, 0, 13, mask_prob=1.0, replace_prob=0.0, random_prob=1.0, seed=2)
    assert torch.equal(labels, tokens)
    counts = inputs.flatten().bincount()
    assert len(counts) == 13
    assert stats.chisquare(counts.numpy()).pvalue > 1e-4


@on_backends
def test_certain_and_impossible(device: str, backend: str) -> None:
    tokens = torch.randint(0, 50, (30, 40), device=device)
    with fastssl.use_backend(backend):
        inputs, labels = text_masking(tokens, 7, 50, mask_prob=1, replace_prob=1, random_prob=0, seed=0)
        assert (inputs == 7).all()
        assert torch.equal(labels, tokens)
        inputs, labels = text_masking(tokens, 7, 50, mask_prob=1, replace_prob=0, random_prob=0, seed=0)
        assert torch.equal(inputs, tokens)
        assert torch.equal(labels, tokens)
        inputs, labels = text_masking(tokens, 7, 50, mask_prob=0, seed=0)
        assert torch.equal(inputs, tokens)
        assert (labels == -100).all()
        everything = torch.ones_like(tokens, dtype=torch.bool)
        inputs, labels = text_masking(tokens, 7, 50, mask_prob=1, special_tokens=everything, ignore_index=-1, seed=0)
        assert torch.equal(inputs, tokens)
        assert (labels == -1).all()


@on_backends
def test_strides_and_tokens_of_any_value(device: str, backend: str, nan_filled: None) -> None:
    wide = torch.randint(-(2**62), 2**62, (40, 30), device=device)
    with fastssl.use_backend(backend):
        for tokens in (wide.T, wide[::2, 3::4], wide[:1].expand(9, 30), wide[:, :1].expand(40, 11)):
            special = (wide % 3 == 0)[: tokens.shape[1], : tokens.shape[0]].T if tokens is wide.T else None
            before = tokens.clone()
            found = text_masking(tokens, *BERT, mask_prob=0.4, special_tokens=special, seed=3)
            plain = special if special is None else special.contiguous()
            exact = text_masking(tokens.contiguous(), *BERT, mask_prob=0.4, special_tokens=plain, seed=3)
            assert all(torch.equal(a, b) for a, b in zip(found, exact, strict=True))
            assert torch.equal(tokens, before)
            assert torch.equal(torch.where(found[1] == -100, found[0], found[1]), before)


def test_labels_go_into_cross_entropy() -> None:
    tokens = torch.randint(0, 11, (4, 25))
    inputs, labels = text_masking(tokens, 10, 11, mask_prob=0.3, seed=1)
    logits = torch.randn(4, 25, 11)
    chosen = labels != -100
    expected = torch.nn.functional.cross_entropy(logits[chosen], tokens[chosen])
    torch.testing.assert_close(torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()), expected)
    assert inputs.shape == tokens.shape


@on_backends
def test_draws(device: str, backend: str, nan_filled: None) -> None:
    tokens = torch.arange(150, 191, device=device).expand(7, 41)
    with fastssl.use_backend(backend):
        hold_to_the_contract_of_draws(lambda n, **options: text_masking(tokens[:n], *BERT, **options), device)


@on_backends
def test_opcheck(device: str, backend: str) -> None:
    tokens = torch.randint(0, 9, (3, 5), device=device)
    for special, ids in ((None, None), (tokens > 5, torch.arange(3, device=device))):
        arguments = (tokens, special, torch.tensor(3), ids, 8, 9, [2**31, 2**32, 0], -100, 1, backend)
        torch.library.opcheck(torch.ops.fastssl.text_masking.default, arguments)


@pytest.mark.parametrize("device", DEVICES)
def test_compiles_whole_with_a_dynamic_batch(device: str) -> None:
    def masked(tokens: torch.Tensor, seed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        inputs, labels = text_masking(tokens, 8, 9, seed=seed)
        return inputs + 1, labels

    torch._dynamo.reset()
    compiled = torch.compile(masked, fullgraph=True, backend="aot_eager", dynamic=True)
    for n in (4, 7):
        tokens = torch.randint(0, 9, (n, n + 2), device=device)
        for a, b in zip(compiled(tokens, torch.tensor(n)), masked(tokens, torch.tensor(n)), strict=True):
            assert torch.equal(a, b)
