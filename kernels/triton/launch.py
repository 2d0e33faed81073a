"""Launch configurations: op x architecture x bytes an element x width. The only place where blocks and warps are chosen.

Every entry is compiled by the tests for its architecture: no spills, shared memory and tensor memory under the chip's limit.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch

MAX_WIDTH = 1024


@dataclass(frozen=True)
class Config:
    """Arguments of one launch; fields left at None are not passed."""

    block_m: int
    block_n: int | None = None
    block_d: int | None = None  # chunk of the width: tiles are [rows, block_d]
    num_warps: int = 4
    num_stages: int = 1

    def kwargs(self) -> dict[str, int]:
        blocks = {"BLOCK_M": self.block_m, "BLOCK_N": self.block_n, "BLOCK_D": self.block_d}
        options = {"num_warps": self.num_warps, "num_stages": self.num_stages}
        return {name: value for name, value in (blocks | options).items() if value is not None}


WIDTH_CLASSES = (16, 32, 64, 128, 256, 512, 1024)
ARCHITECTURES = (80, 90, 100)  # compute capability; others take FALLBACK, which fits 99 KiB of shared memory
FALLBACK = 0

# (op, architecture, bytes an element) -> width class -> configurations, the largest block_m first
TABLE = {
    ("ntxent_fwd", FALLBACK, 4): {1024: (Config(64, 64, 64, 4, 2),)},
    ("ntxent_bwd", FALLBACK, 4): {1024: (Config(64, 32, 64, 4, 2),)},
}

REDUCTION = Config(block_m=4096, num_warps=16)  # one program over a [m] array


def rows(width: int) -> Config:
    """Row-wise kernels: whole rows, so that a program holds about 2048 elements of each view."""
    block_d = max(16, 1 << (width - 1).bit_length())
    return Config(block_m=max(1, 2048 // block_d), block_d=block_d, num_warps=4)


def epilogue(config: Config, width: int) -> dict[str, int]:
    """Row tiles of the backward's epilogue: 16 elements a thread."""
    block = max(16, 1 << (width - 1).bit_length())
    return {"BLOCK_WIDTH": block, "EPILOGUE_M": max(1, min(config.block_m, 16 * 32 * config.num_warps // block))}


def architecture(device: torch.device) -> int:
    if device.type != "cuda":
        return FALLBACK
    major, minor = torch.cuda.get_device_capability(device)
    return {(8, 0): 80, (9, 0): 90, (10, 0): 100, (10, 3): 100}.get((major, minor), FALLBACK)


@functools.cache
def processors(device: torch.device) -> int:
    """Streaming multiprocessors; 1 on the CPU, where the interpreter runs."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def configs(op: str, arch: int, element_size: int, width: int) -> tuple[Config, ...]:
    """All configurations of an op that may be launched for a width."""
    classes = TABLE[op, arch, element_size]
    return classes[min(w for w in classes if w >= width)]


def pick(op: str, device: torch.device, element_size: int, m: int, width: int) -> Config:
    """The largest row block that still gives every processor one; the smallest where none does."""
    choice = configs(op, architecture(device), element_size, width)
    return next((c for c in choice if -(-m // c.block_m) >= processors(device)), choice[-1])


def splits(config: Config, device: torch.device, m: int) -> int:
    """Parts of the column loop, each a program of its own, where row blocks alone would leave processors idle."""
    row_blocks = -(-m // config.block_m)
    return max(1, min(2 * processors(device) // row_blocks, row_blocks // 2 + 1))
