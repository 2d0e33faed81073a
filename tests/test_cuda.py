"""What only a CUDA device can show: no host synchronisation, and capture in a CUDA graph."""

from __future__ import annotations

import pytest
import torch
from accuracy import loss_and_grads
from contrastive import CASES, TAUS, Case

import fastssl
from fastssl import _backend, functional, transforms
from fastssl.functional import ntxent


def pairs(n: int, d: int) -> list[torch.Tensor]:
    return [torch.randn(n, d, device="cuda") for _ in range(2)]


if torch.cuda.is_available():

    def test_cuda_never_waits_for_the_host_and_is_captured() -> None:
        static = [z.requires_grad_() for z in pairs(128, 64)]
        tau = torch.tensor(0.2, device="cuda", requires_grad=True)
        for _ in range(3):
            ntxent(*static, tau).backward()
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            for temperature in (0.2, tau):
                ntxent(*static, temperature).backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            loss = ntxent(*static, tau)
            grads = torch.autograd.grad(loss, static)
        fresh = pairs(128, 64)
        with torch.no_grad():
            for to, source in zip(static, fresh, strict=True):
                to.copy_(source)
        graph.replay()
        expected = loss_and_grads(ntxent, *fresh, 0.2, 1.0)
        torch.testing.assert_close(loss.double().cpu(), expected[0], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(grads[0].double().cpu(), expected[1], rtol=1e-3, atol=1e-7)

    @pytest.mark.parametrize("case", [c for c in CASES if c.scalars != TAUS[2]], ids=str)
    def test_no_contrastive_loss_waits_for_the_host_and_each_is_captured(case: Case) -> None:
        form = getattr(functional, case.loss)
        given = case.inputs(64, 32, torch.Generator().manual_seed(0))
        leaves = {k: x.float().cuda().requires_grad_() if x.is_floating_point() else x.cuda() for k, x in given.items()}
        floats = [x for x in leaves.values() if x.requires_grad and x is not leaves.get("queue")]

        def step() -> tuple[torch.Tensor, ...]:
            loss = case.call(form, leaves, case.scalars)
            return (loss, *torch.autograd.grad(loss.sum(), floats, allow_unused=True))

        for _ in range(3):
            expected = step()
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = step()
        graph.replay()
        for a, b in zip(found, expected, strict=True):
            if a is not None:
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)

    BACKENDS = [
        b for b in _backend.BACKENDS if _backend.why_not("augment", b, torch.empty(1, device="cuda").byte()) is None
    ]

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_augmentation_never_waits_for_the_host_and_is_captured(backend: str) -> None:
        images = torch.randint(0, 256, (8, 3, 60, 50), dtype=torch.uint8, device="cuda")
        ragged = fastssl.RaggedImages.from_images([image[:, : 20 + i] for i, image in enumerate(images)])
        transform = transforms.DINO(32, local_size=16, local_views=2)
        seed = torch.tensor(3, device="cuda")
        with fastssl.use_backend(backend):
            for batch in (images, ragged):
                transform(batch, seed=seed)
            torch.cuda.synchronize()
            torch.cuda.set_sync_debug_mode("error")
            try:
                # The torch backend has to know the sizes of a ragged batch, and says so.
                for batch in (images, *([ragged] if backend != "torch" else [])):
                    for given in (3, seed):
                        transform(batch, seed=given)
            finally:
                torch.cuda.set_sync_debug_mode("default")
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                views = transform(images, seed=seed)
            seed.fill_(4)
            graph.replay()
            expected = transform(images, seed=4)
        assert all(torch.equal(a, b) for a, b in zip(views, expected, strict=True))
