"""Batches of uint8 images of different sizes: all pixels in one tensor, so that a batch travels in one copy."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class RaggedImages:
    """A batch of uint8 images of different sizes, with 1 or 3 channels each, on one device.

    Attributes:
        pixels: uint8 [total], the images one after another, each as [H, W, C] in C order, as decoders give them.
        extents: int64 [B, 3] on the CPU and on the device of `pixels`: offset of the first pixel, H and W.
        channels: 1 or 3, the same for all.

    Made by `from_images`, from a list of tensors; `to`, `pin_memory`, `len` and indexing work as on a tensor.

    >>> batch = fastssl.RaggedImages.from_images([torch.zeros(3, 480, 640, dtype=torch.uint8), ...])
    >>> view0, view1 = fastssl.transforms.SimCLR(224)(batch.to("cuda", non_blocking=True))
    """

    def __init__(self, pixels: Tensor, extents: Tensor, channels: int, host_extents: Tensor | None = None) -> None:
        _require_pixels(pixels, "pixels")
        if pixels.ndim != 1:
            raise ValueError(f"pixels: got shape {tuple(pixels.shape)}, want [total]")
        if channels not in (1, 3):
            raise ValueError(f"channels: got {channels!r}, want 1 or 3")
        if extents.dtype != torch.int64 or extents.ndim != 2 or extents.shape[1] != 3 or len(extents) == 0:
            raise ValueError(f"extents: got {extents.dtype} {tuple(extents.shape)}, want int64 [B, 3], B >= 1")
        self.pixels, self.channels = pixels.contiguous(), channels
        # Sizes are read on the host to check them, and by the kernels on the device: both have them, so none waits.
        self.host_extents = extents.cpu() if host_extents is None else host_extents
        self.extents = extents.to(pixels.device, non_blocking=True)
        if host_extents is None:
            offset, height, width = self.host_extents.unbind(1)
            if int(self.host_extents[:, 1:].min()) < 1 or int(offset.min()) < 0:
                raise ValueError("extents: got a height or width below 1 or a negative offset")
            if int((offset + height * width * channels).max()) > pixels.numel():
                raise ValueError(f"extents: got an image that ends beyond the {pixels.numel()} bytes of pixels")

    @classmethod
    def from_images(cls, images: Sequence[Tensor]) -> RaggedImages:
        """Put images into one batch.

        Args:
            images: uint8 tensors [C, H, W] or [H, W, C], C 1 or 3, H and W >= 1, sizes as they come; C the same
                for all. A tensor that could be either is taken as [C, H, W].

        Raises:
            TypeError, ValueError: there is no image, or one of another type or shape.
        """
        if len(images) == 0:
            raise ValueError("images: got 0 images, want at least 1")
        rows = [_as_hwc(image, f"images[{i}]") for i, image in enumerate(images)]
        channels, device = rows[0].shape[2], rows[0].device
        extents = torch.empty(len(rows), 3, dtype=torch.int64)
        offset = 0
        for i, row in enumerate(rows):
            if row.shape[2] != channels:
                raise ValueError(f"images[{i}]: got {row.shape[2]} channels, want {channels} as in images[0]")
            if row.device != device:
                raise ValueError(f"images[{i}]: got device {row.device}, want {device} as images[0]")
            extents[i] = torch.tensor([offset, row.shape[0], row.shape[1]])
            offset += row.numel()
        return cls(torch.cat([row.reshape(-1) for row in rows]), extents, channels)

    @property
    def device(self) -> torch.device:
        """Where the pixels are."""
        return self.pixels.device

    @property
    def sizes(self) -> Tensor:
        """Heights and widths, int64 [B, 2] on the CPU."""
        return self.host_extents[:, 1:]

    def __len__(self) -> int:
        return len(self.host_extents)

    def __getitem__(self, index: int) -> Tensor:
        """Return one image, uint8 [C, H, W], a view of the batch."""
        offset, height, width = self.host_extents[index].tolist()
        pixels = self.pixels[offset : offset + height * width * self.channels]
        return pixels.view(height, width, self.channels).permute(2, 0, 1)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> RaggedImages:
        """Return the batch on another device; one copy of the pixels and one of their extents."""
        pixels = self.pixels.to(device, non_blocking=non_blocking)
        extents = self.extents.to(device, non_blocking=non_blocking)
        return RaggedImages(pixels, extents, self.channels, self.host_extents)

    def pin_memory(self) -> RaggedImages:
        """Return the batch in page-locked memory, from which copies to a GPU run beside its work."""
        return RaggedImages(self.pixels.pin_memory(), self.extents.pin_memory(), self.channels, self.host_extents)

    def __repr__(self) -> str:
        low, high = self.sizes.amin(0).tolist(), self.sizes.amax(0).tolist()
        return (
            f"RaggedImages({len(self)} images of {self.channels} channels, {low[0]}x{low[1]} to {high[0]}x{high[1]}, "
            f"{self.pixels.numel()} bytes, device={str(self.device)!r})"
        )


def _require_pixels(x: object, name: str) -> Tensor:
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: got {type(x).__name__}, want a uint8 tensor")
    if x.dtype != torch.uint8:
        raise TypeError(f"{name}: got dtype {x.dtype}, want uint8; kernels do the conversion to floats")
    return x


def _as_hwc(image: object, name: str) -> Tensor:
    x = _require_pixels(image, name)
    if x.ndim == 3 and 0 not in x.shape:
        if x.shape[0] in (1, 3):
            return x.permute(1, 2, 0)
        if x.shape[2] in (1, 3):
            return x
    raise ValueError(f"{name}: got shape {tuple(x.shape)}, want [C, H, W] or [H, W, C] with C 1 or 3, none empty")


def as_batch(images: object) -> Tensor | RaggedImages:
    """Check images and return them as uint8 [B, C, H, W] of any strides, or as `RaggedImages`.

    Args:
        images: uint8 [B, C, H, W] or [B, H, W, C], C 1 or 3, none empty; `RaggedImages`; or a list of images as
            for `RaggedImages.from_images`. A tensor that could be either is taken as [B, C, H, W].

    Raises:
        TypeError, ValueError: the images are of another type or shape.
    """
    if isinstance(images, RaggedImages):
        return images
    if isinstance(images, (list, tuple)):
        return RaggedImages.from_images(images)
    if not isinstance(images, Tensor):
        raise TypeError(f"images: got {type(images).__name__}, want a uint8 tensor, RaggedImages or a list of tensors")
    x = _require_pixels(images, "images")
    if x.ndim == 4 and 0 not in x.shape:
        if x.shape[1] in (1, 3):
            return x
        if x.shape[3] in (1, 3):
            return x.permute(0, 3, 1, 2)
    raise ValueError(f"images: got shape {tuple(x.shape)}, want [B, C, H, W] or [B, H, W, C] with C 1 or 3, none empty")
