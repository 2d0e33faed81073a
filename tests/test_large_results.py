"""Results from 4 MiB on, which CPU kernels write past the caches, into pages that are kept for the next result."""

from __future__ import annotations

import copy
import io
import math
import os
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest
import torch
from conftest import runnable
from torch import Tensor

import fastssl
from fastssl.functional import gather_tokens, mask_patchify, masked_mse, random_masking, restore_tokens

LARGE = 4 << 20  # bytes
on_kernels = pytest.mark.parametrize(
    ("dtype", "device", "backend"),
    [
        (dtype, *where)
        for dtype in (torch.float32, torch.float16, torch.bfloat16)
        for where in runnable("gather_tokens", dtype)
        if where[1] != "torch"  # which leaves its results to PyTorch
    ],
)


def leave_nan_behind(*results: Tensor) -> None:
    """Free results of the sizes of these, full of NaN: the pages that the next ones get."""
    for x in results:
        numbers = -(-x.numel() * x.element_size() // 4)
        nan = torch.full((1, 1, 1), math.nan).expand(1, 1, numbers)
        gather_tokens(nan.contiguous(), torch.zeros(1, 1, dtype=torch.int64))


def equal_in_small_batches(call: Callable[..., tuple[Tensor, ...]], *inputs: Tensor) -> None:
    """`call` of whole tensors is that of each sample."""
    whole = call(*inputs)
    assert all(x.numel() * x.element_size() >= LARGE for x in whole)
    again = None
    for _ in range(2):
        del again
        leave_nan_behind(*whole)
        again = call(*inputs)
        assert all(torch.equal(a, b) for a, b in zip(again, whole, strict=True))
    for i in range(len(inputs[0])):
        alone = call(*(x[i : i + 1] for x in inputs))
        assert all(torch.equal(a[i : i + 1], b) for a, b in zip(whole, alone, strict=True))


def ids_of(n: int, count: int, length: int, device: str) -> Tensor:
    ids = random_masking(n, length, 1 - (count + 0.5) / length, seed=1, device=device).ids_keep
    assert ids.shape[1] == count
    return torch.where(torch.rand(n, count, device=device) < 0.1, -1, ids)


@on_kernels
@pytest.mark.parametrize("width", [771, 768])
def test_gather_tokens(device: str, backend: str, dtype: torch.dtype, width: int) -> None:
    x, ids = torch.randn(4, 1101, width, device=device).to(dtype), ids_of(4, 1000, 1100, device)
    upstream = torch.randn(4, 1001, width, device=device).to(dtype)

    def call(x: Tensor, ids: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
        leaf = x.detach().requires_grad_()
        out = gather_tokens(leaf, ids, prefix_tokens=1)
        return out.detach(), *torch.autograd.grad(out, leaf, grad)

    with fastssl.use_backend(backend):
        equal_in_small_batches(call, x, ids, upstream)
        found = call(x, ids, upstream)[0]
    named = x[:, 1:].gather(1, ids.clamp(0)[..., None].expand(-1, -1, width)) * (ids >= 0)[..., None]
    assert torch.equal(found, torch.cat([x[:, :1], named], 1))


@on_kernels
@pytest.mark.parametrize("width", [771, 768])
def test_restore_tokens(device: str, backend: str, dtype: torch.dtype, width: int) -> None:
    ids = torch.rand(4, 1100, device=device).argsort(1)
    visible, token, pos = (torch.randn(*s, width, device=device).to(dtype) for s in ((4, 901), (1, 1), (1101,)))
    upstream = torch.randn(4, 1101, width, device=device).to(dtype)

    def call(visible: Tensor, ids: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
        leaf = visible.detach().requires_grad_()
        out = restore_tokens(leaf, ids, token, pos, prefix_tokens=1)
        return out.detach(), *torch.autograd.grad(out, leaf, grad)

    with fastssl.use_backend(backend):
        equal_in_small_batches(call, visible, ids, upstream)


@on_kernels
@pytest.mark.parametrize("patch", [16, (7, 11)])
def test_mask_patchify(device: str, backend: str, dtype: torch.dtype, patch: int | tuple[int, int]) -> None:
    p, q = (patch, patch) if isinstance(patch, int) else patch
    images = torch.randint(0, 256, (4, 3, p * 60, q * 40), dtype=torch.uint8, device=device)
    if p == 7:
        images = images.contiguous(memory_format=torch.channels_last)
    ids, pos = ids_of(4, 2300, 2400, device), torch.randn(2400, 300, device=device).to(dtype)
    with fastssl.use_backend(backend):
        equal_in_small_batches(lambda x, ids: mask_patchify(x, ids, patch, pos, dtype=dtype), images, ids)
        equal_in_small_batches(
            lambda x, ids: (mask_patchify(x, ids, patch, channels_last=True, dtype=dtype),), images, ids
        )


@on_kernels
@pytest.mark.parametrize("patch", [16, (7, 11)])
def test_masked_mse(device: str, backend: str, dtype: torch.dtype, patch: int | tuple[int, int]) -> None:
    p, q = (patch, patch) if isinstance(patch, int) else patch
    images = torch.randint(0, 256, (4, 3, p * 60, q * 40), dtype=torch.uint8, device=device)
    mask = random_masking(4, 2400, 0.75, seed=2, device=device).mask  # as many in each sample
    pred = torch.randn(4, 2400, 3 * p * q, device=device).to(dtype)

    def call(pred: Tensor, images: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        leaf = pred.detach().requires_grad_()
        # The gradient of a mean over 4 times the patches, times 4, is that of one sample to the last bit.
        (len(pred) * masked_mse(leaf, images, mask, patch)).backward()
        assert leaf.grad is not None
        return (leaf.grad,)

    with fastssl.use_backend(backend):
        equal_in_small_batches(call, pred, images, mask)


def large(value: float = 1.0, numbers: int = LARGE // 2) -> Tensor:
    return gather_tokens(torch.full((1, 1, numbers), value), torch.zeros(1, 1, dtype=torch.int64))[0, 0]


def test_they_are_tensors_as_any() -> None:
    x = large(3.0)
    assert x.storage_offset() == 0
    saved = io.BytesIO()
    torch.save(x, saved)
    saved.seek(0)
    for same in (copy.deepcopy(x), torch.load(saved), torch.from_numpy(x.numpy()), x.clone().share_memory_()):
        assert torch.equal(same, x)
    assert x.share_memory_().is_shared()
    assert (x == 3).all()
    for size in (3 * LARGE, 10, 0, LARGE):
        x = large(5.0)
        x.resize_(size)
        assert x.numel() == size
        assert (x[: LARGE // 2] == 5).all()
        x.fill_(1)
        x = large(5.0)
        x.untyped_storage().resize_(4 * size)
        assert x.untyped_storage().nbytes() == 4 * size
    view = large(7.0)[5:-5]
    other = large(8.0)  # the view keeps its pages
    assert (view == 7).all()
    assert (other == 8).all()


def test_kept_pages_are_never_in_two_places() -> None:
    wrong = []

    def work(value: float) -> None:
        held: list[tuple[float, Tensor]] = []
        for turn in range(30):
            number = value + turn
            held.append((number, large(number, LARGE // 4 + 300_000 * (turn % 4))))
            if not all((x[::4096] == v).all() and x[-1] == v for v, x in held):
                wrong.append(value)
            del held[: turn % 3]

    threads = [threading.Thread(target=work, args=(1000.0 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("mib", ["0", "256"])
def test_limit_of_what_is_kept(mib: str) -> None:
    program = """
import torch
from fastssl.functional import gather_tokens
ids, x = torch.zeros(1, 1, dtype=torch.int64), torch.ones(1, 1, 12 << 18)
def resident():
    return int(next(l for l in open("/proc/self/status") if l.startswith("VmRSS")).split()[1]) / 1024
for _ in range(2):
    results = [gather_tokens(x, ids) for _ in range(10)]
    full = resident()
    del results
print(full - resident())
"""
    if not os.path.exists("/proc/self/status"):
        return
    env = {**os.environ, "FASTSSL_CPU_CACHE_MIB": mib, "MALLOC_TRIM_THRESHOLD_": "0"}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    given_back = float(done.stdout)  # of 120 MiB
    assert given_back > 100 if mib == "0" else given_back < 20
