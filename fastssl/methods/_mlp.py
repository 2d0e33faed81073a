"""A fully connected encoder."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from .. import _checks
from ._encoder import remembered
from ._heads import mlp


class MLPEncoder(nn.Module):
    """Images [B, C, H, W] of one size -> features [B, widths[-1]]; made by `mlp_encoder`."""

    def __init__(self, in_chans: int, image_size: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.in_chans, self.widths, self.num_features = in_chans, widths, widths[-1]
        self.only_size = (image_size, image_size)
        self.layers = mlp((in_chans * image_size**2, *widths), last_bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features."""
        if x.shape[1:] != (self.in_chans, *self.only_size):
            raise ValueError(f"x: got images {tuple(x.shape[1:])}, want {(self.in_chans, *self.only_size)}")
        features: Tensor = self.layers(x.flatten(1))
        return features

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Return which layer a parameter belongs to, as timm's encoders do for layer-wise learning rates."""
        # A layer is a linear one, its norm and ReLU.
        return {f"layer {i}": rf"^layers\.(?:{3 * i}|{3 * i + 1})\." for i in range(len(self.widths))}


@remembered
def mlp_encoder(in_chans: int = 3, image_size: int = 32, widths: Sequence[int] = (1000, 500, 250, 30)) -> nn.Module:
    """Make an encoder of linear layers, with batch norm and ReLU between them.

    Args:
        in_chans: channels of the images, 1 or 3.
        image_size: their height and width in pixels, which no other images may have.
        widths: of each layer; the last is that of the features. Those of Hinton and Salakhutdinov by default.

    Returns:
        A module float [B, in_chans, image_size, image_size] -> features [B, widths[-1]].

    Raises:
        TypeError, ValueError: an argument is of another type or not positive.

    Source: Hinton and Salakhutdinov 2006, "Reducing the Dimensionality of Data with Neural Networks".
    """
    if in_chans not in (1, 3):
        raise ValueError(f"in_chans: got {in_chans!r}, want 1 or 3")
    _checks.positive_int("image_size", image_size)
    if not widths:
        raise ValueError("widths: got none, want at least that of the features")
    for i, width in enumerate(widths):
        _checks.positive_int(f"widths[{i}]", width)
    return MLPEncoder(in_chans, image_size, tuple(widths))
