"""Modules of the contrastive losses: their settings, and the function that has the formula."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .. import _checks, functional
from ..functional._peers import check_gather
from ..functional._similarity import REDUCTIONS, choice


class _Loss(nn.Module):
    """The settings of a loss as attributes; a tensor among them is a buffer, or a parameter."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        if "temperature" in settings:
            tau = settings["temperature"]
            _checks.positive_scalar("temperature", tau, getattr(tau, "device", torch.device("cpu")))
        check_gather(settings["gather_distributed"])
        self._settings = tuple(settings)
        for name, value in settings.items():
            if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)

    def _given(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._settings}

    def extra_repr(self) -> str:
        return ", ".join(f"{k}={v!r}" for k, v in self._given().items() if not isinstance(v, Tensor))


class InfoNCELoss(_Loss):
    """InfoNCE of queries, positive keys and optional negative keys; see `fastssl.functional.info_nce`.

    >>> loss = InfoNCELoss(temperature=0.1)(query, positive_key, negative_keys)
    """

    def __init__(
        self,
        temperature: float | Tensor = 0.1,
        reduction: str = "mean",
        negative_mode: str = "unpaired",
        symmetric: bool = False,
        normalize: bool = True,
        gather_distributed: bool | str = False,
    ) -> None:
        choice("reduction", reduction, REDUCTIONS)
        choice("negative_mode", negative_mode, ("unpaired", "paired"))
        super().__init__(
            temperature=temperature, reduction=reduction, negative_mode=negative_mode, symmetric=symmetric,
            normalize=normalize, gather_distributed=gather_distributed,
        )  # fmt: skip

    def forward(self, query: Tensor, positive_key: Tensor, negative_keys: Tensor | None = None) -> Tensor:
        """Return the loss of queries [N, D], keys [N, D] and negatives [M, D], [N, M, D] or None."""
        return functional.info_nce(query, positive_key, negative_keys, **self._given())


class MoCoLoss(_Loss):
    """MoCo's loss of queries, keys and a queue; see `fastssl.functional.moco`.

    >>> loss = MoCoLoss(temperature=0.2)(q, k, queue.rows)
    >>> queue.enqueue(k)
    """

    def __init__(self, temperature: float | Tensor = 0.2, gather_distributed: bool | str = False) -> None:
        super().__init__(temperature=temperature, gather_distributed=gather_distributed)

    def forward(self, query: Tensor, key: Tensor, queue: Tensor) -> Tensor:
        """Return the loss of queries [N, D], keys [N, D] and unit rows [K, D]."""
        return functional.moco(query, key, queue, **self._given())


class CLIPLoss(_Loss):
    """CLIP's symmetric cross-entropy; see `fastssl.functional.clip`.

    >>> loss = CLIPLoss()(image_features, text_features, log_scale.exp())
    """

    def __init__(self, normalize: bool = True, gather_distributed: bool | str = False) -> None:
        super().__init__(normalize=normalize, gather_distributed=gather_distributed)

    def forward(self, image_features: Tensor, text_features: Tensor, logit_scale: float | Tensor = 1 / 0.07) -> Tensor:
        """Return the loss of image and text features [N, D]."""
        return functional.clip(image_features, text_features, logit_scale, **self._given())


class SigLIPLoss(_Loss):
    """SigLIP's pairwise sigmoid loss; see `fastssl.functional.siglip`.

    >>> loss = SigLIPLoss()(image_features, text_features, log_scale.exp(), bias)
    """

    def __init__(self, normalize: bool = True, gather_distributed: bool | str = False) -> None:
        super().__init__(normalize=normalize, gather_distributed=gather_distributed)

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: float | Tensor = 10.0,
        logit_bias: float | Tensor = -10.0,
        labels: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of image and text features [N, D], with labels [N] where several match."""
        return functional.siglip(
            image_features, text_features, logit_scale, logit_bias, labels, **self._given()
        )  # fmt: skip


class SupConLoss(_Loss):
    """Supervised contrastive loss; see `fastssl.functional.supcon`."""

    def __init__(
        self, temperature: float | Tensor = 0.1, normalize: bool = True, gather_distributed: bool | str = False
    ) -> None:
        super().__init__(temperature=temperature, normalize=normalize, gather_distributed=gather_distributed)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of embeddings [m, d] and labels [m]."""
        return functional.supcon(z, labels, **self._given())


class MultiPositiveNTXentLoss(_Loss):
    """NT-Xent with several positives a row; see `fastssl.functional.multi_positive_ntxent`."""

    def __init__(
        self, temperature: float | Tensor = 0.07, normalize: bool = True, gather_distributed: bool | str = False
    ) -> None:
        super().__init__(temperature=temperature, normalize=normalize, gather_distributed=gather_distributed)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of embeddings [m, d] and labels [m]."""
        return functional.multi_positive_ntxent(z, labels, **self._given())


class DCLLoss(_Loss):
    """Decoupled contrastive loss; see `fastssl.functional.dcl`."""

    def __init__(self, temperature: float | Tensor = 0.1, gather_distributed: bool | str = False) -> None:
        super().__init__(temperature=temperature, gather_distributed=gather_distributed)

    def forward(self, z0: Tensor, z1: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the loss of views [N, d] and, if given, weights [N] of the positives."""
        return functional.dcl(z0, z1, weights=weights, **self._given())


class DCLWLoss(_Loss):
    """Decoupled contrastive loss with weighted positives; see `fastssl.functional.dclw`."""

    def __init__(
        self, temperature: float | Tensor = 0.1, sigma: float = 0.5, gather_distributed: bool | str = False
    ) -> None:
        super().__init__(temperature=temperature, sigma=sigma, gather_distributed=gather_distributed)

    def forward(self, z0: Tensor, z1: Tensor) -> Tensor:
        """Return the loss of views [N, d]."""
        return functional.dclw(z0, z1, **self._given())


class HardNegativeNTXentLoss(_Loss):
    """NT-Xent with hard negatives weighted up; see `fastssl.functional.hard_negative_ntxent`."""

    def __init__(
        self,
        temperature: float | Tensor = 0.5,
        beta: float = 1.0,
        tau_plus: float = 0.1,
        gather_distributed: bool | str = False,
    ) -> None:
        super().__init__(temperature=temperature, beta=beta, tau_plus=tau_plus, gather_distributed=gather_distributed)

    def forward(self, z0: Tensor, z1: Tensor) -> Tensor:
        """Return the loss of views [N, d]."""
        return functional.hard_negative_ntxent(z0, z1, **self._given())


class CPCLoss(_Loss):
    """InfoNCE of predictions several steps ahead; see `fastssl.functional.cpc`."""

    def __init__(
        self, temperature: float | Tensor = 1.0, normalize: bool = False, gather_distributed: bool | str = False
    ) -> None:
        super().__init__(temperature=temperature, normalize=normalize, gather_distributed=gather_distributed)

    def forward(self, predictions: Sequence[Tensor], targets: Tensor) -> Tensor:
        """Return the loss of K predictions [N, T - k, D] of targets [N, T, D]."""
        return functional.cpc(predictions, targets, **self._given())


class AlignmentLoss(_Loss):
    """Mean distance of the unit positives; see `fastssl.functional.alignment`."""

    def __init__(self, alpha: float = 2.0, gather_distributed: bool | str = False) -> None:
        super().__init__(alpha=alpha, gather_distributed=gather_distributed)

    def forward(self, z0: Tensor, z1: Tensor) -> Tensor:
        """Return the loss of views [N, d]."""
        return functional.alignment(z0, z1, **self._given())


class UniformityLoss(_Loss):
    """Log of the mean Gaussian potential of all pairs; see `fastssl.functional.uniformity`."""

    def __init__(self, t: float = 2.0, gather_distributed: bool | str = False) -> None:
        super().__init__(t=t, gather_distributed=gather_distributed)

    def forward(self, z: Tensor) -> Tensor:
        """Return the loss of embeddings [m, d]."""
        return functional.uniformity(z, **self._given())


class LinearCrossEntropyLoss(nn.Module):
    """A linear classifier with its cross-entropy, without the logits; see `fastssl.functional.linear_cross_entropy`.

    Args:
        in_features: d. out_features: V classes.
        bias: learn a bias.
        ignore_index, reduction: as for the function.
        device, dtype: of the weight [V, d] and the bias [V], which start as those of `torch.nn.Linear`.

    >>> head = LinearCrossEntropyLoss(768, 30522)
    >>> loss = head(hidden[masked], tokens[masked])
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, ignore_index: int = -100, reduction: str = "mean",
        device: torch.device | str | None = None, dtype: torch.dtype | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        choice("reduction", reduction, REDUCTIONS)
        linear = nn.Linear(in_features, out_features, bias, device=device, dtype=dtype)
        self.weight, self.bias = linear.weight, linear.bias
        self.ignore_index, self.reduction = ignore_index, reduction

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """Return the loss of hidden states [N, d] and targets int64 [N]."""
        return functional.linear_cross_entropy(
            x, self.weight, target, self.bias, self.ignore_index, self.reduction
        )  # fmt: skip

    def extra_repr(self) -> str:
        return f"in_features={self.weight.shape[1]}, out_features={self.weight.shape[0]}, bias={self.bias is not None}"
