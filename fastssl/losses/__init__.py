"""The losses as `nn.Module`s."""

from ._masked_mse import MaskedMSELoss
from ._ntxent import NTXentLoss

__all__ = ["MaskedMSELoss", "NTXentLoss"]
