"""Losses of `pytorch_metric_learning.losses`: NTXentLoss, SupConLoss, and the wrappers that call them.

Differences from pytorch-metric-learning 2.9:

- The distance is cosine similarity, reducers and regularizers are the defaults, and there is no miner: these arguments
  take None, or an object that is the default. `indices_tuple` is None: all pairs that the labels make.
- `SupConLoss` is the mean over the rows with positives. The original leaves out those whose loss its roundings make 0
  or less, which at small temperatures may be most of them, so that its mean is of the bad ones alone.
- `CrossBatchMemory` never takes an embedding's own copy in the memory for a positive; the original does where the batch
  is a single row. An `enqueue_mask` that names none leaves it empty; the original then holds its zeros for rows. How
  far the memory is filled is saved in checkpoints, too; the original starts over.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ... import _checks
from ...functional import info_nce, ntxent
from ...functional._pairwise_logsumexp import logsumexp, pair
from ...functional._pairwise_softplus import softplus
from ...functional._similarity import embeddings as unit_rows
from ...functional._similarity import paired_scores, positions, ranks, softplus_excess

__all__ = ["CrossBatchMemory", "NTXentLoss", "SelfSupervisedLoss", "SupConLoss"]


class _PairLoss(torch.nn.Module):
    """A loss of all pairs of rows that labels say are alike, or not."""

    reducer = "MeanReducer"

    def __init__(self, temperature: float | Tensor, **kwargs: Any) -> None:
        super().__init__()
        given = {"distance": "CosineSimilarity", "reducer": self.reducer, "embedding_regularizer": None}
        for name, default in given.items():
            value = kwargs.pop(name, None)
            if value is not None and type(value).__name__ != default:
                wanted = f"None or {default}()" if default else "None"
                raise ValueError(f"{name}: got {type(value).__name__}, want {wanted}: other ones are the original's")
        # Without a regularizer its weight says nothing; statistics are not collected.
        kwargs.pop("embedding_reg_weight", None)
        if kwargs.pop("collect_stats", None):
            raise ValueError("collect_stats: got True, want False: statistics are the original's")
        if kwargs:
            raise TypeError(f"{next(iter(kwargs))}: got an argument that {type(self).__name__} does not have")
        self.temperature = temperature

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor | None = None,
        indices_tuple: Any = None,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of embeddings [m, d] and labels [m] against each other, or against reference ones [n].

        As in the original, references with the very same tensor of labels, or none, are taken to be those rows again:
        pairs (i, i) then are no positives. Clone the labels where they are.
        """
        _no_indices(indices_tuple)
        if labels is None:
            raise ValueError("labels: got None, want [m]: the pairs are made of them")
        again = ref_emb is None or ref_labels is None or ref_labels is labels
        own = torch.arange(len(labels), device=embeddings.device) if again else None
        return self.compare(embeddings, labels, ref_emb, labels if again else ref_labels, own)

    def compare(
        self, x: Tensor, labels: Tensor, y: Tensor | None, ref_labels: Tensor | None, own: Tensor | None
    ) -> Tensor:
        """Return the loss of x [m, d] against y [n, d], or itself, where row own[i] of y is no positive of row i."""
        pair("embeddings", x, "ref_emb", y)
        m, n = len(x), len(x if y is None else y)
        labels, ref_labels = _labels("labels", labels, m, x.device), _labels("ref_labels", ref_labels, n, x.device)
        scale = 1 / _checks.positive_scalar("temperature", self.temperature, x.device)
        products, rows = unit_rows(*([x] if y is None else [x, y]), normalize=True)
        pairs = _Pairs(rows[0], None if y is None else rows[1], scale, ranks(labels, ref_labels), own, products)
        count = pairs.positives.sum()
        negatives = m * n - pairs.alike.sum()
        # The original gives up where one kind of pairs is missing, and where there is no more than one of each.
        usable = (count > 0) & (negatives > 0) & ((count > 1) | (negatives > 1))
        loss = torch.where(usable, self.mean(pairs), 0.0 * rows[0].sum())
        return loss.to(rows[0].dtype)

    def mean(self, pairs: _Pairs) -> Tensor:
        """Return the loss of rows of which some have positives, in float64."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        return f"temperature={self.temperature}"


@dataclass
class _Pairs:
    """Unit rows x [m, d] against y [n, d] (None: x), their int32 ids, and what follows from these."""

    x: Tensor
    y: Tensor | None
    scale: Tensor
    ids: tuple[Tensor, Tensor]
    own: Tensor | None
    products: torch.dtype

    def __post_init__(self) -> None:
        levels = self.ids[1].sort().values
        self.first = torch.searchsorted(levels, self.ids[0])  # where the ids of the rows of x begin among the levels
        self.place = torch.searchsorted(levels, self.ids[1])  # and those of y
        self.alike = torch.searchsorted(levels, self.ids[0], right=True) - self.first
        self.positives = self.alike if self.own is None else self.alike - 1

    @property
    def columns(self) -> Tensor:
        return self.x if self.y is None else self.y

    def logsumexp(self, ids: tuple[Tensor, Tensor] | None) -> Tensor:
        return logsumexp(self.x, self.y, self.scale, ids, self.products, bounded=True)[0]


class NTXentLoss(_PairLoss):
    """NT-Xent of each pair of one label against the rows of others; see `fastssl.functional.multi_positive_ntxent`."""

    def __init__(self, temperature: float | Tensor = 0.07, **kwargs: Any) -> None:
        super().__init__(temperature, **kwargs)

    def mean(self, pairs: _Pairs) -> Tensor:
        x, y, scale, own = pairs.x, pairs.columns, pairs.scale, pairs.own
        lse = pairs.logsumexp(pairs.ids)
        total = softplus(x, y, scale, -lse, pairs.ids, pairs.products, only_same=True)
        if own is not None:
            total = total - softplus_excess(lse, paired_scores(x, y[own]) * scale).sum()
        return total / pairs.positives.sum().clamp_min(1)


class SupConLoss(_PairLoss):
    """Supervised contrastive loss; see `fastssl.functional.supcon`."""

    reducer = "AvgNonZeroReducer"

    def __init__(self, temperature: float | Tensor = 0.1, **kwargs: Any) -> None:
        super().__init__(temperature, **kwargs)

    def mean(self, pairs: _Pairs) -> Tensor:
        x, y, own, positives = pairs.x, pairs.columns, pairs.own, pairs.positives
        lse = pairs.logsumexp(None if own is None else (own.int(), positions(len(y), y.device)))
        # Sums of the rows of an id, in float64: a row comes out of its own without a rounding.
        sums = torch.zeros_like(y, dtype=torch.float64).index_add(0, pairs.place, y.double())
        others = sums[pairs.first.clamp_max(len(y) - 1)]
        others = others if own is None else others - y[own]
        has = positives > 0
        positive = paired_scores(x, others.to(x.dtype)) * pairs.scale
        nll = torch.where(has, lse, 0.0) - positive / positives.clamp_min(1)
        return torch.where(has, nll, 0.0).sum() / has.sum().clamp_min(1)


class SelfSupervisedLoss(torch.nn.Module):
    """A loss of two views, each pair of rows being of a label of its own: NT-Xent, whichever of the two losses it is.

    Args:
        loss: `NTXentLoss` or `SupConLoss` of this module.
        symmetric: rows of both views against all others; else rows of the first against those of the second.
    """

    def __init__(self, loss: torch.nn.Module, symmetric: bool = True, **kwargs: Any) -> None:
        super().__init__()
        _ours(loss, "SelfSupervisedLoss", kwargs)
        self.loss, self.symmetric = loss, symmetric

    def forward(self, embeddings: Tensor, ref_emb: Tensor) -> Tensor:
        """Return the loss of the positive pairs (embeddings[i], ref_emb[i])."""
        tau: float | Tensor = self.loss.temperature  # type: ignore[assignment]
        if self.symmetric:
            return ntxent(embeddings, ref_emb, tau)
        return info_nce(embeddings, ref_emb, temperature=tau)


class CrossBatchMemory(torch.nn.Module):
    """A loss of a batch against the last `memory_size` rows, those of the batch among them.

    Args:
        loss: `NTXentLoss` or `SupConLoss` of this module.
        embedding_size: width of the rows.
        memory_size: rows, at least those of a batch.
        miner: None.

    The memory is `embedding_memory` and `label_memory`, as in the original, whose checkpoints can be loaded.
    """

    embedding_memory: Tensor
    label_memory: Tensor

    def __init__(
        self, loss: torch.nn.Module, embedding_size: int, memory_size: int = 1024, miner: Any = None, **kwargs: Any
    ) -> None:
        super().__init__()
        _ours(loss, "CrossBatchMemory", kwargs)
        if miner is not None:
            raise ValueError(f"miner: got {type(miner).__name__}, want None: miners are the original's")
        _checks.positive_int("embedding_size", embedding_size)
        _checks.positive_int("memory_size", memory_size)
        self.loss, self.miner = loss, miner
        self.embedding_size, self.memory_size = embedding_size, memory_size
        self.reset_queue()

    def forward(
        self, embeddings: Tensor, labels: Tensor, indices_tuple: Any = None, enqueue_mask: Tensor | None = None
    ) -> Tensor:
        """Put embeddings [m, d] and labels [m] into the memory and return their loss against it.

        With `enqueue_mask`, a bool [m], those it names go into the memory, and the others are compared with it.
        """
        _no_indices(indices_tuple)
        _checks.float_tensor("embeddings", embeddings, "[m, d]")
        if embeddings.shape[1] != self.embedding_size:
            raise ValueError(f"embeddings: got width {embeddings.shape[1]}, want {self.embedding_size}")
        labels = labels.to(embeddings.device)
        fresh, fresh_labels = embeddings, labels
        if enqueue_mask is not None:
            fresh, fresh_labels = embeddings[enqueue_mask], labels[enqueue_mask]
            embeddings, labels = embeddings[~enqueue_mask], labels[~enqueue_mask]
        if len(fresh) > self.memory_size:
            raise ValueError(f"embeddings: got {len(fresh)} for the memory, want at most {self.memory_size}")
        places = self._add(fresh.detach(), fresh_labels)
        filled = self.memory_size if self.has_been_filled else self.queue_idx
        if filled == 0 or len(embeddings) == 0:
            return 0.0 * embeddings.sum()
        rows, row_labels = self.embedding_memory[:filled], self.label_memory[:filled]
        own = places if enqueue_mask is None else None
        assert isinstance(self.loss, _PairLoss)
        return self.loss.compare(embeddings, labels, rows, row_labels, own)

    def reset_queue(self) -> None:
        """Empty the memory."""
        self.register_buffer("embedding_memory", torch.zeros(self.memory_size, self.embedding_size))
        self.register_buffer("label_memory", torch.zeros(self.memory_size, dtype=torch.int64))
        self.queue_idx, self.has_been_filled = 0, False

    @torch.no_grad()
    def _add(self, rows: Tensor, labels: Tensor) -> Tensor:
        self.embedding_memory = self.embedding_memory.to(rows)
        self.label_memory = self.label_memory.to(labels)
        end = self.queue_idx + len(rows)
        places = torch.arange(self.queue_idx, end, device=rows.device) % self.memory_size
        self.embedding_memory[places] = rows
        self.label_memory[places] = labels
        self.queue_idx, self.has_been_filled = end % self.memory_size, self.has_been_filled or end >= self.memory_size
        return places

    def get_extra_state(self) -> dict[str, Any]:
        return {"queue_idx": self.queue_idx, "has_been_filled": self.has_been_filled}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.queue_idx, self.has_been_filled = state["queue_idx"], state["has_been_filled"]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # A checkpoint of the original does not tell how full its memory was.
        state_dict.setdefault(f"{prefix}_extra_state", self.get_extra_state())
        super()._load_from_state_dict(state_dict, prefix, *args)


def _ours(loss: object, name: str, kwargs: dict[str, Any]) -> None:
    if not isinstance(loss, _PairLoss):
        raise TypeError(f"loss: got {type(loss).__name__}, want NTXentLoss or SupConLoss of {__name__}")
    if kwargs:
        raise TypeError(f"{next(iter(kwargs))}: got an argument that {name} does not have")


def _labels(name: str, labels: object, count: int, device: torch.device) -> Tensor:
    """Return labels on a device; of any type, as only equality counts."""
    if not isinstance(labels, Tensor) or labels.shape != (count,):
        got = tuple(labels.shape) if isinstance(labels, Tensor) else type(labels).__name__
        raise ValueError(f"{name}: got {got}, want [{count}]")
    return labels.to(device)


def _no_indices(indices_tuple: object) -> None:
    if indices_tuple is not None:
        raise ValueError("indices_tuple: got pairs or triplets, want None: all pairs that the labels make are taken")
