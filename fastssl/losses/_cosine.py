from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


class NegativeCosineSimilarity(torch.nn.Module):
    """SimSiam's loss, -mean cos(x0, x1), in float32 or better also under autocast.

    Args:
        dim: the axis of the features.
        eps: the least that a product of norms counts as, as in `torch.nn.functional.cosine_similarity`.

    Shapes: two tensors [N, D] in, a 0-d float32 (float64 for float64) tensor in [-1, 1] out. Both get gradients: detach
    the targets, as SimSiam does.

    Source: Chen and He, Exploring Simple Siamese Representation Learning, 2021, eq. 1.

    >>> criterion = NegativeCosineSimilarity()
    >>> loss = 0.5 * (criterion(p0, z1.detach()) + criterion(p1, z0.detach()))
    """

    def __init__(self, dim: int = 1, eps: float = 1e-8) -> None:
        super().__init__()
        self.dim, self.eps = dim, eps

    def forward(self, x0: Tensor, x1: Tensor) -> Tensor:
        """Return the negative mean of the cosines of x0 and x1."""
        return -cosines(x0, x1, self.dim, self.eps).mean()

    def extra_repr(self) -> str:
        return f"dim={self.dim}, eps={self.eps}"


class BYOLLoss(torch.nn.Module):
    """BYOL's loss, mean |p/|p| - z/|z||^2 = 2 - 2 mean cos(p, z), of predictions p and targets z, which are detached.

    Shapes: predictions and targets [N, D] in; with those of the other direction, too, the result is the sum of both, as
    in the paper. A 0-d float32 (float64 for float64) tensor in [0, 4], or [0, 8], out.

    Source: Grill et al., Bootstrap Your Own Latent, 2020, eq. 2.

    >>> loss = BYOLLoss()(p0, z1, p1, z0)
    """

    def forward(self, p0: Tensor, z1: Tensor, p1: Tensor | None = None, z0: Tensor | None = None) -> Tensor:
        """Return the loss of predicting z1 by p0 and, if given, z0 by p1."""
        if (p1 is None) != (z0 is None):
            raise ValueError(f"{'p1' if p1 is None else 'z0'}: got None, want both of p1 and z0, or neither")
        loss = 2 - 2 * cosines(p0, z1.detach()).mean()
        if p1 is None or z0 is None:
            return loss
        return loss + (2 - 2 * cosines(p1, z0.detach()).mean())


def cosines(x: Tensor, y: Tensor, dim: int = -1, eps: float = 1e-8) -> Tensor:
    """Return the cosines of float tensors along an axis in float32, or float64 where one is."""
    for name, tensor in (("first argument", x), ("second argument", y)):
        if not isinstance(tensor, Tensor) or not tensor.dtype.is_floating_point or tensor.numel() == 0:
            got = f"{tensor.dtype} {tuple(tensor.shape)}" if isinstance(tensor, Tensor) else type(tensor).__name__
            raise TypeError(f"{name}: got {got}, want a float tensor that is not empty")
    exact = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    with torch.autocast(x.device.type, enabled=False):
        return F.cosine_similarity(x.to(exact), y.to(exact), dim, eps)
