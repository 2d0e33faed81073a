"""InfoNCE with the other keys of the batch, with explicit negatives, and with a queue of them."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import _checks
from ._pairwise_logsumexp import pair
from ._peers import Gather, Peers, peers
from ._similarity import REDUCTIONS, choice, embeddings, paired_scores, positions, reduced, softplus_excess, unit_rows

_MODES = ("unpaired", "paired")


def info_nce(
    query: Tensor,
    positive_key: Tensor,
    negative_keys: Tensor | None = None,
    temperature: float | Tensor = 0.1,
    reduction: str = "mean",
    negative_mode: str = "unpaired",
    symmetric: bool = False,
    normalize: bool = True,
    gather_distributed: Gather = False,
) -> Tensor:
    r"""InfoNCE: cross-entropy of picking each query's positive key among its negatives.

    With s(q, k) = <q, k> / tau, of unit rows if `normalize`:

        nll_i = log( exp s(q_i, k_i) + sum_{negatives} exp s(q_i, .) ) - s(q_i, k_i)

    The negatives of query i are the other positive keys; or `negative_keys`, all of them or, paired, its own.

    Args:
        query: [N, D]; float32, float16, bfloat16 or float64; any strides.
        positive_key: [N, D], the same dtype and device; positive_key[i] is the positive of query[i].
        negative_keys: [M, D] for ``"unpaired"``, [N, M, D] for ``"paired"``, or None.
        temperature: tau > 0, a number or a 0-d tensor, which gets its gradient if it requires one.
        reduction: "mean" or "sum" over the queries, or "none" for nll [N].
        negative_mode: "unpaired" or "paired".
        symmetric: the mean of query -> key and key -> query, from one pass over the scores; without `negative_keys`.
        normalize: divide the rows by max(|row|, 1e-12) first.
        gather_distributed: take the negatives of all processes: True, "all_gather" or "ring"; see `fastssl.losses`.

    Returns:
        A float32 tensor (float64 for float64 embeddings), 0-d or [N].

    Raises:
        TypeError, ValueError: an argument is of another type, dtype, shape, device or value; the message names it.

    The scores are never stored, except those of paired negatives, which are fewer than the numbers in them. The
    positive stays out of the sum over negatives, so that losses near 0 keep their digits.

    Source: van den Oord et al., Representation Learning with Contrastive Predictive Coding, 2018.
    """
    same_shape("query", query, "positive_key", positive_key)
    choice("reduction", reduction, REDUCTIONS)
    choice("negative_mode", negative_mode, _MODES)
    if symmetric and negative_keys is not None:
        raise ValueError("symmetric: got True with negative_keys, want False: they are negatives of the queries alone")
    scale = 1 / _checks.positive_scalar("temperature", temperature, query.device)
    found = peers(gather_distributed, len(query), query.device)
    if negative_keys is not None and negative_mode == "paired":
        return _paired(query, positive_key, negative_keys, scale, normalize, reduction, gather_distributed)
    if negative_keys is not None:
        pair("query", query, "negative_keys", negative_keys)
    keys = [] if negative_keys is None else [negative_keys]
    products, (q, k, *others) = embeddings(query, positive_key, *keys, normalize=normalize)
    positive = paired_scores(q, k) * scale
    other = others[0] if others else k
    own = positions(len(q), q.device, found.start)
    ids = None if others else (own, own)
    if symmetric:
        to_keys, to_queries = found.both_logsumexp(q, k, scale, ids, products, bounded=normalize)
        nll = (softplus_excess(to_keys, positive) + softplus_excess(to_queries, positive)) / 2
    else:
        nll = softplus_excess(found.logsumexp(q, other, scale, ids, products, bounded=normalize), positive)
    return reduced(nll, reduction, found, q.dtype)


def moco(
    query: Tensor,
    key: Tensor,
    queue: Tensor,
    temperature: float | Tensor = 0.2,
    gather_distributed: Gather = False,
) -> Tensor:
    r"""MoCo's loss: InfoNCE of unit queries and keys against a queue of unit keys, which gets no gradient.

        loss = mean_i [ log( exp(<q_i, k_i> / tau) + sum_j exp(<q_i, queue_j> / tau) ) - <q_i, k_i> / tau ]

    Args:
        query: [N, D]; normalised here. key: [N, D]; normalised here, and taken as a constant.
        queue: [K, D] of unit rows, such as `fastssl.Queue.rows`; it is read as it is, and may change before the
            backward pass, which does not need it.
        temperature: tau > 0, a number or a 0-d tensor.
        gather_distributed: with True the value is the mean over the queries of all processes, which share one queue.

    Returns:
        A 0-d float32 tensor (float64 for float64 embeddings).

    Raises:
        TypeError, ValueError: an argument is of another type, dtype, shape, device or value; the message names it.

    One pass over the scores gives the loss and the gradient of the queries; neither scores nor queue are stored.

    Source: He et al., Momentum Contrast for Unsupervised Visual Representation Learning, 2020, eq. 1.
    """
    return against_queue("query", query, "key", key.detach(), "queue", queue, temperature, gather_distributed)


def against_queue(
    query_name: str, query: Tensor, key_name: str, key: Tensor, queue_name: str, queue: Tensor,
    temperature: float | Tensor, gather_distributed: Gather,
) -> Tensor:  # fmt: skip
    """Return `moco`'s loss with a gradient in both query and key; the names are those of the arguments in messages."""
    same_shape(query_name, query, key_name, key)
    _checks.float_tensor(queue_name, queue, "[K, D]")
    if queue.shape[1] != query.shape[1] or queue.device != query.device:
        got = f"width {query.shape[1]} on {query.device}"
        raise ValueError(f"{query_name}: got {got}, want width {queue.shape[1]} on {queue.device}, as {queue_name}")
    scale = 1 / _checks.positive_scalar("temperature", temperature, query.device)
    products, (q, k) = embeddings(query, key, normalize=True)
    # Every process has the same queue: nothing of it is to be gathered.
    lse = Peers(len(q)).logsumexp(q, queue.detach().to(q.dtype), scale, None, products)
    nll = softplus_excess(lse, paired_scores(q, k) * scale)
    return reduced(nll, "mean", peers(gather_distributed, len(q), q.device), q.dtype)


def _paired(
    query: Tensor, positive_key: Tensor, negative_keys: Tensor, scale: Tensor, normalize: bool, reduction: str,
    gather_distributed: Gather,
) -> Tensor:  # fmt: skip
    _checks.float_tensor("negative_keys", negative_keys, "[N, M, D]")
    if negative_keys.shape[::2] != query.shape:
        want = f"[{query.shape[0]}, M, {query.shape[1]}]"
        raise ValueError(f"negative_keys: got shape {tuple(negative_keys.shape)}, want {want}")
    _checks.alike("negative_keys", negative_keys, "query", query)
    exact = torch.float64 if query.dtype == torch.float64 else torch.float32
    with torch.autocast(query.device.type, enabled=False):
        rows = [x.to(exact) for x in (query, positive_key, negative_keys)]
        q, k, others = (unit_rows(x) if normalize else x for x in rows)
        scores = torch.einsum("nd,nmd->nm", q, others)
    lse = (scores.double() * scale).logsumexp(1)
    nll = softplus_excess(lse, paired_scores(q, k) * scale)
    return reduced(nll, reduction, peers(gather_distributed, len(q), q.device), q.dtype)


def same_shape(x_name: str, x: Tensor, y_name: str, y: Tensor) -> None:
    """Check embeddings of one shape [N, D], dtype and device."""
    pair(x_name, x, y_name, y)
    if y.shape != x.shape:
        raise ValueError(f"{y_name}: got shape {tuple(y.shape)}, want that of {x_name}, {tuple(x.shape)}")
