"""BERT: hide words of a text, and tell which they were."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import _checks
from ..functional import linear_cross_entropy, text_masking
from ._encoder import encoder_width, frozen
from ._text import PAD

MASK = 1  # the token that hides another, in tokenizers of `fastssl.data.texts`
IGNORED = -100


class BERT(nn.Module):
    """Masked language modelling: a transformer over tokens, some of which are hidden, and a head that tells them.

    Each token is chosen with probability `mask_prob`; of the chosen 80 % become the mask token, 10 % a random one and
    10 % stay, so that the encoder must expect any token to be wrong, and cannot tell which it is asked for. With h the
    features of a chosen token t and E the encoder's own embedding of the vocabulary,

        loss = mean over chosen tokens of -log softmax(E norm(gelu(W h + c)) + b)_t

    which is ln(vocabulary) by chance, and the entropy of how often tokens occur for a model that knows nothing else:
    `fastssl.evaluate.masked_tokens` measures both. The head is computed for chosen tokens alone, without its logits
    ever in memory. Padding is never chosen. There is no next-sentence prediction, which later work found no use for.

    Args:
        encoder: as `text_encoder` makes it: a module with ``tokens(int64 [B, T]) -> [B, T, f]`` and ``embed``, an
            `nn.Embedding` of width f.
        mask_prob: share of the tokens that are chosen.
        replace_prob, random_prob: share of the chosen that become the mask token, and a random one.
        mask_token_id: the mask token.
        clip_grad: greatest norm of the whole gradient, to which `before_step` shortens it; or None.
        feature_dim: f, where the encoder has no attribute `num_features` to tell.

    Raises:
        TypeError, ValueError: an argument is of another type or out of range.

    Source: Devlin et al. 2019, "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding".

    >>> data = fastssl.data.texts("pydoc")
    >>> method = fastssl.methods.BERT(fastssl.methods.text_encoder(data.vocab_size, data.length, "bert-mini"))
    >>> loss = method(method.augment(tokens))  # tokens int64 [B, T]
    """

    defaults: ClassVar[dict[str, Any]] = {"lr": 1e-4, "weight_decay": 0.01}
    encoder: nn.Module

    def __init__(
        self,
        encoder: nn.Module,
        mask_prob: float = 0.15,
        replace_prob: float = 0.8,
        random_prob: float = 0.1,
        mask_token_id: int = MASK,
        clip_grad: float | None = 1.0,
        feature_dim: int | None = None,
    ) -> None:
        super().__init__()
        width = encoder_width(encoder, feature_dim)
        table = getattr(encoder, "embed", None)
        if not isinstance(table, nn.Embedding) or not callable(getattr(encoder, "tokens", None)):
            raise TypeError(f"encoder: got {type(encoder).__name__}, want one of text, such as text_encoder(...) makes")
        if table.embedding_dim != width:
            raise ValueError(
                f"encoder: got an embedding of {table.embedding_dim} numbers, want {width}, as its features"
            )
        self.encoder, self.vocab_size = encoder, table.num_embeddings
        self.mask_prob = _checks.fraction("mask_prob", mask_prob)
        self.replace_prob = _checks.fraction("replace_prob", replace_prob)
        self.random_prob = _checks.fraction("random_prob", random_prob)
        if self.replace_prob + self.random_prob > 1:
            raise ValueError(
                f"random_prob: got {random_prob} beside replace_prob {replace_prob}, want at most 1 together"
            )
        _checks.int_in("mask_token_id", mask_token_id, 0, self.vocab_size - 1)
        _checks.positive_scalar("clip_grad", 1.0 if clip_grad is None else clip_grad, torch.device("cpu"))
        self.mask_token_id, self.clip_grad = mask_token_id, clip_grad
        self.transform = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width, eps=1e-12))
        nn.init.trunc_normal_(self.transform[0].weight, std=0.02, a=-0.04, b=0.04)  # type: ignore[arg-type]
        self.bias = nn.Parameter(torch.zeros(self.vocab_size))

    def augment(self, tokens: Tensor) -> list[Tensor]:
        """Return tokens int64 [B, T] as they are, in a list: what is hidden is drawn in `forward`.

        Raises:
            TypeError, ValueError: they are no tokens of the vocabulary.
        """
        if not isinstance(tokens, Tensor) or tokens.dtype != torch.int64:
            got = tokens.dtype if isinstance(tokens, Tensor) else type(tokens).__name__
            raise TypeError(f"tokens: got {got}, want int64 [B, T], as of fastssl.data.texts")
        if tokens.device.type == "cpu" and tokens.numel() and int(tokens.max()) >= self.vocab_size:
            raise ValueError(f"tokens: got {int(tokens.max())}, want less than the encoder's {self.vocab_size}")
        return [tokens]

    def hide(self, tokens: Tensor, *, seed: int | None = None) -> tuple[Tensor, Tensor]:
        """Return what the encoder sees of tokens int64 [B, T], and the chosen ones, -100 elsewhere."""
        return text_masking(
            tokens, self.mask_token_id, self.vocab_size, mask_prob=self.mask_prob, replace_prob=self.replace_prob,
            random_prob=self.random_prob, special_tokens=tokens == PAD, ignore_index=IGNORED, seed=seed,
        )  # fmt: skip

    def hidden(self, seen: Tensor, chosen: Tensor) -> Tensor:
        """Return what the head compares with the vocabulary, [M, f], of the M places where `chosen` bool [B, T] is."""
        features: Tensor = self.encoder.tokens(seen)  # type: ignore[operator]
        transformed: Tensor = self.transform(features[chosen])
        return transformed

    def logits(self, seen: Tensor, chosen: Tensor) -> Tensor:
        """Return the logits [M, vocabulary] of these places; `forward` does without them."""
        return F.linear(self.hidden(seen, chosen), self.table, self.bias)

    @property
    def table(self) -> Tensor:
        """The encoder's embedding [vocabulary, f], which the head shares."""
        weight: Tensor = self.encoder.embed.weight  # type: ignore[union-attr, assignment]
        return weight

    def forward(self, views: Sequence[Tensor], *, seed: int | None = None) -> Tensor:
        """Return the loss, a 0-d float32 tensor, of tokens int64 [B, T] in a list; 0 if none of them is chosen.

        Args:
            views: one batch of tokens.
            seed: of what is hidden; by default drawn.

        Raises:
            ValueError: there is not one batch.
        """
        if len(views) != 1:
            raise ValueError(f"views: got {len(views)}, want 1")
        seen, labels = self.hide(views[0], seed=seed)
        chosen = labels != IGNORED
        x = self.hidden(seen, chosen)
        if not len(x):
            return x.float().sum()
        table, bias = self.table.to(x.dtype), self.bias.to(x.dtype)
        return linear_cross_entropy(x, table, labels[chosen], bias).float()

    def before_step(self, step: int, total_steps: int) -> None:
        """Clip the gradient before each step of the optimizer.

        Args:
            step: the number of the step, from 1.
            total_steps: of the whole run.
        """
        if self.clip_grad is not None:
            nn.utils.clip_grad_norm_(self.parameters(), self.clip_grad)

    def pictures(self, images: Tensor, *, seed: int = 0) -> dict[str, Tensor]:
        """Show texts, what the encoder sees of them, and which words it expects where they are hidden.

        Args:
            images: tokens int64 [N, T].
            seed: of what is hidden.

        Returns:
            Rows of tokens int64 [N, T] by name: "text", "seen", and "predicted", which is the text but for the chosen.
        """
        seen, labels = self.hide(images, seed=seed)
        chosen = labels != IGNORED
        with frozen(self):
            guesses = self.logits(seen, chosen).argmax(1)
        return {"text": images, "seen": seen, "predicted": images.masked_scatter(chosen, guesses)}
