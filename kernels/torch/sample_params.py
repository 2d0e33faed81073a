"""Parameters of augmented views in torch ops, for any device; float64 additions and products, never fused.

The formulas, their order and the Philox blocks are those of csrc/common/sample_params.h, bit for bit.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .philox import philox

TRIES = 10
FLIPS, GATES, EACH, FACTORS, REST = range(TRIES, TRIES + 5)  # Philox blocks after those of the crops
COLUMNS = 28
LOG2E, LN2_HIGH, LN2_LOW = 1.4426950408889634, 0.6931471803691238, 1.9082149292705877e-10
# 1/13!, 1/12! ... 1/0!, as doubles
INVERSE_FACTORIALS = (
    1.6059043836821613e-10, 2.08767569878681e-09, 2.505210838544172e-08, 2.755731922398589e-07, 2.7557319223985893e-06,
    2.48015873015873e-05, 0.0001984126984126984, 0.001388888888888889, 0.008333333333333333, 0.041666666666666664,
    0.16666666666666666, 0.5, 1.0, 1.0,
)  # fmt: skip


def exp(x: Tensor) -> Tensor:
    """e^x in float64 from additions and products alone, so that every device gives the same bits."""
    k = (x * LOG2E + 0.5).floor()
    r = (x - k * LN2_HIGH) - k * LN2_LOW
    p = torch.full_like(r, INVERSE_FACTORIALS[0])
    for c in INVERSE_FACTORIALS[1:]:
        p = p * r + c
    return p * ((k.long() + 1023) << 52).view(torch.float64)


def sample_params_fwd(seed: Tensor, sample_ids: Tensor, heights: Tensor, widths: Tensor, table: list[float]) -> Tensor:
    """Packed parameters int32 [n, V, 12]; ids, heights, widths int64 [n], seed int64 []."""
    device, n, views = sample_ids.device, len(sample_ids), len(table) // COLUMNS
    rows = torch.tensor(table, dtype=torch.float64, device=device).view(views, COLUMNS).T[:, None]  # [28, 1, V]
    (
        scale_low, scale_high, log_low, log_high, ratio_low, ratio_high, hflip_p, vflip_p, rotate_p, jitter_p,
    ), each_p, bounds, (gray_p, blur_p, sigma_low, sigma_high, solarize_p, threshold) = (
        rows[:10], rows[10:14], rows[14:22], rows[22:],
    )  # fmt: skip
    seed = seed.to(device)
    low, high = (sample_ids & 0xFFFFFFFF)[:, None], ((sample_ids >> 32) & 0xFFFFFFFF)[:, None]
    view = torch.arange(views, device=device)

    def words(block: int) -> list[Tensor]:
        return philox(seed, (low, high, view, block))

    def uniform(block: int) -> list[Tensor]:
        return [w.double() * 2.0**-32 for w in words(block)]

    def between(a: Tensor, b: Tensor, u: Tensor) -> Tensor:
        return a + (b - a) * u

    height, width = heights[:, None].double(), widths[:, None].double()
    area = height * width
    found = torch.zeros(n, views, dtype=torch.bool, device=device)
    # Fallback: the largest central crop within the ratios.
    image_ratio = width / height
    tall, wide = image_ratio < ratio_low, image_ratio > ratio_high
    h = torch.where(tall, (width / ratio_low + 0.5).floor(), height.expand(n, views)).minimum(height)
    w = torch.where(wide, (height * ratio_high + 0.5).floor(), width.expand(n, views)).minimum(width)
    top, left = ((height - h) * 0.5).floor(), ((width - w) * 0.5).floor()
    for block in range(TRIES):
        u = uniform(block)
        target, ratio = area * between(scale_low, scale_high, u[0]), exp(between(log_low, log_high, u[1]))
        try_w, try_h = ((target * ratio).sqrt() + 0.5).floor(), ((target / ratio).sqrt() + 0.5).floor()
        fits = (try_w > 0) & (try_w <= width) & (try_h > 0) & (try_h <= height) & ~found
        top = torch.where(fits, (u[2] * (height - try_h + 1)).floor(), top)
        left = torch.where(fits, (u[3] * (width - try_w + 1)).floor(), left)
        h, w, found = torch.where(fits, try_h, h), torch.where(fits, try_w, w), found | fits

    out = torch.empty(n, views, 12, dtype=torch.int32, device=device)
    for i, field in enumerate((top, left, h, w)):
        out[..., i] = field.int()
    hflip, vflip, rotate, turns = uniform(FLIPS)
    which = words(GATES)
    jitter, _, gray, blur = (word.double() * 2.0**-32 for word in which)
    jittered = jitter < jitter_p
    quarter = torch.where(rotate < rotate_p, 1 + (turns * 3).long(), 0)
    flags = [(hflip < hflip_p).long(), (vflip < vflip_p).long(), quarter, (gray < gray_p).long()]
    out[..., 4] = sum(flag << (8 * i) for i, flag in enumerate(flags)).int()
    out[..., 5] = order_word((which[1] * 24) >> 32).int()
    neutral = (1.0, 1.0, 1.0, 0.0)
    for i, (gate, u) in enumerate(zip(uniform(EACH), uniform(FACTORS), strict=True)):
        drawn = between(bounds[2 * i], bounds[2 * i + 1], u).float()
        on = jittered & (gate < each_p[i])
        out[..., 6 + i] = torch.where(on, drawn, neutral[i]).view(torch.int32)
    u, solarize, *_ = uniform(REST)
    sigma = torch.where(blur < blur_p, between(sigma_low, sigma_high, u).float(), 0.0)
    out[..., 10] = sigma.view(torch.int32)
    limit = torch.where(solarize < solarize_p, threshold.float(), float("inf"))
    out[..., 11] = limit.view(torch.int32)
    return out


def order_word(index: Tensor) -> Tensor:
    """The permutation of 0..3 with that index in [0, 24) in lexical order, a byte each, the first lowest."""
    a, b, c = index // 6, index // 2 % 3, index % 2
    # Each digit counts the unused numbers before it.
    second = b + (b >= a)
    low, high = torch.minimum(a, second), torch.maximum(a, second)
    third = c + (c >= low)
    third = third + (third >= high)
    fourth = 6 - a - second - third
    return a | (second << 8) | (third << 16) | (fourth << 24)
