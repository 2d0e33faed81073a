"""Losses on the statistics of a batch: no negatives, but features that must not say the same twice."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..functional._peers import Gather, Peers, check_gather, peers


class BarlowTwinsLoss(torch.nn.Module):
    r"""Barlow Twins: the cross-correlation of two views' features is to be the identity.

    With c_ij = 1/N sum_n a_ni b_nj of features standardised over the batch, (z - mean) / sqrt(var + 1e-5), var biased:

        loss = sum_i (1 - c_ii)^2 + lambda sum_{i != j} c_ij^2

    Args:
        lambda_param: lambda, the weight of the second sum.
        gather_distributed: over the batch of all processes: one [D, D] matrix and means and variances are exchanged, so
            the value is that of one process with the whole batch, on every process, and its gradient is exact under
            DistributedDataParallel. True, "all_gather" and "ring" are the same here; batches may differ in size.

    Shapes: two tensors [N, D] in, N >= 2, a 0-d float32 (float64 for float64) tensor out, also under autocast.

    Source: Zbontar et al., Barlow Twins, 2021, eq. 1.
    """

    def __init__(self, lambda_param: float = 5e-3, gather_distributed: bool | str = False) -> None:
        super().__init__()
        check_gather(gather_distributed)
        self.lambda_param, self.gather_distributed = lambda_param, gather_distributed

    def forward(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        """Return the loss of the features of two views."""
        return barlow_twins(z_a, z_b, self.lambda_param, self.gather_distributed)

    def extra_repr(self) -> str:
        return f"lambda_param={self.lambda_param}, gather_distributed={self.gather_distributed!r}"


class VICRegLoss(torch.nn.Module):
    r"""VICReg: views alike (invariance), features that vary (variance) and do not say the same (covariance).

    With v(z) = 1/D sum_i max(0, 1 - sqrt(var z_i + eps)) and c(z) = 1/D sum_{i != j} cov(z)_ij^2, var and cov unbiased:

        loss = lambda mse(z_a, z_b) + mu (v(z_a) + v(z_b)) / 2 + nu (c(z_a) + c(z_b))

    Args:
        lambda_param, mu_param, nu_param: the weights of invariance, variance and covariance.
        gather_distributed: over the batch of all processes; see `BarlowTwinsLoss`.
        eps: keeps the square root differentiable.

    Shapes: two tensors [N, ..., D] in, N >= 2, a 0-d float32 (float64 for float64) tensor out, also under autocast.
    Variance and covariance are those over N at each place of the axes in between, of which the mean is taken.

    Source: Bardes et al., VICReg, 2022, eq. 6; its variance term is halved, as in the authors' code.
    """

    def __init__(
        self,
        lambda_param: float = 25.0,
        mu_param: float = 25.0,
        nu_param: float = 1.0,
        gather_distributed: bool | str = False,
        eps: float = 1e-4,
    ) -> None:
        super().__init__()
        check_gather(gather_distributed)
        self.lambda_param, self.mu_param, self.nu_param = lambda_param, mu_param, nu_param
        self.gather_distributed, self.eps = gather_distributed, eps

    def forward(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        """Return the loss of the features of two views."""
        weights = (self.lambda_param, self.mu_param, self.nu_param)
        return vicreg(z_a, z_b, weights, self.gather_distributed, self.eps)

    def extra_repr(self) -> str:
        weights = f"lambda_param={self.lambda_param}, mu_param={self.mu_param}, nu_param={self.nu_param}"
        return f"{weights}, gather_distributed={self.gather_distributed!r}, eps={self.eps}"


def barlow_twins(
    z_a: Tensor, z_b: Tensor, lambda_param: float, gather: Gather, local_statistics: bool = False
) -> Tensor:
    """Return the loss of `BarlowTwinsLoss`.

    With `local_statistics` each process standardises its own batch, and the mean of their matrices is taken.
    """
    _alike(z_a, z_b)
    if z_a.ndim != 2:
        raise ValueError(f"z_a: got shape {tuple(z_a.shape)}, want [N, D]")
    found = peers(gather, len(z_a), z_a.device)
    over = Peers(len(z_a)) if local_statistics else found
    _several(over)
    with torch.autocast(z_a.device.type, enabled=False):
        both = torch.stack(_exact(z_a, z_b))  # [2, N, D]: one exchange for both views
        centred = both - _total(both.sum(1, keepdim=True), over) / over.total
        variance = _total(centred.square().sum(1, keepdim=True), over) / over.total
        a, b = (centred * (variance + 1e-5).rsqrt()).unbind()
        rows = over.total * (found.count if local_statistics else 1)
        c = _total(a.T @ b / rows, found)
        return (c.diagonal() - 1).square().sum() + lambda_param * _off_diagonal(c).square().sum()


def vicreg(z_a: Tensor, z_b: Tensor, weights: tuple[float, float, float], gather: Gather, eps: float) -> Tensor:
    """Return the loss of `VICRegLoss` with these weights."""
    _alike(z_a, z_b)
    if z_a.ndim < 2:
        raise ValueError(f"z_a: got shape {tuple(z_a.shape)}, want [N, ..., D]")
    found = peers(gather, len(z_a), z_a.device)
    _several(found)
    with torch.autocast(z_a.device.type, enabled=False):
        z = torch.stack(_exact(z_a, z_b))
        invariance = _total((z[0] - z[1]).square().sum(), found) / (found.total * z[0, 0].numel())
        centred = z - _total(z.sum(1, keepdim=True), found) / found.total
        # Not the diagonal of the covariance, whose products an accelerator may round.
        variance = _total(centred.square().sum(1), found) / (found.total - 1)
        deviation = (variance + eps).sqrt()
        covariance = torch.einsum("vn...c,vn...d->v...cd", centred, centred) / (found.total - 1)
        covariance = _total(covariance, found)
        excess = _off_diagonal(covariance).square().sum((-2, -1)) / z.shape[-1]
        terms = invariance, (1 - deviation).relu().mean(), 2 * excess.mean()
        return sum((weight * term for weight, term in zip(weights, terms, strict=True)), z.new_zeros(()))


def _alike(z_a: Tensor, z_b: Tensor) -> None:
    for name, z in (("z_a", z_a), ("z_b", z_b)):
        if not isinstance(z, Tensor) or not z.dtype.is_floating_point:
            got = str(z.dtype) if isinstance(z, Tensor) else type(z).__name__
            raise TypeError(f"{name}: got {got}, want a float tensor")
    if z_b.shape != z_a.shape or z_b.device != z_a.device:
        got, want = (f"{tuple(z.shape)} on {z.device}" for z in (z_b, z_a))
        raise ValueError(f"z_b: got {got}, want the shape and device of z_a, {want}")
    if z_a.numel() == 0:
        raise ValueError(f"z_a: got shape {tuple(z_a.shape)}, want no axis of length 0")


def _several(found: Peers) -> None:
    if found.total < 2:
        raise ValueError(f"z_a: got {found.total} row, want at least 2: one row has no variance")


def _exact(*tensors: Tensor) -> list[Tensor]:
    kind = torch.float64 if any(x.dtype == torch.float64 for x in tensors) else torch.float32
    return [x.to(kind) for x in tensors]


def _off_diagonal(x: Tensor) -> Tensor:
    """Return [..., D, D] with zeros in the diagonal, where a difference of sums would leave roundings."""
    return x - torch.diag_embed(x.diagonal(dim1=-2, dim2=-1))


def _total(x: Tensor, found: Peers) -> Tensor:
    """Return the sum over the processes, whose pullback is the same sum: each has the whole loss from it."""
    if found.count == 1:
        return x
    total: Tensor = _AllReduce.apply(x)
    return total


class _AllReduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: object, grad: Tensor) -> Tensor:  # type: ignore[override]
        total = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total
