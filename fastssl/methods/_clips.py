"""Clips to learn from: frames of clips that there are, and motion for images that stand still."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import transforms
from ._one_view import Size

# Greatest change from frame to frame: of place, in halves of the image's side; of angle, in radians; of the logarithm
# of size.
_SHIFT, _TURN, _ZOOM = 0.08, 0.1, 0.04
_PIECE_SHIFT, _PIECE_TURN = 0.2, 0.2


def pick_frames(clips: Tensor, frames: int, size: Size | None) -> list[Tensor]:
    """Return consecutive frames of uint8 clips [B, T, C, H, W], normalised [B, C, h, w] each, from a random one on.

    Raises:
        ValueError: the clips have fewer frames.
    """
    b, length = clips.shape[:2]
    if length < frames:
        raise ValueError(f"images: got clips of {length} frames, want at least {frames}")
    first = torch.randint(length - frames + 1, (b, 1))
    at = (first + torch.arange(frames)).to(clips.device)
    chosen = clips[torch.arange(b, device=clips.device)[:, None], at].transpose(0, 1)
    x = transforms.normalize(chosen.flatten(0, 1))
    sides = tuple(x.shape[2:]) if size is None else (size, size) if isinstance(size, int) else size
    if sides != tuple(x.shape[2:]):
        x = F.interpolate(x, size=sides, mode="bilinear", antialias=True)
    return list(x.unflatten(0, (frames, b)))


def moving(view: Tensor, frames: int) -> list[Tensor]:
    """Return clips of images [B, C, H, W], frame by frame.

    Each image drifts, turns and zooms, and a piece of the next one of the batch moves before it.
    """
    b, device = len(view), view.device

    def uniform(low: float, high: float) -> Tensor:
        return (low + (high - low) * torch.rand(1, b)).to(device)

    time = torch.arange(frames, device=device, dtype=torch.float32)[:, None]
    still = torch.zeros(frames, b, device=device)
    angle, zoom = uniform(-_TURN, _TURN) * time, (uniform(-_ZOOM, _ZOOM) * time).exp()
    x, y = (uniform(-_SHIFT, _SHIFT) * time for _ in range(2))
    grid = _grid(view, angle, zoom, (x, y), (still, still))
    clip = _sample(view, grid)

    # The piece is an ellipse, which keeps what is in it: its own place in the image that it comes from.
    from_x, from_y = (uniform(-0.5, 0.5) + still for _ in range(2))
    x, y = (uniform(-0.6, 0.6) + uniform(-_PIECE_SHIFT, _PIECE_SHIFT) * time for _ in range(2))
    angle = uniform(-_PIECE_TURN, _PIECE_TURN) * time
    grid = _grid(view, angle, still + 1, (from_x, from_y), (x, y))
    piece = _sample(view.roll(1, 0), grid)
    across = grid - torch.stack([from_x, from_y], -1)[:, :, None, None]
    wide, high = (uniform(0.25, 0.6) + still for _ in range(2))
    radius = (across / torch.stack([wide, high], -1)[:, :, None, None]).square().sum(-1).sqrt()
    cover = ((1 - radius) * min(view.shape[2:]) / 6 + 0.5).clamp(0, 1)[:, :, None].to(view)
    return list((clip + cover * (piece - clip)).unbind(0))


def _grid(
    view: Tensor, angle: Tensor, zoom: Tensor, source: tuple[Tensor, Tensor], center: tuple[Tensor, Tensor]
) -> Tensor:
    """Where each pixel of frames [T, B] looks: [T, B, H, W, 2], turned and zoomed about `center`, moved to `source`."""
    height, width = view.shape[2:]
    y = ((torch.arange(height, device=view.device) + 0.5) / height * 2 - 1)[:, None]
    x = ((torch.arange(width, device=view.device) + 0.5) / width * 2 - 1)[None, :]
    cos, sin, scale = (t[..., None, None] for t in (angle.cos(), angle.sin(), zoom))
    (cx, cy), (sx, sy) = ((p[..., None, None] for p in pair) for pair in (center, source))
    u = ((x - cx) * cos + (y - cy) * sin) * scale + sx
    v = ((y - cy) * cos - (x - cx) * sin) * scale + sy
    return torch.stack([u, v], -1)


def _sample(view: Tensor, grid: Tensor) -> Tensor:
    """Frames [T, B, C, H, W] of images, which are mirrored at their edges."""
    frames, b = grid.shape[:2]
    repeated = view.repeat(frames, 1, 1, 1)
    found = F.grid_sample(repeated, grid.flatten(0, 1).to(view), padding_mode="reflection", align_corners=False)
    clip: Tensor = found.unflatten(0, (frames, b))
    return clip
