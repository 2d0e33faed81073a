"""Parameters of augmented views in Triton, one launch; the formulas are those of csrc/common/sample_params.h.

Float64, nothing fused, quotients and roots correctly rounded: the bits are the same on every backend.
"""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl

from ..torch import sample_params as host

TRIES = tl.constexpr(host.TRIES)
FLIPS, GATES, EACH, FACTORS, REST = (
    tl.constexpr(block) for block in (host.FLIPS, host.GATES, host.EACH, host.FACTORS, host.REST)
)
LOG2E, LN2_HIGH, LN2_LOW = (tl.constexpr(c) for c in (host.LOG2E, host.LN2_HIGH, host.LN2_LOW))
EXP, EXP_TERMS = tl.constexpr(host.INVERSE_FACTORIALS), tl.constexpr(len(host.INVERSE_FACTORIALS))
COLUMNS = tl.constexpr(host.COLUMNS)
BLOCK = 128  # samples a program


def sample_params_fwd(
    seed: torch.Tensor,  # []
    sample_ids: torch.Tensor,  # [n]
    heights: torch.Tensor,  # [n], any stride
    widths: torch.Tensor,  # [n], any stride
    table: list[float],  # [V * 28]
) -> torch.Tensor:
    """Packed parameters int32 [n, V, 12]; a seed on the device is read there, one on the CPU is passed as a number."""
    device, n, views = sample_ids.device, len(sample_ids), len(table) // COLUMNS.value
    out = torch.empty((n, views, 12), dtype=torch.int32, device=device)
    with torch.cuda.device_of(sample_ids):
        sample_params_kernel[(triton.cdiv(n, BLOCK), views)](
            seed if seed.device == device else int(seed), sample_ids, heights, widths, _uploaded(tuple(table), device),
            out, n, views, sample_ids.stride(0), heights.stride(0), widths.stride(0),
            BLOCK=BLOCK, enable_fp_fusion=False,
        )  # fmt: skip
    return out


@functools.lru_cache(maxsize=64)
def _uploaded(table: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """The table on a device, copied once; from page-locked memory, so that the copy does not wait for the device."""
    numbers = torch.tensor(table, dtype=torch.float64)
    return numbers.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else numbers


@triton.jit
def uniform(word):
    return word.to(tl.float64) * 2.3283064365386963e-10  # 2^-32


@triton.jit
def between(low, high, u):
    return low + (high - low) * u


@triton.jit
def round_half_up(x):
    return tl.floor(x + 0.5)


@triton.jit
def exact_exp(x):
    """e^x from additions and products alone."""
    k = round_half_up(x * LOG2E)
    r = (x - k * LN2_HIGH) - k * LN2_LOW
    p = tl.zeros_like(r) + EXP[0]
    for i in tl.static_range(1, EXP_TERMS):
        p = p * r + EXP[i]
    return p * ((k.to(tl.int64) + 1023) << 52).to(tl.float64, bitcast=True)


@triton.jit
def order_word(index):
    """The permutation of 0..3 with that index in lexical order, a byte each, the first lowest."""
    a = index // 6
    # Each digit counts the unused numbers before it.
    b = index // 2 % 3
    b += (b >= a).to(tl.int32)
    c = index % 2
    c += (c >= tl.minimum(a, b)).to(tl.int32)
    c += (c >= tl.maximum(a, b)).to(tl.int32)
    return a | (b << 8) | (c << 16) | ((6 - a - b - c) << 24)


@triton.jit(do_not_specialize=["seed", "n", "views"])
def sample_params_kernel(
    seed,  # [] int64, or a number
    sample_ids,  # [n] int64
    heights,  # [n] int64
    widths,  # [n] int64
    table,  # [V, 28] float64
    out,  # [n, V, 12] int32
    n,
    views,
    stride_ids,
    stride_heights,
    stride_widths,
    BLOCK: tl.constexpr,
):
    """Program (i, v): BLOCK samples in view v."""
    at = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    mask = at < n
    view = tl.program_id(1)
    key = tl.load(seed) if seed.dtype.is_ptr() else seed.to(tl.int64)
    ids = tl.load(sample_ids + at * stride_ids, mask=mask, other=0)
    rows = tl.load(heights + at * stride_heights, mask=mask, other=1).to(tl.float64)
    columns = tl.load(widths + at * stride_widths, mask=mask, other=1).to(tl.float64)
    low = ids.to(tl.uint32)
    high = (ids >> 32).to(tl.uint32)
    recipe = table + view * COLUMNS
    record = out + (at * views + view) * 12

    # Fallback of the crop: the largest central one within the ratios.
    ratio_low = tl.load(recipe + 4)
    ratio_high = tl.load(recipe + 5)
    image_ratio = columns / rows
    h = tl.minimum(tl.where(image_ratio < ratio_low, round_half_up(columns / ratio_low), rows), rows)
    w = tl.minimum(tl.where(image_ratio > ratio_high, round_half_up(rows * ratio_high), columns), columns)
    top = tl.floor((rows - h) * 0.5)
    left = tl.floor((columns - w) * 0.5)
    found = at < 0
    for block in range(TRIES):
        u0, u1, u2, u3 = tl.philox(key, low, high, view, block)
        target = rows * columns * between(tl.load(recipe), tl.load(recipe + 1), uniform(u0))
        ratio = exact_exp(between(tl.load(recipe + 2), tl.load(recipe + 3), uniform(u1)))
        try_w = round_half_up(tl.sqrt(target * ratio))
        try_h = round_half_up(tl.sqrt(target / ratio))
        fits = (try_w > 0) & (try_w <= columns) & (try_h > 0) & (try_h <= rows) & (found == 0)
        h = tl.where(fits, try_h, h)
        w = tl.where(fits, try_w, w)
        top = tl.where(fits, tl.floor(uniform(u2) * (rows - try_h + 1)), top)
        left = tl.where(fits, tl.floor(uniform(u3) * (columns - try_w + 1)), left)
        found = found | fits
    tl.store(record, top.to(tl.int32), mask=mask)
    tl.store(record + 1, left.to(tl.int32), mask=mask)
    tl.store(record + 2, h.to(tl.int32), mask=mask)
    tl.store(record + 3, w.to(tl.int32), mask=mask)

    f0, f1, f2, f3 = tl.philox(key, low, high, view, FLIPS)
    jitter, permutation, gray, blur = tl.philox(key, low, high, view, GATES)
    turns = tl.where(uniform(f2) < tl.load(recipe + 8), 1 + (uniform(f3) * 3).to(tl.int32), 0)
    flags = (uniform(f0) < tl.load(recipe + 6)).to(tl.int32)
    flags |= (uniform(f1) < tl.load(recipe + 7)).to(tl.int32) << 8
    flags |= (turns << 16) | ((uniform(gray) < tl.load(recipe + 22)).to(tl.int32) << 24)
    tl.store(record + 4, flags, mask=mask)
    tl.store(record + 5, order_word(tl.umulhi(permutation, tl.full((1,), 24, tl.uint32)).to(tl.int32)), mask=mask)

    jittered = uniform(jitter) < tl.load(recipe + 9)
    each = tl.philox(key, low, high, view, EACH)
    factor = tl.philox(key, low, high, view, FACTORS)
    for step in tl.static_range(4):
        bounds = recipe + 14 + 2 * step
        drawn = between(tl.load(bounds), tl.load(bounds + 1), uniform(factor[step])).to(tl.float32)
        on = jittered & (uniform(each[step]) < tl.load(recipe + 10 + step))
        value = tl.where(on, drawn, 0.0 if step == 3 else 1.0)
        tl.store(record + 6 + step, value.to(tl.int32, bitcast=True), mask=mask)

    u, solarize, _, _ = tl.philox(key, low, high, view, REST)
    drawn = between(tl.load(recipe + 24), tl.load(recipe + 25), uniform(u)).to(tl.float32)
    sigma = tl.where(uniform(blur) < tl.load(recipe + 23), drawn, 0.0)
    tl.store(record + 10, sigma.to(tl.int32, bitcast=True), mask=mask)
    threshold = tl.load(recipe + 27).to(tl.float32)
    limit = tl.where(uniform(solarize) < tl.load(recipe + 26), threshold, float("inf"))
    tl.store(record + 11, limit.to(tl.int32, bitcast=True), mask=mask)
