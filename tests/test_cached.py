"""Gradient caching: the gradients of one step over the whole batch, its random draws, buffers and bad input."""

from __future__ import annotations

import copy
import functools
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import fastssl
from fastssl import RaggedImages, cached_step, methods, transforms
from fastssl._cached import _rows
from fastssl.reference import ntxent

loss = functools.partial(ntxent, temperature=0.3)


def mlp(dropout=0.0, norm=nn.LayerNorm, width=12):
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(10, 16), norm(16), nn.GELU(), nn.Dropout(dropout), nn.Linear(16, width))


def vit():
    torch.manual_seed(1)
    return methods.small_vit(1, 8)


def two_views(n, *shape):
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(n, *(shape or (10,)), generator=generator) for _ in range(2)]


def gradients(module):
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.requires_grad}


def one_shot(encoder, views, criterion=loss):
    encoder.zero_grad()
    value = criterion(*(encoder(view) for view in views))
    value.backward()
    return value.detach(), gradients(encoder)


def cached(encoder, views, chunk_size, criterion=loss, **kwargs):
    encoder.zero_grad()
    value = cached_step(encoder, views, criterion, chunk_size, **kwargs)
    assert value.shape == ()
    assert not value.requires_grad
    return value, gradients(encoder)


def with_its_graph(encoder, views, chunk_size, criterion=loss):
    """The same chunks in one graph: what a step means that draws numbers, or has statistics, chunk by chunk."""
    encoder.zero_grad()
    n = len(views[0])
    count = -(-n // chunk_size)
    bounds = [n * i // count for i in range(count + 1)]
    pieces = [[encoder(view[a:b]) for view in views] for a, b in itertools.pairwise(bounds)]
    value = criterion(*(torch.cat(rows) for rows in zip(*pieces, strict=True)))
    value.backward()
    return value.detach(), gradients(encoder)


def assert_near_exact(found, eager, exact, dtype=torch.float32):
    """|cached - exact| <= 2 |one step - exact| + a few roundings, for the loss and the gradient of every parameter."""
    (value, grads), (eager_value, eager_grads), (exact_value, exact_grads) = found, eager, exact
    floor = 4 * torch.finfo(dtype).eps
    assert (value - exact_value).abs() <= 2 * (eager_value - exact_value).abs() + floor * exact_value.abs()
    for name, x in exact_grads.items():
        # A gradient that is exactly 0, of a bias before a softmax, is only small beside the others.
        size = max(x.norm().item(), 1e-2 * max(g.norm().item() for g in exact_grads.values()))
        assert (grads[name] - x).norm() <= 2 * (eager_grads[name] - x).norm() + floor * size, name


def assert_same(found, wanted):
    """The same draws and chunks give the same loss to the bit, and gradients but for the order of their sums."""
    assert torch.equal(found[0], wanted[0])
    assert found[1].keys() == wanted[1].keys()
    largest = max(g.abs().max() for g in wanted[1].values()).item()
    for name, grad in wanted[1].items():
        torch.testing.assert_close(found[1][name], grad, rtol=1e-5, atol=1e-6 * largest)


@pytest.mark.parametrize("chunk_size", [1, 5, 12, 100])
@pytest.mark.parametrize(("make", "shape"), [(mlp, (10,)), (vit, (1, 8, 8))])
def test_gradients_are_those_of_one_step(make, shape, chunk_size):
    encoder, views = make(), two_views(13, *shape)
    exact = one_shot(copy.deepcopy(encoder).double(), [view.double() for view in views])
    assert_near_exact(cached(encoder, views, chunk_size), one_shot(encoder, views), exact)


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 40), chunk_size=st.integers(1, 50), count=st.integers(1, 3))
def test_gradients_of_any_size_and_number_of_views(n, chunk_size, count):
    encoder = mlp().double()
    views = [torch.randn(n, 10, dtype=torch.float64) for _ in range(count)]
    (value, grads), (one_value, one_grads) = (
        step(encoder, views, criterion=lambda *z: torch.cat(z).logsumexp(1).square().mean())
        for step in (functools.partial(cached, chunk_size=chunk_size), one_shot)
    )
    torch.testing.assert_close(value, one_value)
    for name, grad in one_grads.items():
        torch.testing.assert_close(grads[name], grad)


def test_gradients_add_up_like_backward():
    encoder, views = mlp(), two_views(9)
    _, once = cached(encoder, views, 4)
    cached_step(encoder, views, loss, 4)
    for name, grad in gradients(encoder).items():
        torch.testing.assert_close(grad, 2 * once[name])


def test_the_fused_loss_and_its_learnt_temperature():
    encoder, views = mlp(), two_views(20)
    temperatures = [nn.Parameter(torch.tensor(0.2)) for _ in range(2)]
    found = cached(encoder, views, 6, fastssl.NTXentLoss(temperatures[0]))
    wanted = one_shot(encoder, views, fastssl.NTXentLoss(temperatures[1]))
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(temperatures[0].grad, temperatures[1].grad)
    assert temperatures[0].grad != 0


def test_a_view_that_the_loss_leaves_alone():
    encoder, views = mlp(), two_views(9)
    assert_same(
        cached(encoder, views, 4, lambda z0, z1: (z0 - z1.detach()).square().mean()),
        with_its_graph(encoder, views, 4, lambda z0, z1: (z0 - z1.detach()).square().mean()),
    )


def test_chunks_are_of_equal_size():
    encoder, views, sizes = mlp(), two_views(65), []
    encoder.register_forward_hook(lambda module, args, out: sizes.append(len(args[0])))
    cached_step(encoder, views, loss, 64)
    assert sizes == [32, 32, 33, 33] * 2


def test_dropout_is_the_same_in_both_passes():
    encoder, views = mlp(dropout=0.4), two_views(30)
    results = []
    for step in (cached, with_its_graph, cached):
        torch.manual_seed(5 + len(results) // 2)
        results.append(step(encoder, views, 8))
    assert_same(results[0], results[1])
    assert results[2][0] != results[0][0]  # of another seed


def test_draws_go_on_after_the_step():
    """Those of the loss are not repeated by the next step, nor are those of the encoder."""
    encoder, views = mlp(dropout=0.4), two_views(12)

    def noisy(z0, z1):
        return loss(z0 + 0.1 * torch.randn_like(z0), z1)

    after = []
    for step in (cached, with_its_graph):
        torch.manual_seed(3)
        step(encoder, views, 5, noisy)
        after.append(torch.get_rng_state())
    assert torch.equal(*after)


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype, cache):
    """Before 2.11 PyTorch keeps weights cast without a graph, which would end the second pass's gradients at them."""
    encoder, views = mlp(dropout=0.1), two_views(30)
    outputs = []
    encoder.register_forward_hook(lambda module, args, out: outputs.append(out.dtype))
    results = []
    for step, cache_enabled in ((cached, cache), (with_its_graph, False)):
        torch.manual_seed(5)
        with torch.autocast("cpu", dtype, cache_enabled=cache_enabled):
            results.append(step(encoder, views, 8))
            assert torch.is_autocast_enabled("cpu")
            assert torch.is_autocast_cache_enabled() == cache_enabled
    assert set(outputs) == {dtype}
    assert not torch.is_autocast_enabled("cpu")
    (value, grads), (wanted, wanted_grads) = results
    assert torch.equal(value, wanted)
    for name, grad in wanted_grads.items():
        assert (grads[name] - grad).norm() <= torch.finfo(dtype).eps * grad.norm(), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_scaler_gets_the_gradients_that_it_expects(dtype):
    encoder, views = mlp(), two_views(24)
    before = [p.detach().clone() for p in encoder.parameters()]
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.1)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        value, grads = cached(encoder, views, 7)
        scaled_value, scaled = cached(encoder, views, 7, scaler=scaler)
    assert torch.equal(scaled_value, value)  # not scaled
    for name, grad in grads.items():
        assert torch.equal(scaled[name], 2.0**16 * grad)  # a power of two costs no bit
    scaler.step(optimizer)
    scaler.update()
    for p, x, grad in zip(encoder.parameters(), before, grads.values(), strict=True):
        torch.testing.assert_close(p.detach(), x - 0.1 * grad)
    for p in encoder.parameters():
        p.grad[...] = float("inf")
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 2.0**15


def digits(n):
    return torch.randint(0, 256, (n, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(4))


def test_augmentation_goes_by_chunks_and_makes_the_same_views_again():
    torch.manual_seed(0)
    method, images, seen = methods.SimCLR(methods.small_resnet(1, 8)), digits(40), []
    parameters = dict(method.named_parameters())

    def augment(chunk):
        seen.append(method.augment(chunk))
        return seen[-1]

    torch.manual_seed(6)
    value = cached_step(method.project, images, method.criterion, 16, augment=augment)
    grads = gradients(method)
    first, second = seen[:3], seen[3:]
    assert [len(views[0]) for views in seen] == [13, 13, 14] * 2
    for a, b in zip(first, second, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert not torch.equal(first[0][0], first[1][0])  # chunks have draws of their own
    method.zero_grad()
    z = [torch.cat([method.project(views[i]) for views in first]) for i in range(2)]
    wanted = method.criterion(*z)
    wanted.backward()
    assert torch.equal(value, wanted)
    for name, p in parameters.items():
        torch.testing.assert_close(grads[name], p.grad, rtol=1e-4, atol=1e-6)


def test_chunks_of_ragged_images():
    rows = [torch.randint(0, 256, (3, 5 + i, 9 - i), dtype=torch.uint8) for i in range(6)]
    batch = RaggedImages.from_images(rows)
    shuffled = RaggedImages(batch.pixels, batch.extents[[4, 0, 3, 1, 5, 2]], 3)
    for images in (batch, shuffled):
        for part in (slice(0, 2), slice(2, 6), slice(1, 2)):
            chunk = _rows(images, part)
            assert len(chunk) == part.stop - part.start
            for i in range(len(chunk)):
                assert torch.equal(chunk[i], images[part.start + i])
    assert _rows(batch, slice(0, 2)).pixels.numel() == sum(row.numel() for row in rows[:2])
    encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(4))
    transform = transforms.SimCLR(8)
    values = []
    for images in (batch, rows):  # a list of images is a batch, too
        torch.manual_seed(7)
        values.append(cached(encoder, images, 2, augment=transform)[0])
    assert torch.equal(*values)


def assert_same_buffers(a, b):
    for (name, x), (_, y) in zip(a.named_buffers(), b.named_buffers(), strict=True):
        assert torch.equal(x, y), name


class Holder(nn.Module):
    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def embed(self, view):
        return self.encoder(view)


CALLS = {
    "module": lambda encoder: encoder,
    "method": lambda encoder: Holder(encoder).embed,
    "function": lambda encoder: lambda view: encoder(view),
    "partial": lambda encoder: functools.partial(lambda module, view: module(view), encoder),
}


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("call", CALLS)
def test_running_statistics_change_once_a_chunk(call, momentum):
    encoder = mlp(norm=functools.partial(nn.BatchNorm1d, momentum=momentum))
    other, views = copy.deepcopy(encoder), two_views(13)
    value = cached_step(CALLS[call](encoder), views, loss, 5)
    assert_same((value, gradients(encoder)), with_its_graph(other, views, 5))
    assert_same_buffers(encoder, other)
    assert encoder[1].num_batches_tracked == 6
    assert encoder.training


@pytest.mark.parametrize("norm", [lambda d: nn.BatchNorm1d(d).eval(), lambda d: nn.GroupNorm(4, d)])
def test_norms_without_the_batch_make_no_difference(norm):
    encoder, views = mlp(norm=norm), two_views(13)
    before = copy.deepcopy(encoder)
    exact = one_shot(copy.deepcopy(encoder).double(), [view.double() for view in views])
    assert_near_exact(cached(encoder, views, 5), one_shot(encoder, views), exact)
    assert_same_buffers(encoder, before)


def test_both_passes_start_from_the_same_buffers():
    """Spectral norm moves on at every forward pass, and embeddings with it; a module may replace a buffer, too."""

    class Drift(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("scale", torch.ones(()))

        def forward(self, x):
            self.scale = self.scale * 1.25
            return x * self.scale

    encoder, views = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(10, 6)), Drift()), two_views(9)
    outputs = []
    encoder.register_forward_hook(lambda module, args, out: outputs.append(out.detach()))
    cached_step(encoder, views, lambda z0, z1: (z0 * z1).sum(), 3)
    assert len(outputs) == 12
    assert all(torch.equal(a, b) for a, b in zip(outputs[:6], outputs[6:], strict=True))
    assert encoder[1].scale == 1.25**6


@pytest.mark.parametrize(
    ("kwargs", "error", "says"),
    [
        ({"chunk_size": 0}, ValueError, "chunk_size: got 0, want an int >= 1"),
        ({"chunk_size": 2.0}, ValueError, "chunk_size: got 2.0, want an int >= 1"),
        ({"chunk_size": True}, ValueError, "chunk_size: got True, want an int >= 1"),
        ({"encoder": 5}, TypeError, "encoder: got int, want a module or a function"),
        ({"loss": 5}, TypeError, "loss: got int, want a module or a function"),
        ({"augment": 5}, TypeError, "augment: got int, want a module or a function"),
        ({"scaler": 5}, TypeError, "scaler: got int, want a torch.amp.GradScaler"),
        ({"batch": torch.ones(4, 10)}, TypeError, r"batch: got Tensor, want a list of views \[N, ...\], or `augment`"),
        ({"batch": [1, 2]}, TypeError, r"batch: got list, want a list of views"),
        ({"batch": []}, ValueError, "batch: got 0 rows, want at least 1"),
        ({"batch": [torch.ones(0, 10)] * 2}, ValueError, "batch: got 0 rows, want at least 1"),
        ({"batch": [torch.ones(4, 10), torch.ones(3, 10)]}, ValueError, r"batch: got views of \[4, 3\] rows, want as"),
        ({"batch": 5, "augment": list}, TypeError, "batch: got int, want images: a tensor"),
        ({"batch": torch.ones(4, 10), "augment": lambda x: x}, TypeError, "augment: got a result of Tensor, want a li"),
        ({"augment": lambda x: []}, ValueError, r"augment: got views of \[\] rows, want 2 in each"),
        ({"augment": lambda x: [torch.ones(3, 10)]}, ValueError, r"augment: got views of \[3\] rows, want 2 in each"),
        ({"encoder": lambda x: x}, ValueError, "encoder: got embeddings without gradient, want some parameter"),
        ({"encoder": lambda x: x[None]}, ValueError, r"encoder: got an output of shape \(1, 2, 10\) for 2 rows, want"),
        ({"encoder": lambda x: x[:1]}, ValueError, r"encoder: got an output of shape \(1, 10\) for 2 rows, want emb"),
        (
            {"encoder": lambda x: [x]},
            ValueError,
            r"encoder: got an output of list for 2 rows, want embeddings \[2, d\]",
        ),
        ({"loss": lambda *z: z[0].sum(1)}, ValueError, r"loss: got a result of shape \(4,\), want a 0-d tensor"),
        ({"loss": lambda *z: 1.0}, ValueError, "loss: got a result of float, want a 0-d tensor"),
        ({"loss": lambda *z: z[0].detach().sum()}, ValueError, "loss: got a result without gradient, want one that"),
    ],
)
def test_bad_input(kwargs, error, says):
    encoder = mlp(norm=nn.BatchNorm1d)
    before = copy.deepcopy(encoder)
    arguments = {"encoder": encoder, "batch": two_views(4), "loss": loss, "chunk_size": 2, **kwargs}
    with pytest.raises(error, match=says):
        cached_step(**arguments)
    assert all(p.grad is None for p in encoder.parameters())
    assert_same_buffers(encoder, before)


def test_no_gradient_is_wanted_from_a_frozen_encoder_or_mode():
    encoder, views = mlp(), two_views(4)
    for mode in (torch.no_grad(), torch.inference_mode()):
        with (
            mode,
            pytest.raises(ValueError, match=r"encoder: got embeddings without gradient, .* no torch.no_grad\(\)"),
        ):
            cached_step(encoder, views, loss, 2)
    with pytest.raises(ValueError, match="encoder: got embeddings without gradient"):
        cached_step(encoder.requires_grad_(False), views, loss, 2)
