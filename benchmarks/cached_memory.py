"""Peak memory of a SimCLR step by gradient caching, over the batch, beside that of the plain step.

python benchmarks/cached_memory.py [--out DIR]            # prints a table and stores `cached.json`
"""

from __future__ import annotations

import argparse
import functools
import importlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import memory
import torch
from environment import RESULTS
from harness import Benchmark, rounded, write

import fastssl
from fastssl import methods

CHUNK = 256
DIM = 32  # of the projections: the loss is not what is measured, and takes its time from them
IMAGES = (512, 2048, 8192, 32768)
PLAIN_LIMIT = 8192  # images beyond which the plain step is not run
BENCHMARK = Benchmark(
    "cached", lambda device, quick: (), lambda problem, device, state: [], lambda rows: None,
    lambda problem, device: lambda: None, ("timm",),
)  # fmt: skip


def training_step(
    method: methods.SimCLR, optimizer: torch.optim.Optimizer, images: torch.Tensor, chunk_size: int
) -> None:
    """One optimizer step, plain where `chunk_size` is 0."""
    optimizer.zero_grad()
    if chunk_size:
        loss = fastssl.cached_step(method.project, images, method.criterion, chunk_size, augment=method.augment)
    else:
        loss = method(method.augment(images))
        loss.backward()
    optimizer.step()
    if not loss.isfinite():
        raise RuntimeError(f"the loss is {loss.item()}")


def preload(n: int, chunk_size: int) -> None:
    """Import what the call of `memory_case` needs, and run nothing: threads that an operation starts die in a fork."""
    for module in ("timm", "fastssl.data", "fastssl.methods", "fastssl.transforms"):
        importlib.import_module(module)


def memory_case(n: int, chunk_size: int, device: str) -> tuple[Callable[[], Any], dict[str, Callable[[], Any]]]:
    """A step of two chunks to go before, and one of `n` images, the digits again and again, 2 n rows in the loss."""
    torch.manual_seed(0)
    # Half as wide as `methods.small_resnet`: a step of 32768 images shall take seconds on a CPU.
    encoder = methods.build_encoder("resnet18", in_chans=1, stem="small", layers=(1, 1, 1, 1), channels=(8, 16, 32, 64))
    method = methods.SimCLR(encoder, projection_dim=DIM).to(device)
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-3)
    digits, _ = fastssl.data.load("digits").batch(range(1442))
    images = digits.repeat(-(-n // len(digits)), 1, 1, 1)[:n].to(device)
    step = functools.partial(training_step, method, optimizer)
    return lambda: step(images[: 2 * CHUNK], chunk_size), dict.fromkeys(
        ("first step", "second step"), lambda: step(images, chunk_size)
    )


def peak_bytes(n: int, chunk_size: int = CHUNK, device: str = "cpu", timeout_s: float = 900) -> int:
    """Peak extra bytes of a step of n images; `chunk_size` 0 is the plain step."""
    arguments = {"n": n, "chunk_size": chunk_size}
    return memory.measure_case("cached_memory", arguments, device, timeout_s)["peak_bytes"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args(arguments)
    start, rows = time.perf_counter(), []
    for n in IMAGES:
        for chunk_size in (CHUNK, 0) if n <= PLAIN_LIMIT else (CHUNK,):
            row = {"m": 2 * n, "d": DIM, "chunk_size": chunk_size, "peak_mib": peak_bytes(n, chunk_size) / 2**20}
            print(f"2N {2 * n:6}, {f'chunks of {chunk_size}' if chunk_size else 'whole':14} {row['peak_mib']:8.1f} MiB")
            rows.append(rounded(row))
    path = write(BENCHMARK, rows, "cpu", args.out, "python benchmarks/cached_memory.py", time.perf_counter() - start)
    print(f"written  {path.parent.name}/{path.name}")


if __name__ == "__main__":
    main()
