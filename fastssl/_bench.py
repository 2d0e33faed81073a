"""Timing that can be believed, and quick comparisons: NT-Xent with its eager form, views with torchvision's.

The providers that are compared take turns in one process, so that a change of the machine's pace meets all of
them: only ratios from one such run count on a machine that others share.
"""

from __future__ import annotations

import functools
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from . import reference
from ._extras import require
from ._normalization import channel_statistics
from .functional import Recipe, ntxent
from .transforms import RECIPES, Transform

_T = TypeVar("_T")
SIMCLR_BLUR_KERNEL = 23  # of views of 224 pixels; where a recipe leaves the taps open
_FLUSH_BYTES = 256 * 2**20  # beyond the last-level cache of any GPU so far


@dataclass(frozen=True)
class Row:
    """Medians of one size: milliseconds of forward plus backward."""

    pairs: int
    dim: int
    fastssl_ms: float
    eager_ms: float

    @property
    def speedup(self) -> float:
        """Eager time over fastssl's."""
        return self.eager_ms / self.fastssl_ms


@dataclass(frozen=True)
class ViewsRow:
    """Medians of one recipe: milliseconds a view."""

    recipe: str
    views: int
    fastssl_ms: float
    torchvision_ms: float

    @property
    def speedup(self) -> float:
        """Time of torchvision over that of fastssl."""
        return self.torchvision_ms / self.fastssl_ms


def interleave(
    steps: Mapping[str, Callable[[int], _T]], rounds: int, budget_s: float = math.inf, least: int = 1, warmup: int = 1
) -> dict[str, list[_T]]:
    """Let the steps take turns, one call of each in a round, and return what each call returned, by name.

    Args:
        steps: functions of the number of the round, which is what they choose their inputs by.
        rounds: the most rounds that count.
        budget_s: seconds for all rounds that count. Each step has an equal share of it, and takes no further part
            once it has used that up, so that a slow step leaves the fast ones their rounds.
        least: rounds that count whatever they take.
        warmup: rounds before these, whose results are dropped and whose time is not in the budget.

    Every round starts with another step, so that none always follows the same neighbour and finds what that one
    left in the caches and in the allocator.
    """
    names = list(steps)
    results: dict[str, list[_T]] = {name: [] for name in names}
    spent = dict.fromkeys(names, 0.0)
    for turn in range(warmup + rounds):
        first = turn % max(1, len(names))
        for name in names[first:] + names[:first]:
            if turn >= warmup + least and spent[name] * len(names) >= budget_s:
                continue
            start = time.perf_counter()
            result = steps[name](turn)
            if turn >= warmup:
                spent[name] += time.perf_counter() - start
                results[name].append(result)
    return results


def time_passes(
    forward: Callable[[], _T], backward: Callable[[_T], object], device: torch.device
) -> tuple[float, float]:  # fmt: skip
    """Milliseconds of one forward, and of that forward plus its backward, which takes what the forward returned.

    On CUDA these are times between events, taken after writes that empty the L2 cache and keep the device busy while
    the host runs ahead, as it does in a training loop.
    """
    if device.type == "cuda":
        _flush(device)
        events = [torch.cuda.Event(enable_timing=True) for _ in range(3)]
        events[0].record()
        result = forward()
        events[1].record()
        backward(result)
        events[2].record()
        torch.cuda.synchronize(device)
        return events[0].elapsed_time(events[1]), events[0].elapsed_time(events[2])
    start = time.perf_counter()
    result = forward()
    middle = time.perf_counter()
    backward(result)
    end = time.perf_counter()
    return 1e3 * (middle - start), 1e3 * (end - start)


def time_loss(form: Callable[..., Tensor], z0: Tensor, z1: Tensor, *rest: float) -> tuple[float, float]:
    """`time_passes` of a loss of two tensors and of the gradients of both."""
    return time_passes(lambda: form(z0, z1, *rest), lambda loss: torch.autograd.grad(loss, (z0, z1)), z0.device)


def time_call(call: Callable[[], object], device: torch.device) -> float:
    """Milliseconds of one call whose work is on `device`; see `time_passes`."""
    if device.type == "cuda":
        _flush(device)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        torch.cuda.synchronize(device)
        elapsed: float = start.elapsed_time(end)
        return elapsed
    begin = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - begin)


@functools.cache
def _flush_buffer(device: torch.device) -> Tensor:
    return torch.empty(_FLUSH_BYTES, dtype=torch.int8, device=device)


def _flush(device: torch.device) -> None:
    torch.cuda.synchronize(device)
    for _ in range(8):  # about half a millisecond, more than the host needs to launch a step
        _flush_buffer(device).zero_()


def compare(
    sizes: list[int], dim: int, temperature: float, dtype: torch.dtype, device: torch.device, repeats: int
) -> Iterator[Row]:
    """Yield one row for each number of pairs, as it is measured."""
    for pairs in sizes:
        generator = torch.Generator().manual_seed(0)
        z = [torch.randn(pairs, dim, generator=generator).to(device, dtype).requires_grad_() for _ in range(2)]
        forms: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {"fastssl": ntxent, "eager": reference.ntxent}
        steps = {
            name: lambda turn, form=form, z=z: time_loss(form, z[0], z[1], temperature)[1]
            for name, form in forms.items()
        }
        times = interleave(steps, repeats)
        yield Row(pairs, dim, statistics.median(times["fastssl"]), statistics.median(times["eager"]))


def torchvision_views(recipe: Recipe, channels: int = 3, uint8: bool = True) -> list[Callable[[Tensor], Tensor]]:
    """The views of a published recipe in torchvision's v2 transforms, each a function of one uint8 image [C, H, W].

    Args:
        recipe: of crops, flips, jitter, grey, blur and solarize; rotations are left out.
        channels: of the images.
        uint8: whether the steps act on uint8 values, else on floats in [0, 1].
    """
    v2 = require("torchvision.transforms.v2", "the comparison of augmentations")
    mean, std = channel_statistics(channels, recipe.mean, recipe.std)
    to_float = v2.ToDtype(torch.float32, scale=True)
    kernel = recipe.blur_kernel or SIMCLR_BLUR_KERNEL
    views = []
    for view in recipe.views:
        steps: list[tuple[float, Any]] = [
            (view.hflip_p, v2.RandomHorizontalFlip(view.hflip_p)),
            (view.vflip_p, v2.RandomVerticalFlip(view.vflip_p)),
            (view.jitter_p, v2.RandomApply([v2.ColorJitter(*view.jitter)], view.jitter_p)),
            (view.gray_p, v2.RandomGrayscale(view.gray_p)),
            (view.blur_p, v2.RandomApply([v2.GaussianBlur(kernel, view.sigma)], view.blur_p)),
            (view.solarize_p, v2.RandomSolarize(view.threshold * (255 if uint8 else 1), view.solarize_p)),
        ]
        size, interpolation = (view.height, view.width), v2.InterpolationMode(recipe.interpolation)
        crop = v2.RandomResizedCrop(size, view.scale, view.ratio, interpolation, antialias=True)
        inner = [crop, *(step for p, step in steps if p > 0)]
        order = [*inner, to_float] if uint8 else [to_float, *inner]
        views.append(v2.Compose([*order, v2.Normalize(mean, std)]))
    return views


def compare_views(
    recipes: list[str], batch_size: int, image_size: int, device: torch.device, repeats: int
) -> Iterator[ViewsRow]:
    """Yield one row for each recipe, as it is measured: a fused call against torchvision's transforms of each image."""
    shape = (batch_size, 3, image_size, image_size)
    images = torch.randint(256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8).to(device)
    for name in recipes:
        make: Callable[..., Transform] = RECIPES[name]
        transform = make()
        peers = torchvision_views(transform.recipe)

        def fused(transform: Transform = transform) -> object:
            return transform(images)

        def per_image(peers: list[Callable[[Tensor], Tensor]] = peers) -> object:
            return [view(image) for image in images for view in peers]

        forms: dict[str, Callable[[], object]] = {"fastssl": fused, "torchvision": per_image}
        steps = {who: lambda turn, form=form: time_call(form, device) for who, form in forms.items()}
        times = interleave(steps, repeats)
        per_view = [statistics.median(times[who]) / (batch_size * len(peers)) for who in ("fastssl", "torchvision")]
        yield ViewsRow(name, len(peers), *per_view)
