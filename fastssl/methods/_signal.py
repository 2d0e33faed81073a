"""An encoder of signals, such as sound: strided convolutions along time."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor, nn

from .. import _checks
from ._encoder import remembered


class SignalEncoder(nn.Module):
    """Signals [B, C, T] -> features [B, width]: the mean over time of `frames`; made by `signal_encoder`."""

    def __init__(self, in_chans: int, width: int, kernels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        self.in_chans, self.num_features = in_chans, width
        widths = (in_chans, *[width] * len(kernels))
        self.layers = nn.Sequential(
            *(
                nn.Sequential(nn.Conv1d(a, b, kernel, stride), _ChannelNorm(b), nn.ReLU(inplace=True))
                for (a, b), kernel, stride in zip(itertools.pairwise(widths), kernels, strides, strict=True)
            )
        )

    def frames(self, x: Tensor) -> Tensor:
        """Return the features [B, T', width] of each window of time."""
        frames: Tensor = self.layers(x).mT
        return frames

    def forward(self, x: Tensor) -> Tensor:
        """Return the features."""
        return self.frames(x).mean(1)


class _ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of each moment of [B, C, T], which moments tell each other nothing by."""

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = super().forward(x.mT)
        return normed.mT


@remembered
def signal_encoder(
    in_chans: int = 1,
    width: int = 512,
    kernels: Sequence[int] = (10, 8, 4, 4, 4),
    strides: Sequence[int] = (5, 4, 2, 2, 2),
) -> nn.Module:
    """Make an encoder of signals from strided convolutions, each with layer norm over channels and ReLU.

    Args:
        in_chans: channels of the signals.
        width: of the features.
        kernels, strides: of each convolution, in its own steps; by default those published for sound of 16 kHz, of
            which a frame stands for 10 ms.

    Returns:
        A module float [B, in_chans, T] -> features [B, width], with ``frames(x)`` -> [B, T', width].

    Raises:
        TypeError, ValueError: an argument is of another type or not positive, or kernels and strides do not pair up.

    Source: van den Oord et al. 2018, "Representation Learning with Contrastive Predictive Coding", section 3.1.
    """
    _checks.positive_int("in_chans", in_chans)
    _checks.positive_int("width", width)
    if len(kernels) != len(strides) or not len(kernels):
        raise ValueError(f"strides: got {len(strides)} for {len(kernels)} kernels, want one for each, at least one")
    for name, values in (("kernels", kernels), ("strides", strides)):
        for i, value in enumerate(values):
            _checks.positive_int(f"{name}[{i}]", value)
    return SignalEncoder(in_chans, width, kernels, strides)
