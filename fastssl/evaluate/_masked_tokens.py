from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from .. import _checks
from ..data import Texts, loader
from ..methods import BERT
from ..methods._encoder import frozen
from ..methods.bert import IGNORED
from ._features import device_of
from ._result import Result


@dataclass(frozen=True, kw_only=True)
class MaskedTokensResult(Result):
    """Result of `masked_tokens`.

    Attributes:
        accuracy: share of the hidden tokens that are told rightly, in [0, 1].
        perplexity: exp of `loss`: among how many equally probable tokens the model hesitates.
        loss: mean of -log p of the hidden tokens, in nats.
        unigram_accuracy: share of them that are the most frequent token of the training texts.
        unigram_perplexity: of how often tokens occur in the training texts.
        unigram_loss: the same in nats.
        tokens: how many were hidden.
        protocol: how it was found.
    """

    accuracy: float
    perplexity: float
    loss: float
    unigram_accuracy: float
    unigram_perplexity: float
    unigram_loss: float
    tokens: int

    @property
    def scores(self) -> dict[str, float]:
        """The accuracies and perplexities, of the model and of the frequencies alone."""
        return {
            "masked tokens": self.accuracy,
            "masked tokens by frequency": self.unigram_accuracy,
            "perplexity": self.perplexity,
            "perplexity by frequency": self.unigram_perplexity,
        }


def masked_tokens(
    method: nn.Module, train: Texts, test: Texts, *, seed: int = 0, batch_size: int = 64
) -> MaskedTokensResult:
    """Hide tokens of test texts as in training, and see how well a model tells them, beside what frequencies tell.

    The baseline knows of the training texts how often each token occurs, one more time than it does, and nothing of the
    text around: p_t = (n_t + 1) / sum over the vocabulary of (n + 1). A model that is no better has learnt no language.

    Args:
        method: a `fastssl.methods.BERT`. It is left as it was.
        train: the texts that it was trained on, for their frequencies.
        test: other texts of the same tokenizer.
        seed: of what is hidden.
        batch_size: texts a forward pass.

    Returns:
        Accuracies and perplexities of both, on the same tokens.

    Raises:
        TypeError, ValueError: an argument is of another type or out of range, or the vocabularies differ.
    """
    if not isinstance(method, BERT):
        raise TypeError(f"method: got {type(method).__name__}, want a fastssl.methods.BERT")
    for name, texts in (("train", train), ("test", test)):
        if not isinstance(texts, Texts):
            raise TypeError(f"{name}: got {type(texts).__name__}, want Texts, as of fastssl.data.texts")
        if texts.vocab_size > method.vocab_size:
            raise ValueError(
                f"{name}: got {texts.vocab_size} tokens, want at most the {method.vocab_size} of the method"
            )
    _checks.positive_int("batch_size", batch_size)
    counts = torch.bincount(train.tokens.flatten(), minlength=method.vocab_size).double()
    counts[0] = 0  # padding
    frequencies = (counts + 1).log() - (counts + 1).sum().log()
    device, losses, right, hidden = device_of(method), [], 0, []
    order = torch.arange(len(test)).split(batch_size)
    with frozen(method):
        for i, (tokens, _) in enumerate(loader(test, [indices.tolist() for indices in order])):
            seen, labels = method.hide(tokens.to(device), seed=seed + i)
            chosen = labels != IGNORED
            logits = method.logits(seen, chosen).float()
            losses.append(F.cross_entropy(logits, labels[chosen], reduction="none").double().cpu())
            right += int((logits.argmax(1) == labels[chosen]).sum())
            hidden.append(labels[chosen].cpu())
    answers = torch.cat(hidden)
    if not len(answers):
        raise ValueError(f"test: got {len(test)} texts of which no token is hidden, want more")
    loss, unigram = torch.cat(losses).mean().item(), -frequencies[answers].mean().item()
    return MaskedTokensResult(
        accuracy=right / len(answers),
        perplexity=math.exp(loss),
        loss=loss,
        unigram_accuracy=(answers == counts.argmax()).double().mean().item(),
        unigram_perplexity=math.exp(unigram),
        unigram_loss=unigram,
        tokens=len(answers),
        protocol={
            "train": {"data": train.name, "texts": len(train), **train.about},
            "test": {"data": test.name, "texts": len(test), **test.about},
            "hidden": f"{method.mask_prob:g} of the tokens, of these {method.replace_prob:g} by the mask token and "
            f"{method.random_prob:g} by random ones",
            "frequencies": "of the training texts, each count one higher",
            "seed": seed,
        },
    )
