"""Launch configurations: blocks and warps are chosen nowhere else.

The tests compile all of them for each architecture: no spills, shared and tensor memory under the chip's limit.
"""

from __future__ import annotations

import functools
from dataclasses import replace

import torch

from .launch_tables import ARCHITECTURES, FALLBACK, RAGGED, TABLE, Config

MAX_WIDTH = 1024


REDUCTION = Config(block_m=4096, num_warps=32)  # one program over a [m] array
VECTOR = Config(block_m=512, num_warps=4)  # programs over a [m] array


def padded(width: int) -> int:
    """The power of two that holds a row; 16 is the least that tl.dot takes."""
    return max(16, 1 << (width - 1).bit_length())


def rows(width: int) -> Config:
    """Row-wise kernels: whole rows, about 1024 elements of each view a program."""
    return Config(block_m=max(1, 1024 // padded(width)), block_d=padded(width), num_warps=4)


def epilogue(config: Config, width: int) -> dict[str, int]:
    """Row tiles of the backward's epilogue: 16 elements a thread."""
    block = padded(width)
    return {"BLOCK_WIDTH": block, "EPILOGUE_M": max(1, min(config.block_m, 16 * 32 * config.num_warps // block))}


def configs(loop: str, arch: int, element_size: int, width: int) -> tuple[Config, ...]:
    """All configurations of a tile loop that may be launched for a width."""
    if width * element_size % 16:
        found = RAGGED[loop]
    else:
        classes = TABLE[loop][arch][element_size]
        found = classes[min(limit for limit in classes if limit >= width)]
    # Narrow widths need only one, smaller chunk.
    return tuple(replace(c, block_d=min(c.block_d, padded(width))) for c in found)


def architecture(device: torch.device) -> int:
    """The table's key for a device."""
    if device.type != "cuda":
        return FALLBACK
    return ARCHITECTURES.get(torch.cuda.get_device_capability(device), FALLBACK)


@functools.cache
def processors(device: torch.device) -> int:
    """Streaming multiprocessors; 1 on the CPU, where the interpreter runs."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def pick(loop: str, device: torch.device, element_size: int, m: int, width: int) -> Config:
    """The largest row block that still gives every processor one; the smallest where none does."""
    choice = configs(loop, architecture(device), element_size, width)
    return next((c for c in choice if -(-m // c.block_m) >= processors(device)), choice[-1])


def splits(config: Config, device: torch.device, m: int, n: int, fill: int = 2, steps: int = 1) -> int:
    """Parts of the column loop, each a program of its own, where row blocks alone would leave processors idle.

    `fill` programs a processor, each with at least so many column blocks.
    """
    row_blocks = -(-m // config.block_m)
    return max(1, min(fill * processors(device) // row_blocks, -(-n // (config.block_n or n)) // steps))


def readable(value: torch.Tensor, device: torch.device) -> torch.Tensor | float:
    """A 0-d argument: a pointer where the kernels can read it; a float where it lives on the CPU, without a sync."""
    return value if value.device == device else float(value)


def operand(x: torch.Tensor, products: torch.dtype) -> torch.Tensor:
    """What the kernels multiply; the interpreter, on a CPU, computes bfloat16 wrongly."""
    x = x.to(products)
    return x.float() if x.device.type == "cpu" and products == torch.bfloat16 else x


def weight_shift(x: torch.Tensor) -> float:
    """Exponent of what weights of up to 2 are held times: float16 ends at 2^16, and begins at 2^-24."""
    return 14.0 if x.dtype == torch.float16 else 0.0


def element_size(x: torch.Tensor) -> int:
    """The table's key for the operands of products."""
    return 4 if x.dtype == torch.float32 or x.device.type == "cpu" else 2


def precision(x: torch.Tensor) -> str:
    """How tl.dot treats its operands: float32 obeys torch.set_float32_matmul_precision."""
    if x.dtype != torch.float32 or x.device.type == "cpu":
        return "ieee"  # 16-bit operands go to the tensor cores as they are; the interpreter knows only this
    return {"highest": "tf32x3", "high": "tf32", "medium": "bf16"}[torch.get_float32_matmul_precision()]


def rank_blocks(quads: int) -> dict[str, int]:
    """Random masking, in fours of tokens: 32 tokens a program, compared with up to 256 at a time."""
    return {"BLOCK": 8, "CHUNK": min(64, max(16, 1 << (quads - 1).bit_length()))}


def tile(width: int) -> dict[str, int]:
    """Rows of tokens: up to 2048 elements a program, 16 a thread; columns of 64 to 256 that divide the width if any do.

    Rows that are not whole 16-byte words are read number by number, each with an address: half as many.
    """
    aligned = width & -width
    block = min(256, aligned if aligned >= 64 else 1 << (width - 1).bit_length())
    return {"BLOCK_ROWS": min(16, (1024 if width % 16 else 2048) // block), "BLOCK_D": block}


def collect_tile(width: int) -> dict[str, int]:
    """Rows that are given back: narrow ones spill a register where the assembler chooses how many there are."""
    found = tile(width)
    return found | ({"maxnreg": 128} if found["BLOCK_D"] < 64 else {})


def splits_of_samples(programs: int, samples: int) -> int:
    """Parts of a sum over samples, the same on every device.

    Enough for 512 programs where one for each block of outputs is too few, and no more than 256 samples one after
    another, which bounds the rounding of a sum.
    """
    return max(min(samples, 512 // programs), -(-samples // 256))


def tiles(entries: int, rows: int, width: int) -> int:
    """Programs for as many [rows, width] tables."""
    block = tile(width)
    return entries * -(-rows // block["BLOCK_ROWS"]) * -(-width // block["BLOCK_D"])


SUMS = {"maxnreg": 168}  # without a bound the assembler spills a few registers, for more programs at a time
PARTS = {"BLOCK_PARTS": 16, "BLOCK_COLUMNS": 128}


def column_blocks(*columns: int) -> int:
    """Programs of `sum_parts_kernel`."""
    return sum(-(-count // PARTS["BLOCK_COLUMNS"]) for count in columns)


def patch_tile(elements: int, width: int) -> dict[str, int]:
    """Patches and, beside them, positions of a width that may be 0."""
    block = tile(elements)
    rows, beside = block["BLOCK_ROWS"], tile(max(1, width))["BLOCK_D"]
    return {"BLOCK_ROWS": rows, "BLOCK_E": block["BLOCK_D"], "BLOCK_D": min(beside, 2048 // rows)}


def patch_tiles(samples: int, count: int, elements: int, width: int, block: dict[str, int]) -> int:
    """Programs for patches and positions."""
    chunks = -(-elements // block["BLOCK_E"]) + -(-width // block["BLOCK_D"])
    return samples * -(-count // block["BLOCK_ROWS"]) * chunks


def plane_tile(pixels: int) -> dict[str, int]:
    """Whole channels of patches of up to 16384 pixels, 32 a thread; in pieces of 2048 beyond, 8 a thread."""
    if pixels > 16384:
        return {"BLOCK": 2048, "num_warps": 8}
    block = max(128, 1 << (pixels - 1).bit_length())
    return {"BLOCK": block, "num_warps": max(1, block // 1024)}


def loss_tile(elements: int) -> dict[str, int]:
    """Whole patches of up to 4096 elements, 16 a thread; in pieces of 2048 beyond, 8 a thread."""
    block = 1 << (elements - 1).bit_length() if elements <= 4096 else 2048
    tile = {"BLOCK_ROWS": max(1, min(64, 2048 // block)), "BLOCK_E": block, "num_warps": 8 if elements > 2048 else 4}
    return tile | ({"maxnreg": 64} if block < 128 else {})  # left alone, the assembler takes 40 and spills


MAX_VIEWS = 12  # of students in one launch: each has two numbers in registers, and the teachers' three
SUM = {"BLOCK": 4096, "num_warps": 16}


def lanes(per: int, width: int, aligned: bool) -> dict[str, int]:
    """Tiles of rows for programs of one warp, whose sums meet without shared memory; read two tiles ahead.

    A lane has `per` numbers of a row, or less where those divide the width, as masks take registers.
    """
    per = per if aligned and width % 16 == 0 else 2
    while per > 2 and width % (32 * per):
        per //= 2
    return {"LANES": 32, "PER": per, "STAGES": 3, "num_warps": 1}


def views(students: int, teachers: int, element_size: int, width: int, aligned: bool) -> dict[str, int]:
    """Rows of several views, 16 bytes of each a lane; of few views those of several images, which share the center."""
    images = max(1, 8 // (students + teachers))
    per = 16 // element_size // (1 if teachers <= 2 else 2)
    return {"IMAGES": images} | lanes(per, width, aligned) | {"maxnreg": 168}


def slices(rows: int, width: int, block: int, device: torch.device) -> tuple[int, int]:
    """Parts of a row, each a program of its own, and the tiles of all but the last.

    12 programs a processor, of 512 to 8192 elements; no more than 128 parts, which one program combines.
    """
    span = 8192
    while span > 512 and rows * -(-width // span) < 12 * processors(device):
        span //= 2
    steps = -(-max(span, -(-width // 128)) // block)
    return -(-width // (steps * block)), steps


def combine(views: int, slices: int) -> dict[str, int]:
    """All slices of all views of an image at once."""
    block = {"BLOCK_VIEWS": 1 << (views - 1).bit_length(), "BLOCK_SLICES": 1 << (slices - 1).bit_length()}
    return block | {"num_warps": 4 if block["BLOCK_VIEWS"] * block["BLOCK_SLICES"] > 256 else 1}


def rows_of_scores(element_size: int, width: int, aligned: bool) -> dict[str, int]:
    """Four rows at a time, which share what is subtracted from them."""
    return {"ROWS": 4} | lanes(16 // element_size, width, aligned) | {"maxnreg": 128}


def columns_of_scores(element_size: int, aligned: bool) -> dict[str, int]:
    """Eight rows at a time, whose sums over columns need no other thread: 16 bytes of each a lane."""
    return {"ROWS": 8, "COLUMNS": 512 // element_size if aligned else 64, "STAGES": 3, "num_warps": 1, "maxnreg": 160}


def parts_of_samples(blocks: int, samples: int, rows: int, device: torch.device) -> tuple[int, int]:
    """Parts of the samples, of 32 at least, for 12 programs a processor on so many blocks of columns; their size."""
    count = max(1, min(-(-12 * processors(device) // blocks), samples // 32))
    size = -(-samples // (count * rows)) * rows
    return -(-samples // size), size


def columns_of_parts() -> dict[str, int]:
    return {"BLOCK": 128, "num_warps": 4}


def classes_tile(classes: int, along_rows: bool) -> dict[str, int]:
    """All of up to 1024 classes of some places, in pieces of 512 beyond.

    Places side by side are 16 at a time, half a cache line, and 32 numbers a thread. Rows are a warp's, whose sums meet
    without shared memory.
    """
    block = max(16, 1 << (classes - 1).bit_length()) if classes <= 1024 else 512
    if along_rows:
        return {"BLOCK_P": max(1, min(64, 1024 // block)), "BLOCK_Q": block, "num_warps": 1}
    places = min(64, 8192 // block)
    warps = min(8, max(1, places * block // 512))
    # Left alone, the assembler takes 64 and spills one.
    return {"BLOCK_P": places, "BLOCK_Q": block, "num_warps": warps, "maxnreg": 128}


def bins_tile(count: int, device: torch.device) -> dict[str, int]:
    """All bins for some cells, 16 to 32 numbers a thread; as many as go into the cache where the interpreter runs."""
    block = max(16, 1 << (count - 1).bit_length())
    cells = max(1, (2048 if device.type == "cuda" else 2**18) // block)
    return {"BLOCK_CELLS": cells, "BLOCK": block, "num_warps": 4 if block <= 1024 else 8}


def points_tile(neighbors: int) -> dict[str, int]:
    """Points and their neighbours, 8 numbers a thread."""
    width = max(16, 1 << (neighbors - 1).bit_length())
    return {"BLOCK": max(1, 1024 // width), "WIDTH": width, "num_warps": 4}
