"""The losses as `nn.Module`s."""

from ._ntxent import NTXentLoss

__all__ = ["NTXentLoss"]
