"""The loss on masked patches as an op: its backward pass, half gradients, determinism, compilation, autocast."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from conftest import DEVICES, runnable
from masked_loss import LOSSES, check, loss_and_grad, problem
from masking_reference import TYPES, sum_type
from torch import Tensor

import fastssl
from fastssl.functional import mask_patchify, masked_mse, random_masking, restore_tokens

on_backends = pytest.mark.parametrize(("device", "backend"), runnable("masked_mse"))
on_types = pytest.mark.parametrize(
    ("dtype", "device", "backend"), [(t, *where) for t in TYPES for where in runnable("masked_mse", t)]
)


@on_types
def test_backward_twice_gives_the_same(device: str, backend: str, dtype: torch.dtype) -> None:
    pred, images, mask = problem(dtype, device)
    leaf = pred.requires_grad_()
    with fastssl.use_backend(backend):
        for factor in (1.0, 0.3):
            (expected,) = torch.autograd.grad(factor * masked_mse(leaf, images, mask, 8), leaf)
            loss = factor * masked_mse(leaf, images, mask, 8)
            for keep in (True, True, False):
                (grad,) = torch.autograd.grad(loss, leaf, retain_graph=keep)
                assert torch.equal(grad, expected)
                grad.zero_()  # a gradient is the caller's
        loss = masked_mse(leaf, images, mask, 8)
        (twice,) = torch.autograd.grad(loss + 3 * loss, leaf)
        (once,) = torch.autograd.grad(masked_mse(leaf, images, mask, 8), leaf)
        torch.testing.assert_close(twice, 4 * once)
        loss = masked_mse(leaf, images, mask, 8)
        (kept,) = torch.autograd.grad(loss, leaf, create_graph=True)
        assert torch.equal(kept, once)
        torch.autograd.grad(loss, leaf)
        with pytest.raises(RuntimeError, match="backward through the graph a second time"):
            torch.autograd.grad(loss, leaf)


@on_backends
def test_gradients_accumulate(device: str, backend: str) -> None:
    pred, images, mask = problem(device=device)
    leaf = pred.requires_grad_()
    with fastssl.use_backend(backend):
        masked_mse(leaf, images, mask, 8).backward()
        first = leaf.grad.clone()
        masked_mse(leaf, images, mask, 8).backward()
    torch.testing.assert_close(leaf.grad, 2 * first, rtol=0, atol=0)


@on_backends
def test_second_derivatives_say_no(device: str, backend: str) -> None:
    pred, images, mask = problem(device=device)
    leaf = pred.requires_grad_()
    with fastssl.use_backend(backend):
        (grad,) = torch.autograd.grad(masked_mse(leaf, images, mask, 8), leaf, create_graph=True)
        with pytest.raises(RuntimeError, match=r"masked_mse has no second derivative; use create_graph=False"):
            torch.autograd.grad(grad.square().sum(), leaf)
        loss = masked_mse(leaf, images, mask, 8)
        (grad,) = torch.autograd.grad(loss, leaf, create_graph=True)
        with pytest.raises(RuntimeError, match="no second derivative"):
            (loss + grad.norm()).backward()


@on_backends
@pytest.mark.parametrize("loss", LOSSES)
def test_half_gradients_do_not_underflow_under_a_scaler(device: str, backend: str, loss: str) -> None:
    # 200 000 numbers: gradients of 1e-5, where float16 has steps of 6e-8, before they are scaled.
    pred, images, _ = problem(torch.float16, device, n=4, side=128)
    mask = torch.ones(4, 256, device=device)
    with fastssl.use_backend(backend):
        check(pred, images[:, :, None], mask, (1, 8, 8), loss, upstream=65536.0, loss=loss)
        check(pred, images[:, :, None], mask, (1, 8, 8), loss, upstream=1.0, loss=loss)


@on_backends
def test_bit_identical_for_any_number_of_threads(device: str, backend: str) -> None:
    torch.use_deterministic_algorithms(True)
    pred, images, mask = problem(device=device, n=11, side=56)
    threads, runs = torch.get_num_threads(), []
    try:
        for count in (1, 1, 2, 2, 5):
            torch.set_num_threads(count)
            with fastssl.use_backend(backend):
                runs.append(loss_and_grad(lambda x: masked_mse(x, images, mask, 8), pred, 0.7))
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(False)
    pairs = [(0, 1), (2, 3)] if backend == "torch" else [(0, i) for i in range(1, 5)]  # PyTorch sums as it likes
    for i, j in pairs:
        assert all(torch.equal(a, b) for a, b in zip(runs[i], runs[j], strict=True)), (i, j)


@on_backends
def test_loss_without_a_gradient_is_the_same(device: str, backend: str) -> None:
    pred, images, mask = problem(device=device)
    with fastssl.use_backend(backend):
        with_grad = masked_mse(pred.requires_grad_(), images, mask, 8)
        with torch.no_grad():
            without = masked_mse(pred, images, mask, 8)
        assert torch.equal(with_grad, without)
        assert with_grad.requires_grad
        assert not without.requires_grad
        assert not masked_mse(pred.detach(), images, mask, 8).requires_grad


def test_gradcheck() -> None:
    images = torch.randn(2, 2, 4, 6, dtype=torch.float64)
    pred, mask = torch.randn(2, 6, 8, dtype=torch.float64, requires_grad=True), torch.rand(2, 6)
    ids = torch.tensor([[0, 5, -1], [2, 1, 4]])
    for loss in LOSSES:
        assert torch.autograd.gradcheck(lambda x, loss=loss: masked_mse(x, images, mask, 2, loss=loss, beta=0.4), pred)
        assert torch.autograd.gradcheck(lambda x, loss=loss: masked_mse(x[:, :3], images, ids, 2, loss=loss), pred)


@on_types
def test_opcheck(device: str, backend: str, dtype: torch.dtype) -> None:
    pred, images, mask = problem(dtype, device, side=16)
    pred, video = pred.requires_grad_(), images[:, :, None]
    weights = mask.to(sum_type(pred))
    ids = torch.tensor([[0, 3], [1, -1], [2, 2]], device=device)
    rest = ([1, 8, 8], 2, 0.5, True, True, [0.1] * 3, [0.2] * 3)
    torch.library.opcheck(torch.ops.fastssl.masked_mse.default, (pred, video, None, weights, *rest, True, backend))
    rows = pred[:, :2].detach().requires_grad_()
    torch.library.opcheck(torch.ops.fastssl.masked_mse.default, (rows, video, ids, None, *rest, True, backend))
    rows = rows.detach()
    torch.library.opcheck(torch.ops.fastssl.masked_mse.default, (rows, video, ids, None, *rest, False, backend))


def mae(images: Tensor, seed: Tensor, weight: Tensor, token: Tensor, pos: Tensor) -> Tensor:
    """A whole step of a masked autoencoder of one linear layer, tied."""
    tokens = pos.shape[0]
    masks = random_masking(images.shape[0], tokens, 0.75, seed=seed, device=images.device)
    patches, positions = mask_patchify(images, masks.ids_keep, 4, pos)
    visible = torch.tanh(F.linear(patches, weight.T) + positions)
    pred = F.linear(restore_tokens(visible, masks.ids_restore, token, pos), weight)
    return masked_mse(pred, images, masks.mask, 4, channels_last=False)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
def test_a_step_compiles_whole_with_a_dynamic_batch(device: str, compiler: str) -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(mae, fullgraph=True, backend=compiler, dynamic=True)
    shapes = ((48, 10), (10,), (16, 10))
    for n in (2, 5, 7):
        images = torch.randint(0, 256, (n, 3, 16, 16), dtype=torch.uint8, device=device)
        leaves = [torch.randn(*shape, device=device, requires_grad=True) for shape in shapes]
        results = []
        for f in (mae, compiled):
            loss = f(images, torch.tensor(n), *leaves)
            results.append((loss, *torch.autograd.grad(1.3 * loss, leaves)))
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2


@on_backends
def test_autocast(device: str, backend: str) -> None:
    pred, images, mask = problem(device=device)
    with fastssl.use_backend(backend):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            plain = loss_and_grad(lambda x: masked_mse(x, images, mask, 8), pred.to(dtype), 1.0)
            with torch.autocast(device, torch.bfloat16):
                found = loss_and_grad(lambda x: masked_mse(x, images, mask, 8), pred.to(dtype), 1.0)
            assert found[0].dtype == torch.float32
            assert all(torch.equal(a, b) for a, b in zip(found, plain, strict=True))
