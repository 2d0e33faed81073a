"""The heads of methods: multi-layer perceptrons between features and losses."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import nn


def mlp(widths: Sequence[int], *, last_norm: bool = False, last_bias: bool = False) -> nn.Sequential:
    """Make linear layers with batch norm and ReLU between them.

    Args:
        widths: of the input, of each hidden layer, and of the output.
        last_norm: batch norm after the last layer, too, without scale and shift.
        last_bias: a bias in the last layer; the others, which batch norm follows, have no use for one.

    Returns:
        A module [B, widths[0]] -> [B, widths[-1]].
    """
    layers: list[nn.Module] = []
    for inner, outer in itertools.pairwise(widths[:-1]):
        layers += [nn.Linear(inner, outer, bias=False), nn.BatchNorm1d(outer), nn.ReLU(inplace=True)]
    layers.append(nn.Linear(widths[-2], widths[-1], bias=last_bias))
    if last_norm:
        layers.append(nn.BatchNorm1d(widths[-1], affine=False))
    return nn.Sequential(*layers)
