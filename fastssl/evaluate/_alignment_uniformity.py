from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .. import _checks
from ..data import Images, load, loader
from ..functional import alignment, uniformity
from ..methods import encode
from ..methods._encoder import frozen
from ..transforms import default_simclr
from ._features import device_of
from ._result import Result


@dataclass(frozen=True, kw_only=True)
class AlignmentUniformityResult(Result):
    """Result of `alignment_uniformity`.

    Attributes:
        alignment: mean squared distance of the two views of an image, in [0, 4]; the smaller, the less a view matters.
        uniformity: log of the mean Gaussian potential of the images, in [-8, 0] for t = 2; the smaller, the more evenly
            they are spread.
        protocol: how it was found.
    """

    alignment: float
    uniformity: float

    @property
    def scores(self) -> dict[str, float]:
        """Both numbers."""
        return {"alignment": self.alignment, "uniformity": self.uniformity}


def alignment_uniformity(
    encoder: nn.Module | None,
    data: Images | str,
    *,
    transform: Callable[[Tensor], list[Tensor]] | None = None,
    alpha: float = 2.0,
    t: float = 2.0,
    seed: int = 0,
    batch_size: int = 256,
) -> AlignmentUniformityResult:
    """Measure how close two views of an image are on the unit sphere, and how evenly images spread over it.

    Alignment is that of the two views of every image; uniformity the mean of that of the first views and that of the
    second. Neither needs labels, and neither alone says much: equal features are aligned best, random ones spread best.

    Args:
        encoder: module float32 [B, C, H, W] -> [B, f]; None stands for the pixels of the views. It is left as it was.
        data: images, or the name or folder of their training split; at least 2.
        transform: uint8 [B, C, H, W] -> list of two views; by default SimCLR's for images of this size.
        alpha: exponent of the distance, see `fastssl.functional.alignment`.
        t: scale of the potential, see `fastssl.functional.uniformity`.
        seed: of the views.
        batch_size: images a forward pass.

    Returns:
        Both numbers.

    Raises:
        TypeError, ValueError: an argument is of another type or out of range.

    Source: Wang and Isola 2020, "Understanding Contrastive Representation Learning through Alignment and Uniformity
        on the Hypersphere".
    """
    _checks.positive_int("batch_size", batch_size)
    images = load(data)
    device = device_of(encoder)
    if transform is None:
        transform = default_simclr(images.channels, images.image_size)
    order = torch.arange(len(images)).split(batch_size)
    batches = loader(images, [indices.tolist() for indices in order])
    model = nn.Flatten() if encoder is None else encoder
    rows: tuple[list[Tensor], list[Tensor]] = ([], [])
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), frozen(model):
        torch.manual_seed(seed)
        for batch, _ in batches:
            views = transform(batch.to(device))
            if len(views) != 2:
                raise ValueError(f"transform: got {len(views)} views, want 2")
            for kept, view in zip(rows, views, strict=True):
                kept.append(encode(model, view).float())
    z0, z1 = (torch.cat(kept) for kept in rows)
    protocol = {
        "normalisation": "features to unit length",
        "views": f"two of each image, by {transform!r}",
        "alignment": f"mean distance of the two views to the power of {alpha}",
        "uniformity": f"mean over both views of the log of the mean potential exp(-{t} squared distance)",
        "seed": seed,
        "batch_size": batch_size,
        "data": {"data": images.name, "images": len(images), "image_size": images.image_size, "features": z0.shape[1]},
    }
    return AlignmentUniformityResult(
        alignment=alignment(z0, z1, alpha).item(),
        uniformity=(uniformity(z0, t).item() + uniformity(z1, t).item()) / 2,
        protocol=protocol,
    )
