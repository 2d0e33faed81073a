"""Bytes that the ops of masked training must move, and those that fastssl's kernels move, by construction.

The floor reads what has to be read once and writes what has to be written once, tables of ids at the int64 of the
interface included. A kernel also reads tables that it has just written, and keeps some of its own; what one sample or
row needs in between stays in the caches of a core and is not counted. With n samples of L tokens, K of them kept and M
removed, rows of D elements of e bytes, P = 1 for the class token, and patches of E elements:

- random_masking: writes ids_shuffle and ids_restore, 8 nL each, and the mask, 4 nL.
- gather_tokens: reads and writes nKDe. Beyond it, the ids, 8 nK.
  Backward: reads nKDe, writes nLDe. Beyond it, the ids and chains of equal ids, 4 n(L + K), written and read.
- mask_patchify: reads nKE b-byte values of images and pos, LDe; writes nKEe and nKDe. Beyond it, the ids.
  Backward: reads nKDe, writes 4 LD. Beyond it, ids and chains as above.
- restore_tokens: reads n(P + K)De, ids 8 nL, pos (P + L)De; writes n(P + L)De. Beyond it, a float pos of 16-bit types.
  Backward: reads n(P + L)De and the ids; writes n(P + K)De. Beyond it, the ids again, and chains as above.
- masked_mse, which makes its gradient: reads nMEe of predictions, nME values of images and the mask; writes nREe for R
  predicted rows. Beyond it, the mask again, and 4 nR of partial sums, written and read.
  Backward: nothing, since a factor of 1, at the end of a graph, leaves the gradient as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from masking_providers import ELEMENTS, Problem


@dataclass(frozen=True)
class Work:
    """Of one pass: bytes of the floor, those beyond it, those of new tensors, and operations of matrix products."""

    floor: int
    beyond: int = 0
    new: int = 0
    operations: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(*(getattr(self, k) + getattr(other, k) for k in ("floor", "beyond", "new", "operations")))

    @property
    def moved(self) -> int:
        """Bytes that fastssl's kernels move."""
        return self.floor + self.beyond


def _masks(p: Problem) -> Work:
    tables = (8 + 8 + 4) * p.n * p.length
    return Work(tables, 0, tables)


def _chains(p: Problem) -> int:
    return 2 * 4 * p.n * (p.length + p.kept)


def _row(p: Problem) -> int:
    return p.dim * getattr(torch, p.dtype).itemsize


def _ids(p: Problem) -> tuple[Work, Work]:
    return _masks(p), Work(0)


def _tokens(p: Problem) -> tuple[Work, Work]:
    kept, every = p.n * p.kept * _row(p), p.n * p.length * _row(p)
    ids = 8 * p.n * p.kept
    return _masks(p) + Work(2 * kept, ids, kept), Work(kept + every, ids + _chains(p), every)


def _embed(p: Problem, pixel_bytes: int) -> tuple[Work, Work]:
    element = getattr(torch, p.dtype).itemsize
    rows, ids = p.n * p.kept, 8 * p.n * p.kept
    read, patches, places = rows * ELEMENTS * pixel_bytes, rows * ELEMENTS * element, rows * _row(p)
    product = 2 * rows * ELEMENTS * p.dim
    # The product reads patches, positions and weights, and writes tokens; backward it reads patches and gradients.
    weights = ELEMENTS * _row(p)
    table = p.length * _row(p)
    cut = Work(read + table + patches + places, ids, patches + places)
    embed = Work(patches + places + weights + places, 0, places, product)
    back = Work(patches + places + weights, 0, weights, product)
    positions = Work(places + 4 * p.length * p.dim, ids + _chains(p), 4 * p.length * p.dim)
    return _masks(p) + cut + embed, back + positions


def _restore(p: Problem) -> tuple[Work, Work]:
    few, every, ids = p.n * (1 + p.kept) * _row(p), p.n * (1 + p.length) * _row(p), 8 * p.n * p.length
    pos = (1 + p.length) * _row(p)
    as_float = 0 if p.dtype == "float32" else 8 * (1 + p.length) * p.dim  # written and read
    return Work(few + every + ids + pos, as_float, every), Work(every + few + ids, ids + _chains(p), few)


def _loss(p: Problem, rows: int) -> tuple[Work, Work]:
    """`rows` of a sample are predicted."""
    element, masked = getattr(torch, p.dtype).itemsize, p.length - p.kept
    table = 4 * p.n * p.length if rows == p.length else 8 * p.n * masked
    read = p.n * masked * ELEMENTS * (element + 4)
    grad = p.n * rows * ELEMENTS * element
    return Work(read + table + grad, table + 8 * p.n * rows, grad), Work(0)


_COUNT: dict[str, Callable[[Problem], tuple[Work, Work]]] = {
    "ids": _ids,
    "tokens": _tokens,
    "embed-float": lambda p: _embed(p, getattr(torch, p.dtype).itemsize),
    "embed-uint8": lambda p: _embed(p, 1),
    "restore": _restore,
    "loss": lambda p: _loss(p, p.length),
    "loss-masked": lambda p: _loss(p, p.length - p.kept),
    "simmim": lambda p: _loss(p, p.length),
}


def work(problem: Problem, mode: str) -> Work:
    """Of the forward pass ("fwd"), with what it saves, or of both passes ("fwd_bwd")."""
    forward, backward = _COUNT[problem.case](problem)
    return forward if mode == "fwd" else forward + backward
