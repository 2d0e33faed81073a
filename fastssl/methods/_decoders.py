"""The decoders of autoencoders: what makes images of a code, and of nothing else."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn

from ._heads import mlp
from ._mlp import MLPEncoder

Shape = tuple[int, ...]


def make_decoder(encoder: nn.Module, code: Shape, dim: int, image: Shape) -> nn.Module:
    """Make the decoder that fits an encoder: fully connected for an `MLPEncoder`, else convolutional.

    Args:
        encoder: whose widths a fully connected decoder takes in the opposite order.
        code: shape (d,) or (d, h, w).
        dim: channels of the smallest map of a convolutional decoder, halved with each doubling down to 16.
        image: shape (C, H, W).
    """
    if isinstance(encoder, MLPEncoder):
        return MLPDecoder((code[0], *reversed(encoder.widths[:-1])), image)
    return ConvDecoder(code, dim, image)


class MLPDecoder(nn.Module):
    """Codes [N, widths[0]] -> images [N, C, H, W], by linear layers with batch norm and ReLU between them."""

    def __init__(self, widths: tuple[int, ...], image: Shape) -> None:
        super().__init__()
        self.image = image
        self.layers = mlp((*widths, math.prod(image)), last_bias=True)

    def forward(self, code: Tensor) -> Tensor:
        made: Tensor = self.layers(code)
        return made.view(-1, *self.image)


class ConvDecoder(nn.Module):
    """Codes [N, d] or [N, d, h, w] -> images [N, C, H, W], by maps that double up to the image.

    A code without height and width first becomes a map of 4 to 7 pixels a side.
    """

    def __init__(self, code: Shape, dim: int, image: Shape) -> None:
        super().__init__()
        channels, *size = image
        least = 4 if len(code) == 1 else max(1, min(code[1:]))
        doublings = 0
        while min(size) >> (doublings + 1) >= least:
            doublings += 1
        # Sides that are no power of two times a small one grow by a little less than two somewhere.
        self.sizes = [tuple(-(-side // 2**k) for side in size) for k in range(doublings, -1, -1)]
        self.dims = [max(16, dim >> k) for k in range(doublings + 1)]
        first = self.dims[0]
        self.embed: nn.Module = (
            nn.Linear(code[0], first * math.prod(self.sizes[0])) if len(code) == 1 else nn.Conv2d(code[0], first, 1)
        )
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU(inplace=True))
            for a, b in itertools.pairwise(self.dims)
        )
        self.last = nn.Conv2d(self.dims[-1], channels, 3, padding=1)

    def forward(self, code: Tensor) -> Tensor:
        x: Tensor = self.embed(code).relu()
        x = x.view(-1, self.dims[0], *self.sizes[0]) if code.ndim == 2 else _resized(x, self.sizes[0])
        for size, stage in zip(self.sizes[1:], self.stages, strict=True):
            x = stage(_resized(x, size))
        made: Tensor = self.last(x)
        return made


def _resized(x: Tensor, size: Shape) -> Tensor:
    return x if x.shape[2:] == torch.Size(size) else nn.functional.interpolate(x, size=size)
