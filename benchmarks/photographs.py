"""The images that augmentation is measured on."""

from __future__ import annotations

import functools

import torch
from torch import Tensor


@functools.cache
def _sources() -> list[Tensor]:
    """Two photographs [3, 427, 640], which come with scikit-learn; without it, smooth random pictures."""
    try:
        from sklearn.datasets import load_sample_images
    except ImportError:
        coarse = torch.rand(2, 3, 27, 40, generator=torch.Generator().manual_seed(0))
        return list(torch.nn.functional.interpolate(coarse, (427, 640), mode="bicubic").mul(255))
    return [torch.tensor(image).permute(2, 0, 1) for image in load_sample_images().images]


@functools.cache
def photographs(n: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Random crops of photographs, scaled down to uint8 [n, 3, height, width], which averages out noise and blocks."""
    generator, images = torch.Generator().manual_seed(seed), []
    for i in range(n):
        source = _sources()[i % 2]
        most = min(source.shape[1] / height, source.shape[2] / width)
        by = 1 + (most - 1) * torch.rand((), generator=generator).item()
        sides = int(by * height), int(by * width)
        top, left = (
            int(torch.randint(a - b + 1, (), generator=generator)) for a, b in zip(source.shape[1:], sides, strict=True)
        )
        crop = source[None, :, top : top + sides[0], left : left + sides[1]].float()
        crop = torch.nn.functional.interpolate(crop, (height, width), mode="bilinear", antialias=True)
        images.append(crop[0].round().clamp(0, 255).to(torch.uint8))
    return torch.stack(images)
