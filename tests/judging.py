"""What tests of judgements have in common: features and images whose answer is known."""

from __future__ import annotations

import json

import torch
from torch import nn

from fastssl import data
from fastssl.evaluate import Features


def clusters(n=60, classes=3, spread=0.05, seed=0, width=8):
    """Features around one corner a class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    x = torch.eye(width)[labels] + spread * torch.randn(n, width, generator=generator)
    return Features(x, labels, tuple("abcdefgh"[:classes]))


def bars(n, seed, classes=3):
    """Grey pictures whose class is the row of a bright bar."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    images = torch.randint(0, 100, (n, 1, 8, 8), generator=generator)
    images[torch.arange(n), 0, 1 + 2 * labels] += 150
    return data.TensorImages(images.to(torch.uint8), labels)


class Pooled(nn.Module):
    """An encoder without weights: means over cells, of images of any size and channels."""

    def __init__(self, cells=4):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(cells)

    def forward(self, x):
        return self.pool(x).flatten(1)


def check_result(result, *told):
    """Check that a result can be kept as JSON, with its scores, its protocol and what the latter must tell."""
    kept = json.loads(json.dumps(result.to_dict()))
    assert kept["scores"] == result.scores
    assert list(kept)[-1] == "protocol"
    assert all(isinstance(value, float) for value in result.scores.values())
    assert set(told) <= set(result.protocol), set(told) - set(result.protocol)
    return kept
