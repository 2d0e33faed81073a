"""Nothing of size 2N x 2N: peak memory counted in bytes, in a process of its own a measurement."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
from memory import peak_extra_bytes


def test_32768_rows_take_under_100_megabytes() -> None:
    assert peak_extra_bytes("fastssl", 32768, 128) < 100e6  # the matrix alone would be 4.3e9


@pytest.mark.parametrize("provider", ["fastssl", "fastssl-torch"])
def test_memory_grows_with_rows_not_with_their_square(provider: str) -> None:
    small, large = (peak_extra_bytes(provider, m, 64) for m in (4096, 8192))
    assert large < 2.5 * small
    assert large < 0.1 * 4 * 8192**2
