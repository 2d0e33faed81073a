"""The implementations of an augmentation recipe that are compared, each on images as its users hold them.

Each draws its own parameters, from the distributions of one recipe; `augment_measure.py` checks that the views of all
have the statistics of fastssl's. What is known to differ: kornia's crop has no antialias and its jitter one order a
batch; lightly's blur is PIL's, of three box passes.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from photographs import photographs
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fastssl import _backend, transforms, use_backend
from fastssl._bench import SIMCLR_BLUR_KERNEL, torchvision_views
from fastssl._normalization import channel_statistics
from fastssl.transforms import Transform

Views = Sequence[Tensor]
Call = Callable[[Any], object]


@dataclass(frozen=True)
class Setting:
    """A recipe, and the images that it is measured on."""

    title: str
    make: Callable[..., Transform]  # with the keyword arguments of Transform's output
    image_size: int = 256
    lightly: tuple[str, dict[str, Any]] | None = None  # name and arguments of lightly's transform of this recipe

    def photographs(self, n: int, seed: int = 0) -> Tensor:
        """Images uint8 [n, 3, H, W] of the setting's size."""
        return photographs(n, self.image_size, self.image_size, seed)


SETTINGS = {
    "simclr": Setting(
        "SimCLR 224, bilinear",
        functools.partial(transforms.SimCLR, interpolation="bilinear"),
        lightly=("SimCLRTransform", {}),
    ),
    "simclr-bicubic": Setting("SimCLR 224, bicubic", transforms.SimCLR),
    "simclr-small": Setting(
        "SimCLR 32",
        transforms.SimCLRSmall,
        32,
        ("SimCLRTransform", {"input_size": 32, "cj_strength": 0.5, "gaussian_blur": 0.0}),
    ),
    "mocov2": Setting("MoCo v2 224", transforms.MoCoV2, lightly=("MoCoV2Transform", {})),
    "byol": Setting("BYOL 224", transforms.BYOL),
    "dino": Setting("DINO 2 × 224 + 8 × 96", transforms.DINO, lightly=("DINOTransform", {"n_local_views": 8})),
    "mae": Setting("MAE 224", transforms.MAE, lightly=("MAETransform", {})),
}


@dataclass(frozen=True)
class Provider:
    """One implementation.

    Attributes:
        name: of the rows.
        prepare: gives what the call gets, of uint8 images [n, 3, H, W]; this is not timed.
        build: gives the call, for a setting and a device; it returns the views.
        per_image: whether the call takes one image, and is run by a `DataLoader`'s workers.
        images: how many images a measurement takes, as far as there are so many.
        package: what has to be installed.
        backend: a forced backend of fastssl.
        output: the output of fastssl's transform.
    """

    name: str
    prepare: Callable[[Tensor], Sequence[Any] | Tensor]
    build: Callable[[Setting, str], Call]
    per_image: bool = False
    images: int = 32
    package: str | None = None
    backend: str | None = None
    output: tuple[tuple[str, Any], ...] = ()


def _fastssl(name: str, images: int = 32, backend: str | None = None, **output: Any) -> Provider:
    def build(setting: Setting, device: str) -> Call:
        transform = setting.make(**output)
        if backend is None:
            return transform

        def forced(batch: Tensor) -> object:
            with use_backend(backend):
                return transform(batch)

        return forced

    # A decoder leaves the channels innermost.
    return Provider(
        name, lambda x: x.contiguous(memory_format=torch.channels_last), build, images=images, backend=backend,
        output=tuple(output.items()),
    )  # fmt: skip


def _torchvision(uint8: bool) -> Callable[[Setting, str], Call]:
    def build(setting: Setting, device: str) -> Call:
        views = torchvision_views(setting.make().recipe, uint8=uint8)
        return lambda image: [view(image) for view in views]

    return build


def _lightly(setting: Setting, device: str) -> Call:
    assert setting.lightly is not None
    name, arguments = setting.lightly
    return getattr(importlib.import_module("lightly.transforms"), name)(**arguments)


def _pictures(images: Tensor) -> list[Any]:
    from PIL import Image

    return [Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()) for image in images.cpu()]


def _kornia(setting: Setting, device: str) -> Call:
    k = importlib.import_module("kornia.augmentation")
    recipe = setting.make().recipe
    mean, std = (torch.tensor(numbers) for numbers in channel_statistics(3, recipe.mean, recipe.std))
    kernel = recipe.blur_kernel or SIMCLR_BLUR_KERNEL
    views = []
    for v in recipe.views:
        size = (v.height, v.width)
        steps = [
            (1.0, k.RandomResizedCrop(size, scale=v.scale, ratio=v.ratio, resample=recipe.interpolation)),
            (v.hflip_p, k.RandomHorizontalFlip(p=v.hflip_p)),
            (v.jitter_p, k.ColorJitter(*v.jitter, p=v.jitter_p)),
            (v.gray_p, k.RandomGrayscale(p=v.gray_p)),
            (v.blur_p, k.RandomGaussianBlur((kernel, kernel), v.sigma, p=v.blur_p)),
            (v.solarize_p, k.RandomSolarize((v.threshold,) * 2, 0.0, p=v.solarize_p)),
            (1.0, k.Normalize(mean, std)),
        ]
        views.append(torch.nn.Sequential(*(step for p, step in steps if p > 0)).to(device))

    def call(batch: Tensor) -> list[Tensor]:
        x = batch.float() / 255
        return [view(x) for view in views]

    return call


PROVIDERS = {
    p.name: p
    for p in (
        _fastssl("fastssl"),
        _fastssl("fastssl-uint8", rounding="uint8"),
        _fastssl("fastssl-bf16", dtype=torch.bfloat16, memory_format=torch.channels_last),
        *(_fastssl(f"fastssl-{b}", 2 if b == "torch" else 32, b) for b in ("cuda", "triton", "cpp", "torch")),
        Provider("torchvision-uint8", list, _torchvision(True), True, 16, "torchvision"),
        Provider("torchvision-float", list, _torchvision(False), True, 16, "torchvision"),
        Provider("lightly", _pictures, _lightly, True, 16, "lightly"),
        Provider("kornia", lambda x: x, _kornia, package="kornia"),
    )
}
PEERS = ("torchvision", "kornia", "lightly", "pillow")  # packages


class _Views(Dataset):
    def __init__(self, inputs: Sequence[Any], call: Call) -> None:
        self.inputs, self.call = inputs, call

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> object:
        return self.call(self.inputs[index])


def in_workers(call: Call, inputs: Sequence[Any], workers: int, batch_size: int) -> DataLoader:
    """Batches of views that worker processes make, as a training loop gets them; the workers stay."""
    return DataLoader(_Views(inputs, call), batch_size, num_workers=workers, persistent_workers=True)


def backends(device: str) -> list[str]:
    """Backends of fastssl that run here; `auto` takes the first."""
    like = torch.empty(1, 3, 2, 2, dtype=torch.uint8, device=device)
    # Triton's interpreter checks kernels on a CPU; its time says nothing.
    names = [b for b in _backend.BACKENDS if not (b == "triton" and like.device.type == "cpu")]
    return [b for b in names if _backend.why_not("augment", b, like) is None]


def available(recipe: str, device: str) -> tuple[str, ...]:
    """Names of the providers that can run a recipe here; the backend that `auto` takes is left to "fastssl"."""
    forced, on_cpu = backends(device)[1:], device == "cpu"
    return tuple(
        p.name
        for p in PROVIDERS.values()
        if (p.package is None or importlib.util.find_spec(p.package) is not None)
        and (p.backend is None or p.backend in forced)
        and (p.name != "lightly" or (on_cpu and SETTINGS[recipe].lightly is not None))
    )
