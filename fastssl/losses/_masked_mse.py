from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..functional import masked_mse


class MaskedMSELoss(torch.nn.Module):
    """Reconstruction loss of masked patches as a module: MAE's, with ``loss="l1"`` SimMIM's.

    Args:
        patch_size: p, (p, q) or (t, p, q) in pixels; None for targets that are features [N, L, D].
        norm_pix, loss, beta, channels_last, mean, std: as for `fastssl.functional.masked_mse`, where the formula is.

    Shapes: predictions [N, L, C t p q], images [N, C, H, W] and a mask [N, L] in (or predictions [N, M, C t p q] and
    ids int64 [N, M] of the masked patches), a 0-d float32 tensor out.

    >>> criterion = fastssl.MaskedMSELoss(patch_size=16)
    >>> loss = criterion(decoder(latent, ids_restore), images, mask)
    """

    def __init__(
        self,
        patch_size: int | Sequence[int] | None = None,
        norm_pix: bool = True,
        loss: str = "mse",
        beta: float = 1.0,
        channels_last: bool = True,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.patch_size, self.norm_pix, self.loss, self.beta = patch_size, norm_pix, loss, beta
        self.channels_last, self.mean, self.std = channels_last, mean, std

    def forward(self, pred: Tensor, images: Tensor, masked: Tensor) -> Tensor:
        """Return the mean loss of the masked patches."""
        return masked_mse(
            pred, images, masked, self.patch_size, norm_pix=self.norm_pix, loss=self.loss, beta=self.beta,
            channels_last=self.channels_last, mean=self.mean, std=self.std,
        )  # fmt: skip

    def extra_repr(self) -> str:
        return f"patch_size={self.patch_size}, norm_pix={self.norm_pix}, loss={self.loss!r}"
