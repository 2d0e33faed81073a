"""Configurations of loops over tiles of products: loop x architecture x bytes an element x width.

The tests compile every entry for its architecture: no spills, shared and tensor memory under the chip's limit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Config:
    """Arguments of one launch; fields left at None are not passed."""

    block_m: int
    block_n: int | None = None
    block_d: int | None = None  # chunk of the width: tiles are [rows, block_d]
    num_warps: int = 4
    num_stages: int = 1
    resident: bool | None = None  # keep the row block in shared memory, or read it again for every column block
    block_slice: int | None = None  # backward, not resident: columns of the gradient a pass; each recomputes the scores
    mask_all: bool | None = None  # mask every tile rather than branch

    def kwargs(self) -> dict[str, int]:
        """The keyword arguments of a kernel."""
        named = {
            "BLOCK_M": self.block_m,
            "BLOCK_N": self.block_n,
            "BLOCK_D": self.block_d,
            "RESIDENT": self.resident,
            "BLOCK_SLICE": self.block_slice,
            "MASK_ALL": self.mask_all,
            "num_warps": self.num_warps,
            "num_stages": self.num_stages,
        }
        return {name: value for name, value in named.items() if value is not None}


def _fwd(block_m: int, block_n: int, block_d: int, num_warps: int, num_stages: int, resident: bool = True) -> Config:
    return Config(block_m, block_n, block_d, num_warps, num_stages, resident=resident)


def _bwd(block_m: int, block_n: int, block_d: int, num_warps: int, num_stages: int, mask_all: bool = False) -> Config:
    return Config(block_m, block_n, block_d, num_warps, num_stages, resident=True, block_slice=16, mask_all=mask_all)


def _bwd_sliced(block_m: int, block_n: int, block_d: int, num_warps: int, num_stages: int, block_slice: int) -> Config:
    return replace(_bwd(block_m, block_n, block_d, num_warps, num_stages), resident=False, block_slice=block_slice)


FALLBACK = 0  # any other architecture: mma.sync tiles that fit 99 KiB of shared memory
ARCHITECTURES = {(8, 0): 80, (9, 0): 90, (10, 0): 100, (10, 3): 100}

Table = dict[int, dict[int, dict[int, tuple[Config, ...]]]]

# tile loop -> architecture -> bytes an element -> largest width -> configurations, the largest row block first.
# Rows decide how often the column blocks are read again: 128 where registers and shared memory allow it.
TABLE: dict[str, Table] = {
    "sums": {
        FALLBACK: {
            2: {64: (_fwd(64, 64, 64, 4, 2),), 1024: (_fwd(64, 64, 64, 4, 3, resident=False),)},
            4: {1024: (_fwd(64, 32, 32, 4, 2, resident=False),)},
        },
        80: {
            2: {
                128: (_fwd(128, 64, 128, 8, 3),),
                256: (_fwd(128, 64, 256, 8, 3),),
                1024: (_fwd(128, 128, 32, 8, 4, resident=False),),
            },
            4: {
                32: (_fwd(128, 64, 32, 8, 3),),
                64: (_fwd(128, 32, 64, 8, 3),),
                128: (_fwd(128, 32, 64, 8, 3),),
                1024: (_fwd(128, 64, 32, 8, 4, resident=False),),
            },
        },
        90: {
            2: {
                128: (_fwd(128, 64, 128, 8, 3),),
                256: (_fwd(128, 128, 256, 8, 2),),
                512: (_fwd(128, 32, 512, 8, 3),),
                1024: (_fwd(128, 128, 64, 8, 3, resident=False),),
            },
            4: {
                64: (_fwd(128, 64, 64, 8, 2),),
                128: (_fwd(128, 64, 64, 8, 3),),
                1024: (_fwd(128, 128, 32, 8, 4, resident=False),),
            },
        },
        100: {
            2: {
                128: (_fwd(128, 128, 128, 8, 2),),
                256: (_fwd(128, 128, 256, 8, 2),),
                512: (_fwd(128, 32, 512, 4, 3),),
                1024: (_fwd(128, 128, 64, 8, 3, resident=False),),
            },
            4: {
                64: (_fwd(128, 64, 64, 8, 3),),
                1024: (_fwd(128, 128, 32, 8, 4, resident=False),),
            },
        },
    },
    "gradient": {
        FALLBACK: {
            2: {
                128: (_bwd(64, 32, 128, 4, 2),),
                256: (_bwd(32, 32, 256, 4, 2),),
                1024: (_bwd_sliced(64, 32, 64, 8, 3, block_slice=128),),
            },
            4: {64: (_bwd(64, 16, 64, 8, 2),), 1024: (_bwd_sliced(64, 32, 32, 8, 3, block_slice=128),)},
        },
        80: {
            2: {
                64: (_bwd(128, 64, 64, 8, 2), _bwd(64, 64, 64, 4, 2)),
                128: (_bwd(128, 64, 128, 8, 2), _bwd(64, 64, 128, 4, 2)),
                256: (_bwd(128, 64, 256, 8, 2), _bwd(64, 64, 256, 4, 2)),
                512: (_bwd(64, 32, 512, 8, 2),),
                1024: (_bwd(16, 32, 1024, 8, 2),),
            },
            4: {64: (_bwd(64, 16, 64, 8, 2),), 1024: (_bwd_sliced(64, 32, 32, 8, 3, block_slice=128),)},
        },
        90: {
            2: {
                64: (_bwd(128, 64, 64, 8, 2), _bwd(64, 64, 64, 4, 2)),
                128: (_bwd(128, 64, 128, 8, 2), _bwd(64, 64, 128, 4, 2)),
                256: (_bwd(128, 64, 128, 8, 2), _bwd(64, 128, 256, 8, 2)),
                512: (_bwd(64, 64, 512, 8, 2, mask_all=True), _bwd(32, 64, 128, 8, 2)),
                1024: (_bwd(32, 32, 256, 8, 2),),
            },
            4: {
                64: (_bwd(128, 64, 64, 8, 2),),
                128: (_bwd(128, 32, 64, 8, 2), _bwd(64, 16, 64, 8, 2)),
                1024: (_bwd_sliced(128, 32, 32, 8, 3, block_slice=128), _bwd_sliced(32, 32, 32, 8, 3, block_slice=256)),
            },
        },
        100: {
            2: {
                64: (_bwd(128, 64, 64, 8, 2), _bwd(64, 64, 64, 4, 2)),
                128: (_bwd(128, 64, 128, 8, 3), _bwd(64, 64, 128, 4, 3)),
                256: (_bwd(128, 64, 256, 8, 2), _bwd(64, 64, 256, 4, 2)),
                512: (_bwd(64, 32, 512, 8, 2),),
                1024: (_bwd(32, 32, 256, 8, 2),),
            },
            4: {
                64: (_bwd(64, 64, 64, 8, 2),),
                128: (_bwd(64, 32, 64, 8, 2),),
                1024: (_bwd_sliced(64, 32, 32, 8, 3, block_slice=128),),
            },
        },
    },
}


def _like(loop: str, changes: dict[int, dict[int, dict[int, Config]]]) -> Table:
    """The first choices of another loop, but for these: column splits keep processors busy, not smaller row blocks."""
    return {
        arch: {
            size: {limit: (found[0],) for limit, found in classes.items()}
            | {limit: (config,) for limit, config in changes.get(arch, {}).get(size, {}).items()}
            for size, classes in sizes.items()
        }
        for arch, sizes in TABLE[loop].items()
    }


# The engine: beside the products, its loops hold ids, or sums over rows, or scale their own sum.
TABLE["pairwise_sums"] = _like(
    "sums",
    {
        FALLBACK: {
            2: {1024: _fwd(64, 64, 64, 8, 3, resident=False)},
            4: {1024: _fwd(64, 16, 32, 4, 2, resident=False)},
        },
        80: {4: dict.fromkeys((128, 1024), _fwd(128, 32, 32, 4, 3, resident=False))},
        100: {
            2: {512: _fwd(128, 32, 512, 8, 3), 1024: _fwd(128, 128, 64, 8, 2, resident=False)},
            4: {1024: _fwd(128, 64, 32, 8, 4, resident=False)},
        },
    },
)
TABLE["pairwise"] = _like(
    "gradient",
    {
        80: {2: {128: _bwd(128, 32, 128, 8, 2), 256: _bwd(64, 64, 256, 8, 2)}},
        90: {
            2: {512: _bwd(64, 32, 512, 8, 2, mask_all=True), 1024: _bwd(32, 16, 256, 8, 2)},
            4: {128: _bwd(128, 16, 64, 8, 2)},
        },
        100: {2: {1024: _bwd(32, 16, 256, 8, 2)}, 4: {64: _bwd(64, 32, 64, 8, 2)}},
    },
)
TABLE["attend"] = _like(
    "pairwise",
    {
        FALLBACK: {4: {1024: _bwd_sliced(64, 16, 32, 8, 3, block_slice=128)}},
        80: {
            2: {128: _bwd(128, 64, 128, 8, 2), 512: _bwd(32, 32, 512, 8, 2)},
            4: {64: _bwd(64, 16, 64, 8, 1)},
        },
        90: {4: {64: _bwd(128, 32, 64, 8, 2)}},
    },
)
TABLE["softplus"] = _like(
    "pairwise",
    {
        80: {2: {512: _bwd(32, 32, 512, 8, 2)}},
        90: {
            2: {128: _bwd(128, 32, 128, 8, 2), 256: _bwd(128, 32, 128, 8, 2)},
            4: {64: _bwd(128, 32, 64, 8, 2), 128: _bwd_sliced(64, 32, 32, 8, 3, block_slice=128)},
        },
        100: {
            2: {
                64: _bwd(128, 32, 64, 8, 2),
                128: _bwd(128, 32, 128, 8, 3),
                256: _bwd(128, 32, 256, 8, 2),
                1024: _bwd_sliced(64, 32, 64, 8, 3, block_slice=128),
            },
            4: {1024: _bwd_sliced(64, 16, 32, 8, 3, block_slice=128)},
        },
    },
)

# Rows that are not whole 16-byte words cannot be copied asynchronously: small tiles, on every architecture.
_RAGGED = replace(_bwd_sliced(32, 16, 32, 4, 2, block_slice=128), mask_all=True)
RAGGED = {
    "sums": (_fwd(64, 32, 32, 4, 2, resident=False),),
    "gradient": (_bwd_sliced(32, 32, 32, 4, 2, block_slice=128),),
    "pairwise_sums": (_fwd(64, 32, 32, 4, 2, resident=False),),
    "pairwise": (_RAGGED,),
    "attend": (_RAGGED,),
    "softplus": (_RAGGED,),
}
