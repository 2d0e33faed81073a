"""Random masks in Triton, one launch: the rank of a token is a count of those before it, so nothing is sorted.

A program ranks a block of tokens of a sample. It makes the noise of all tokens of that sample itself, four tokens by
each Philox block, and compares: L^2 comparisons a sample, 0.04 million at L = 196. Ranks are unique, so every output is
a scatter that no two programs share.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from . import launch
from .draws import RANDOM, id_of, key_of, words


def random_masking_fwd(
    seed: torch.Tensor | None, noise: torch.Tensor | None, sample_ids: torch.Tensor | None, keep: torch.Tensor | None,
    n: int, length: int, prefix: int, num_keep: int, num_masked: int, view: int, device: torch.device,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """Return ids_shuffle [n, K + M], ids_restore [n, L] and mask [n, L] from a seed or noise [n, L - P]."""
    shuffled = torch.empty((n, num_keep + num_masked), dtype=torch.int64, device=device)
    restore = torch.empty((n, length), dtype=torch.int64, device=device)
    mask = torch.empty((n, length), dtype=torch.float32, device=device)
    quads = triton.cdiv(length - prefix, 4)
    blocks = launch.rank_blocks(quads)
    with torch.cuda.device_of(mask):
        random_masking_kernel[(n * triton.cdiv(quads, blocks["BLOCK"]),)](
            seed if seed is None or seed.device == mask.device else int(seed), noise, sample_ids, keep,
            shuffled, restore, mask, length, prefix, num_keep, num_masked, view,
            0 if sample_ids is None else sample_ids.stride(0), 0 if keep is None else keep.stride(0), **blocks,
        )  # fmt: skip
    return shuffled, restore, mask


@triton.jit
def ordered(x):
    """Signed integers in the order of floats: zeros of both signs are equal, NaN is largest."""
    INTEGER: tl.constexpr = tl.int64 if x.dtype == tl.float64 else tl.int32
    LARGEST: tl.constexpr = 2**63 - 1 if x.dtype == tl.float64 else 2**31 - 1
    number = tl.where(x == 0.0, 0.0, x).to(INTEGER, bitcast=True)
    number = tl.where(number < 0, number ^ LARGEST, number)
    return tl.where(x != x, LARGEST, number)


@triton.jit
def keys_of(key, sample_id, view, noise, quad, patches):
    """What tokens 4 quad + 0 to 3 are ranked by; beyond the last token the largest number there is."""
    if noise is None:
        k0, k1, k2, k3 = words(key, sample_id, view, RANDOM, quad)
        LARGEST: tl.constexpr = 2**32 - 1
    else:
        at = noise + 4 * quad
        k0 = ordered(tl.load(at, mask=4 * quad < patches, other=0.0))
        k1 = ordered(tl.load(at + 1, mask=4 * quad + 1 < patches, other=0.0))
        k2 = ordered(tl.load(at + 2, mask=4 * quad + 2 < patches, other=0.0))
        k3 = ordered(tl.load(at + 3, mask=4 * quad + 3 < patches, other=0.0))
        LARGEST: tl.constexpr = 2**63 - 1 if k0.dtype == tl.int64 else 2**31 - 1
    last = tl.full(quad.shape, LARGEST, k0.dtype)
    return (
        tl.where(4 * quad < patches, k0, last), tl.where(4 * quad + 1 < patches, k1, last),
        tl.where(4 * quad + 2 < patches, k2, last), tl.where(4 * quad + 3 < patches, k3, last),
    )  # fmt: skip


@triton.jit
def count_before(key, token, others, quad):
    """How many tokens of the others have a smaller key, or the same and a lower index."""
    count = tl.zeros((key.shape[0], quad.shape[0]), tl.int32)
    for i in tl.static_range(4):
        tie = (others[i][None, :] == key[:, None]) & ((4 * quad + i)[None, :] < token[:, None])
        count += ((others[i][None, :] < key[:, None]) | tie).to(tl.int32)
    return tl.sum(count, 1)


@triton.jit(do_not_specialize=["seed", "length", "prefix", "num_keep", "num_masked", "view"])
def random_masking_kernel(
    seed,  # [] int64, a number, or None
    noise,  # [n, L - P], or None
    sample_ids,  # [n] int64, or None: 0, 1 ...
    keep,  # [n] int64, or None: num_keep
    shuffled,  # out [n, K + M] int64
    restore,  # out [n, L] int64
    mask,  # out [n, L] float32
    length,
    prefix,
    num_keep,
    num_masked,
    view,
    stride_ids,
    stride_keep,
    BLOCK: tl.constexpr,  # in fours of tokens
    CHUNK: tl.constexpr,  # of those it compares with at a time
):
    """One program a block of tokens of a sample."""
    patches = length - prefix
    quads = tl.cdiv(patches, 4)
    blocks = tl.cdiv(quads, BLOCK)
    sample = (tl.program_id(0) // blocks).to(tl.int64)
    block = tl.program_id(0) % blocks
    key = 0
    sample_id = sample
    if noise is None:
        key = key_of(seed)
        sample_id = id_of(sample_ids, sample, stride_ids)
    else:
        noise += sample * patches
    kept = num_keep
    if keep is not None:
        kept = tl.load(keep + sample * stride_keep).to(tl.int32)
    shuffled += sample * (num_keep + num_masked)
    restore += sample * length
    mask += sample * length

    quad = block * BLOCK + tl.arange(0, BLOCK)
    own = keys_of(key, sample_id, view, noise, quad, patches)
    rank0 = tl.zeros((BLOCK,), tl.int32)
    rank1 = tl.zeros((BLOCK,), tl.int32)
    rank2 = tl.zeros((BLOCK,), tl.int32)
    rank3 = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, quads, CHUNK):
        other = start + tl.arange(0, CHUNK)
        others = keys_of(key, sample_id, view, noise, other, patches)
        rank0 += count_before(own[0], 4 * quad, others, other)
        rank1 += count_before(own[1], 4 * quad + 1, others, other)
        rank2 += count_before(own[2], 4 * quad + 2, others, other)
        rank3 += count_before(own[3], 4 * quad + 3, others, other)
    ranks = (rank0, rank1, rank2, rank3)
    for i in tl.static_range(4):
        inside = 4 * quad + i < patches
        token = prefix + 4 * quad + i
        place = prefix + ranks[i]
        removed = place >= kept
        place = tl.where(removed, place + num_keep - kept, place)
        tl.store(shuffled + place, token.to(tl.int64), mask=inside)
        tl.store(restore + token, place.to(tl.int64), mask=inside)
        tl.store(mask + token, removed.to(tl.float32), mask=inside)

    if block == 0:
        lane = tl.arange(0, CHUNK)
        for start in range(0, prefix, CHUNK):
            first = start + lane
            tl.store(shuffled + first, first.to(tl.int64), mask=first < prefix)
            tl.store(restore + first, first.to(tl.int64), mask=first < prefix)
            tl.store(mask + first, tl.zeros((CHUNK,), tl.float32), mask=first < prefix)
        if keep is not None:
            none = tl.full((CHUNK,), -1, tl.int64)
            for start in range(kept, num_keep, CHUNK):
                tl.store(shuffled + start + lane, none, mask=start + lane < num_keep)
            for start in range(num_keep + length - kept, num_keep + num_masked, CHUNK):
                tl.store(shuffled + start + lane, none, mask=start + lane < num_keep + num_masked)
