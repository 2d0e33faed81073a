from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._datasets import Clips
from ..methods._encoder import feature_map, frozen
from ..transforms import normalize
from ._features import device_of
from ._result import Result


@dataclass(frozen=True, kw_only=True)
class LabelPropagationResult(Result):
    """Result of `label_propagation`.

    Attributes:
        similarity: J, the mean intersection over union of objects, in [0, 1], over clips, objects and all frames but
            the first.
        copied: that of the first frame's masks, left where they are.
        by_frame: J of the second frame, of the third ...
        masks: uint8 [n, T, H, W], the masks that were found; the first is given.
        protocol: how it was found.
    """

    similarity: float
    copied: float
    by_frame: tuple[float, ...]
    masks: Tensor

    @property
    def scores(self) -> dict[str, float]:
        """The region similarity, and that of masks which stay where they are."""
        return {"label propagation": self.similarity, "first mask left as it is": self.copied}


def label_propagation(
    encoder: nn.Module,
    clips: Clips,
    *,
    context: int = 3,
    k: int = 5,
    temperature: float = 0.1,
    batch_size: int = 32,
) -> LabelPropagationResult:
    """Carry the masks of first frames through their clips by an encoder's features, and compare with the true ones.

    Each place of a frame points at the k places most like it, in the cosine of its features, of the first frame and of
    the `context` frames before it, and takes the mean of their labels under softmax(cosine / temperature). Features
    are those before pooling, ``forward_features`` of timm. The encoder is left as it was.

    Args:
        encoder: module float32 [B, C, H, W] -> features, such as ``method.encoder`` of any method, trained or not.
        clips: with masks, such as `fastssl.data.clips`.
        context: frames before a frame that are pointed at besides the first, >= 0.
        k: places that are pointed at, >= 1.
        temperature: > 0.
        batch_size: clips at a time.

    Returns:
        The region similarity, beside that of masks which stay where they are.

    Raises:
        TypeError, ValueError: an argument is of another type or out of range, or there is no object in the masks.

    Source: Vondrick et al. 2018, "Tracking Emerges by Colorizing Videos", section 4; the k nearest, the cosine and the
        first frame among the references as in Jabri et al. 2020, "Space-Time Correspondence as a Contrastive Random
        Walk"; the measure is J of Perazzi et al. 2016, "A Benchmark Dataset for Video Object Segmentation".
    """
    if not isinstance(encoder, nn.Module):
        raise TypeError(f"encoder: got {type(encoder).__name__}, want a torch.nn.Module")
    if not isinstance(clips, Clips):
        raise TypeError(f"clips: got {type(clips).__name__}, want fastssl.data.Clips, whose masks are known")
    for name, value, least in (("context", context, 0), ("k", k, 1), ("batch_size", batch_size, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name}: got {value!r}, want an int >= {least}")
    if not temperature > 0:
        raise ValueError(f"temperature: got {temperature}, want a number > 0")
    classes = int(clips.masks.max()) + 1
    if clips.clips.shape[1] < 2 or classes < 2:
        raise ValueError("clips: got one frame or no object, want something to carry along")
    device = device_of(encoder)
    found = []
    with frozen(encoder):
        for frames, masks in zip(clips.clips.split(batch_size), clips.masks[:, 0].split(batch_size), strict=True):
            maps = [feature_map(encoder, normalize(frame.to(device))).float() for frame in frames.unbind(1)]
            found.append(_carry(maps, masks.to(device), classes, context, k, temperature).cpu())
    carried = torch.cat(found)
    overlap, still = (_overlap(x, clips.masks, classes) for x in (carried, clips.masks[:, :1].expand_as(clips.masks)))
    protocol = {
        "data": clips.name,
        "clips": len(clips),
        "frames": clips.clips.shape[1],
        "image_size": clips.image_size,
        "map": list(maps[0].shape[2:]),
        "similarity": "cosine",
        "context": context,
        "k": k,
        "temperature": temperature,
        "measure": "intersection over union of each object, over the frames but the first where it is to be seen",
    }
    return LabelPropagationResult(
        similarity=overlap.nanmean().item(),
        copied=still.nanmean().item(),
        by_frame=tuple(overlap.nanmean((0, 2)).tolist()),
        masks=carried,
        protocol=protocol,
    )


def _carry(maps: list[Tensor], first: Tensor, classes: int, context: int, k: int, temperature: float) -> Tensor:
    """Masks uint8 [B, T, H, W] of clips whose frames have maps [B, f, h, w], from those of the first, [B, H, W]."""
    grid, size = (maps[0].shape[2], maps[0].shape[3]), (first.shape[1], first.shape[2])
    one_hot = F.one_hot(first.long(), classes).movedim(3, 1).float()
    labels = [F.adaptive_avg_pool2d(one_hot, grid)]
    units = [F.normalize(m.flatten(2), dim=1) for m in maps]
    found = [first]
    for t in range(1, len(maps)):
        among = sorted({0, *range(max(0, t - context), t)})
        keys = torch.cat([units[i] for i in among], 2)
        values = torch.cat([labels[i].flatten(2) for i in among], 2)
        cosine, at = (units[t].mT @ keys).topk(min(k, keys.shape[2]), 2)
        chosen = values[:, :, None].expand(-1, -1, at.shape[1], -1).gather(3, at[:, None].expand(-1, classes, -1, -1))
        pointed = (chosen * (cosine / temperature).softmax(2)[:, None]).sum(3)
        labels.append(pointed.unflatten(2, grid))
        found.append(F.interpolate(labels[-1], size=size, mode="bilinear").argmax(1).to(first.dtype))
    return torch.stack(found, 1)


def _overlap(found: Tensor, true: Tensor, classes: int) -> Tensor:
    """Intersection over union [n, T - 1, classes - 1] of the objects, NaN where there is none in frame and mask."""
    ratios = []
    for index in range(1, classes):
        a, b = found[:, 1:] == index, true[:, 1:] == index
        ratios.append((a & b).sum((2, 3)) / (a | b).sum((2, 3)))
    return torch.stack(ratios, 2)
