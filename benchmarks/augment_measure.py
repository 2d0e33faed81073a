"""Measures one augmentation problem with every provider in turns; `bench_augment.py` has the problems.

A time is that of a view: of a call with a number of images, over the views it makes. The floors beside it are those of
`augment_floors.py` at the rates of a large copy and of a matrix product, measured in the same run with as many threads.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import augment_floors
import torch
from augment_providers import PROVIDERS, SETTINGS, Provider, Setting, available, backends, in_workers
from environment import cores
from harness import COPY, MATMUL, Row, quartiles, rates_per_ms, reference_steps, rounded
from torch import Tensor

from fastssl._bench import interleave, time_call

ROUNDS, LEAST_ROUNDS, INPUT_SETS = 60, 3, 3
WORKER_IMAGES = 16  # images of a measurement, for each worker
AGREE = 0.35  # means and standard deviations of views of 48 random images, in units of the normalised views


@dataclass(frozen=True)
class Problem:
    """A recipe, the threads or worker processes that make its views, the providers, and the seconds for timing."""

    recipe: str
    threads: int = 1
    providers: tuple[str, ...] | None = None  # None: all there are
    batch: int | None = None  # images of a call of fastssl's; by default those of the provider
    budget_s: float = 10

    @property
    def label(self) -> str:
        """For test names: recipe, batch and threads."""
        return f"{self.recipe}{'' if self.batch is None else f'-b{self.batch}'}-t{self.threads}"


@contextlib.contextmanager
def threads(n: int) -> Iterator[None]:
    """So many threads of PyTorch's."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def flatten(views: Any) -> list[Tensor]:
    """The tensors of nested lists."""
    return [views] if isinstance(views, Tensor) else [x for part in views for x in flatten(part)]


def statistics_of(views: Sequence[Tensor]) -> tuple[float, float]:
    """Mean and standard deviation of all pixels, each image counting alike."""
    rows = [view.float().reshape(-1, 3, view.shape[-2] * view.shape[-1]) for view in views]
    means = torch.cat([row.mean(2) for row in rows])
    squares = torch.cat([row.square().mean(2) for row in rows])
    return means.mean().item(), (squares.mean() - means.mean() ** 2).sqrt().item()


def agree(found: dict[str, tuple[float, float]]) -> None:
    """Raise if a provider's views have other statistics than fastssl's: it would not be the same recipe."""
    for name, pair in found.items():
        if not all(abs(a - b) <= AGREE for a, b in zip(pair, found["fastssl"], strict=True)):
            raise AssertionError(f"{name} makes views of mean and deviation {pair}, fastssl {found['fastssl']}")


def _check(problem: Problem, names: Sequence[str], setting: Setting, device: str) -> None:
    shapes = [(3, *size) for size in setting.make().recipe.sizes]
    images = setting.photographs(48).to(device)
    found = {}
    torch.manual_seed(0)
    for name in names:
        provider = PROVIDERS[name]
        some = images[:2] if provider.backend == "torch" else images
        inputs, call = provider.prepare(some), provider.build(setting, device)
        views = flatten([call(x) for x in inputs] if provider.per_image else call(inputs))
        assert {tuple(v.shape[-3:]) for v in views} == set(shapes), f"{name} makes views of other sizes"
        if some is images:
            found[name] = statistics_of(views)
    agree(found)


Step = Callable[[int], float]


def images_of(provider: Provider, problem: Problem, setting: Setting) -> int:
    """Images of one measurement."""
    if provider.per_image and problem.threads > 1:
        return WORKER_IMAGES * problem.threads
    if provider.backend == "torch":
        return provider.images
    n = problem.batch or provider.images * (4 if setting.image_size <= 64 else 1)  # small views take microseconds
    return min(n, 16 if len(setting.make().recipe.sizes) <= 2 else 4) if provider.per_image else n


def step(provider: Provider, problem: Problem, setting: Setting, device: str) -> Step:
    """Milliseconds a view of one measurement, for `interleave`."""
    where, call, n = torch.device(device), provider.build(setting, device), images_of(provider, problem, setting)
    views = n * len(setting.make().recipe.sizes)
    if provider.per_image and problem.threads > 1:
        loader = in_workers(call, provider.prepare(setting.photographs(n)), problem.threads, WORKER_IMAGES // 2)
        return lambda turn: time_call(lambda: sum(1 for _ in loader), where) / views
    batches = [provider.prepare(setting.photographs(n, seed).to(device)) for seed in range(INPUT_SETS)]
    whole = (lambda inputs: [call(x) for x in inputs]) if provider.per_image else call
    return lambda turn: time_call(lambda: whole(batches[turn % INPUT_SETS]), where) / views


def measure(problem: Problem, device: str) -> list[Row]:
    """Measure one problem; return one row a provider."""
    setting = SETTINGS[problem.recipe]
    names = [n for n in available(problem.recipe, device) if problem.providers is None or n in problem.providers]
    with threads(problem.threads):
        _check(problem, names, setting, device)
        steps = {name: step(PROVIDERS[name], problem, setting, device) for name in names}
        times = interleave(
            steps | reference_steps(device, "float32"), ROUNDS, budget_s=problem.budget_s, least=LEAST_ROUNDS
        )
    return [_row(problem, name, device, times) for name in names]


def _row(problem: Problem, name: str, device: str, times: dict[str, list[float]]) -> Row:
    provider, setting = PROVIDERS[name], SETTINGS[problem.recipe]
    output: dict[str, Any] = {"dtype": torch.float32, "memory_format": torch.contiguous_format, "rounding": "none"}
    output |= dict(provider.output)
    recipe = setting.make().recipe
    median_ms = {who: statistics.median(values) for who, values in times.items()}
    matmul_per_ms, copy_per_ms = rates_per_ms(median_ms[MATMUL], median_ms[COPY], device)
    cost = augment_floors.cost(recipe, (setting.image_size,) * 2, output["dtype"].itemsize)
    first, third = quartiles(times[name])
    own = name.startswith("fastssl")
    return rounded({
        "op": "augment", "provider": name, "recipe": problem.recipe, "title": setting.title,
        "backend": (provider.backend or backends(device)[0]) if own else None, "device": device.split(":")[0],
        "threads": problem.threads, "in_workers": provider.per_image and problem.threads > 1,
        "image_size": setting.image_size, "views": len(recipe.sizes), "batch": problem.batch,
        "images": images_of(provider, problem, setting),
        "dtype": str(output["dtype"]).removeprefix("torch."), "rounding": output["rounding"],
        "channels_last": output["memory_format"] == torch.channels_last,
        "time_ms": median_ms[name], "q1_ms": first, "q3_ms": third, "rounds": len(times[name]),
        "time_over_fastssl": median_ms[name] / median_ms["fastssl"],
        "floor_bytes": cost.bytes, "floor_operations": cost.operations,
        "floor_bytes_ms": cost.bytes / copy_per_ms, "floor_operations_ms": cost.operations / matmul_per_ms,
        "matmul_gflops": matmul_per_ms / 1e6, "copy_gbs": copy_per_ms / 1e6,
        "predicted_h200_us": cost.h200_us if own else None,
    })  # fmt: skip


def describe(rows: Sequence[Row]) -> None:
    """Print some rows as a small table."""
    for row in rows:
        size = f"{row['title']:24} {row['threads']:2} threads {row['provider']:18}"
        told = f"{row['time_over_fastssl']:7.2f} x fastssl, floors {row['floor_bytes_ms']:.3f} (bytes)"
        print(
            f"{size} {row['time_ms']:9.4f} ms a view {told} {row['floor_operations_ms']:.3f} (operations)", flush=True
        )


def own(problem: Problem, device: str) -> Callable[[], object]:
    """One call of fastssl's with a batch."""
    setting, provider = SETTINGS[problem.recipe], PROVIDERS["fastssl"]
    batch = provider.prepare(setting.photographs(provider.images).to(device))
    call = provider.build(setting, device)
    return lambda: call(batch)


def all_threads() -> tuple[int, ...]:
    """1, 2, 4 ... and all cores, for a curve of their use."""
    powers = [2**k for k in range(12) if 2**k < cores()]
    return (*powers, cores())
