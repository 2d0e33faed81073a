"""Memory of large CPU results: kept for the next one, up to a limit, and an ordinary tensor in every other way."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading

import torch

from fastssl.functional import gather_tokens

ROWS = torch.arange(64).expand(4, 64)
HELD = """
import torch
from fastssl.functional import gather_tokens
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096
ids = torch.zeros(4, 4096, dtype=torch.int64)
def make(width):
    return gather_tokens(torch.ones(4, 1, width), ids)
make(8)
before = resident()
large = [make(1024) for _ in range(8)]  # of 64 MiB
during = resident()
del large
print((during - before) >> 20, (resident() - before) >> 20)
"""


def large(value: float) -> torch.Tensor:
    """8 MiB through the C++ backend."""
    return gather_tokens(torch.full((4, 64, 8192), value), ROWS)


def held(**env: str) -> tuple[int, int]:
    """MiB that a process holds with eight results of 64 MiB, and after they are gone."""
    done = subprocess.run(
        [sys.executable, "-c", HELD], env={**os.environ, **env}, capture_output=True, text=True, check=True, timeout=120
    )
    during, after = (int(word) for word in done.stdout.split())
    return during, after


def test_memory_is_used_again() -> None:
    first = large(1.0)
    place = first.data_ptr()
    second = large(2.0)
    assert second.data_ptr() != place  # not while it is in use
    del first
    third = large(3.0)
    assert third.data_ptr() == place
    assert bool((second == 2).all())
    assert bool((third == 3).all())


def test_limit() -> None:
    during, after = held()
    assert during > 450
    assert after < 256 + 32  # of the default limit; some of the process's own
    during, after = held(FASTSSL_CPU_CACHE_MIB="0")
    assert during > 450
    assert after < 32


def test_result_is_an_ordinary_tensor() -> None:
    x = large(1.0)
    assert x.is_contiguous()
    assert x.untyped_storage().resizable()
    x.resize_(8, 64, 8192)
    assert bool((x.view(-1)[: 4 * 64 * 8192] == 1).all())
    assert torch.equal(torch.load(_saved(x[:4]), weights_only=True), x[:4])


def _saved(x: torch.Tensor) -> io.BytesIO:
    file = io.BytesIO()
    torch.save(x, file)
    file.seek(0)
    return file


def test_many_threads() -> None:
    wrong: list[float] = []

    def work(value: float) -> None:
        for _ in range(20):
            x = large(value)
            if not bool((x == value).all()):
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(float(i),)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_forked_process() -> None:
    """As the workers of a DataLoader are."""
    x = large(1.0)
    del x
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)  # as those have it: OpenMP's threads do not survive a fork
        os._exit(0 if bool((large(2.0) == 2).all()) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert bool((large(3.0) == 3).all())
