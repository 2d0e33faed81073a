"""The draws of an augmented view in plain Python: Philox4x32-10, and torchvision's samplers on its words."""

from __future__ import annotations

import math

import torch

from ..functional import AugmentParams, Recipe, View


def philox(seed: int, counter: list[int]) -> list[int]:
    """Four 32-bit words, Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, 2011."""
    key, c, mask = [seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF], list(counter), 0xFFFFFFFF
    for _ in range(10):
        p, q = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(q >> 32) ^ c[1] ^ key[0], q & mask, (p >> 32) ^ c[3] ^ key[1], p & mask]
        key = [(key[0] + 0x9E3779B9) & mask, (key[1] + 0xBB67AE85) & mask]
    return c


def sample_params(recipe: Recipe, n: int, seed: int, image_size: tuple[int, int], first_id: int = 0) -> AugmentParams:
    """Parameters of samples first_id .. first_id + n - 1, one draw after another."""
    params = AugmentParams.neutral(n, len(recipe.views), image_size=image_size)
    for i in range(n):
        for v, view in enumerate(recipe.views):
            _sample(params, i, v, view, seed, first_id + i, *image_size)
    return params


def _sample(
    params: AugmentParams, i: int, v: int, view: View, seed: int, sample_id: int, height: int, width: int
) -> None:
    def draw(block: int) -> list[float]:
        return [w / 2**32 for w in philox(seed, [sample_id & 0xFFFFFFFF, sample_id >> 32, v, block])]

    params.crop[i, v] = torch.tensor(_crop(view, draw, height, width))
    hflip, vflip, rotate, turns = draw(10)
    params.hflip[i, v], params.vflip[i, v] = hflip < view.hflip_p, vflip < view.vflip_p
    params.turns[i, v] = 1 + int(3 * turns) if rotate < view.rotate_p else 0
    jitter, permutation, gray, blur = draw(11)
    left, index = [0, 1, 2, 3], int(24 * permutation)
    params.order[i, v] = torch.tensor([left.pop(k) for k in (index // 6, index // 2 % 3, index % 2, 0)])
    for name, strength, p, gate, u in zip(
        ("brightness", "contrast", "saturation", "hue"),
        view.jitter,
        view.jitter_each_p,
        draw(12),
        draw(13),
        strict=True,
    ):
        low, high = (-strength, strength) if name == "hue" else (max(0.0, 1 - strength), 1 + strength)
        if jitter < view.jitter_p and strength and gate < p:
            getattr(params, name)[i, v] = low + (high - low) * u
    params.gray[i, v] = gray < view.gray_p
    u, solarize, _, _ = draw(14)
    if blur < view.blur_p:
        params.sigma[i, v] = view.sigma[0] + (view.sigma[1] - view.sigma[0]) * u
    if solarize < view.solarize_p:
        params.threshold[i, v] = view.threshold


def _crop(view: View, draw, height: int, width: int) -> list[int]:  # type: ignore[no-untyped-def]
    """RandomResizedCrop of torchvision: ten tries, each with a Philox block of its own, then a central crop."""
    log_low, log_high = (math.log(r) for r in view.ratio)
    for block in range(10):
        u = draw(block)
        area = height * width * (view.scale[0] + (view.scale[1] - view.scale[0]) * u[0])
        ratio = math.exp(log_low + (log_high - log_low) * u[1])
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return [int(u[2] * (height - h + 1)), int(u[3] * (width - w + 1)), h, w]
    h = min(height, round(width / view.ratio[0])) if width / height < view.ratio[0] else height
    w = min(width, round(height * view.ratio[1])) if width / height > view.ratio[1] else width
    return [(height - h) // 2, (width - w) // 2, h, w]
