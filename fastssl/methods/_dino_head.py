"""The head of DINO: from features to logits of many prototypes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import _checks
from ..functional._similarity import unit_rows


class DINOHead(nn.Module):
    """A perceptron of three layers, whose unit outputs are compared with K prototypes.

        logits_k = g_k h . v_k / |v_k|,      h = mlp(x) / |mlp(x)|

    Args:
        width: f, of the features.
        out_dim: K, the number of prototypes.
        hidden_dim: width of the two hidden layers.
        bottleneck_dim: width of h and of the prototypes v_k.
        norm_last_layer: keep g = 1; otherwise it is learned.
        batch_norm: batch norm before the activations, which DINO's authors use with SGD and ResNets.

    Raises:
        ValueError: a width is no int >= 1.

    Shapes: [N, f] in, [N, K] out. Weights start as truncated normals of deviation 0.02, biases at 0.

    Source: Caron et al. 2021, appendix C, and its code.
    """

    def __init__(
        self,
        width: int,
        out_dim: int = 65536,
        hidden_dim: int = 2048,
        bottleneck_dim: int = 256,
        norm_last_layer: bool = True,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        for name, value in (("out_dim", out_dim), ("hidden_dim", hidden_dim), ("bottleneck_dim", bottleneck_dim)):
            _checks.positive_int(name, value)
        layers: list[nn.Module] = []
        for inner in (width, hidden_dim):
            norm = [nn.BatchNorm1d(hidden_dim)] if batch_norm else []
            layers += [nn.Linear(inner, hidden_dim), *norm, nn.GELU()]
        self.mlp = nn.Sequential(*layers, nn.Linear(hidden_dim, bottleneck_dim))
        for part in self.mlp:
            if isinstance(part, nn.Linear):
                nn.init.trunc_normal_(part.weight, std=0.02)
                nn.init.zeros_(part.bias)
        self.last_layer = nn.Linear(bottleneck_dim, out_dim, bias=False)
        self.g = None if norm_last_layer else nn.Parameter(torch.ones(out_dim, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits [N, K] of features [N, f]."""
        h = self.mlp(x)
        # In float32, where no row of 16 bits is too small to be normalised.
        h = unit_rows(h.to(torch.promote_types(h.dtype, torch.float32))).to(h.dtype)
        weight = unit_rows(self.last_layer.weight)
        return F.linear(h, weight if self.g is None else self.g * weight)

    def drop_last_gradients(self) -> None:
        """Take the gradients of the last layer away, so that the optimizer leaves it as it is."""
        for p in (self.last_layer.weight, self.g):
            if p is not None:
                p.grad = None
