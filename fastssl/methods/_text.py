"""An encoder of text: a transformer over tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import _checks
from ._encoder import remembered

# Layers and width of the models that were published; a head for each 64 numbers.
TEXT_ENCODERS = {
    "bert-tiny": (2, 128),
    "bert-mini": (4, 256),
    "bert-small": (4, 512),
    "bert-medium": (8, 512),
    "bert-base": (12, 768),
    "bert-large": (24, 1024),
}
PAD = 0  # the token after the end of a text


class TextEncoder(nn.Module):
    """Tokens int64 [B, T] -> features [B, width]: the mean of `tokens` that are no padding; made by `text_encoder`."""

    def __init__(self, vocab_size: int, length: int, depth: int, width: int, dropout: float) -> None:
        super().__init__()
        self.vocab_size, self.length, self.num_features = vocab_size, length, width
        self.embed = nn.Embedding(vocab_size, width, padding_idx=PAD)
        self.positions = nn.Parameter(torch.empty(length, width))
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.dropout = nn.Dropout(dropout)
        block = nn.TransformerEncoderLayer(
            width, max(1, width // 64), 4 * width, dropout, "gelu", layer_norm_eps=1e-12, batch_first=True
        )
        self.blocks = nn.TransformerEncoder(block, depth, enable_nested_tensor=False)
        for part in self.modules():
            if isinstance(part, (nn.Linear, nn.Embedding)):
                nn.init.trunc_normal_(part.weight, std=0.02, a=-0.04, b=0.04)
            elif isinstance(part, nn.MultiheadAttention):
                nn.init.trunc_normal_(part.in_proj_weight, std=0.02, a=-0.04, b=0.04)
        nn.init.trunc_normal_(self.positions, std=0.02, a=-0.04, b=0.04)
        with torch.no_grad():
            self.embed.weight[PAD].zero_()

    def tokens(self, x: Tensor) -> Tensor:
        """Return the features [B, T, width] of each token int64 [B, T], T <= length."""
        if x.dtype != torch.int64 or x.ndim != 2 or not 1 <= x.shape[1] <= self.length:
            raise ValueError(f"tokens: got {x.dtype} {tuple(x.shape)}, want int64 [B, T], T from 1 to {self.length}")
        embedded = self.dropout(self.norm(self.embed(x) + self.positions[: x.shape[1]]))
        features: Tensor = self.blocks(embedded, src_key_padding_mask=x == PAD)
        return features

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of texts."""
        there = (x != PAD)[..., None]
        features = torch.where(there, self.tokens(x), 0.0)
        return features.sum(1) / there.sum(1).clamp(min=1)


@remembered
def text_encoder(vocab_size: int, length: int = 512, name: str = "bert-base", dropout: float = 0.1) -> nn.Module:
    """Make BERT's transformer over tokens: learnt positions, and norms after attention and layers (post-norm).

    Args:
        vocab_size: of the tokenizer; token 0 is padding.
        length: the most tokens of a text.
        name: "bert-tiny" (2 layers of 128), "bert-mini" (4 of 256), "bert-small" (4 of 512), "bert-medium" (8 of 512),
            "bert-base" (12 of 768) or "bert-large" (24 of 1024), with a head for each 64.
        dropout: in [0, 1).

    Returns:
        A module int64 [B, T] -> features [B, width], the mean over tokens; with ``tokens(x)`` -> [B, T, width].

    Raises:
        TypeError, ValueError: an argument is of another type or out of range.

    Source: Devlin et al. 2019, "BERT"; the sizes under base: Turc et al. 2019, "Well-Read Students Learn Better".
    """
    _checks.positive_int("vocab_size", vocab_size)
    _checks.positive_int("length", length)
    if name not in TEXT_ENCODERS:
        raise ValueError(f"encoder: got {name!r}, want {', '.join(map(repr, TEXT_ENCODERS))}")
    return TextEncoder(vocab_size, length, *TEXT_ENCODERS[name], _checks.fraction("dropout", dropout, below_one=True))
